"""Runs each probe in processes of its own: one that fails, crashes or hangs does not end the
others.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import passl
from passl.check.facts import GPUS
from passl.check.probes import FACTS, PROBES, Probe
from passl.distributed.environment import LOOPBACK
from passl.distributed.launcher import Job, ProcessGroup, free_port
from passl.errors import ConfigError
from passl.logging import printable

_POLL = 0.05
_SETTLE = 20.0
"""Seconds in which the ranks that are left end by themselves after one has failed, and say why."""
_LAST_WORDS = 5.0
"""Seconds in which a process that has hung prints where."""
_SHOWN = 20_000
"""Characters of the output of a process that are kept, its end."""
NOT_REACHED = "the check was ended before"


@dataclass(frozen=True)
class Plan:
    """What to run.

    Args:
        names: of probes, in order; `FACTS` is among them.
        device: `auto`, `cpu` or `gpu`.
        quick: whether probes do less.
        timeout: seconds for each probe.
        probes: what the names mean.
    """

    names: Sequence[str]
    device: str = "auto"
    quick: bool = False
    timeout: float = 900.0
    probes: Mapping[str, Probe] | None = None


def run_all(
    plan: Plan, ended: Callable[[list[dict[str, Any]], list[dict[str, Any]]], object]
) -> list[dict[str, Any]]:
    """Run the probes, one after another.

    On a machine without a GPU they run on the CPU, and each has a second outcome, for a GPU, that
    is `not run`.

    Args:
        ended: called when a probe has ended, with its outcomes and those of all probes, in which
            the ones to come are `not run`.

    Returns:
        For each probe and device: `probe`, `device`, `status` (`passed`, `failed`, `measured` or
        `not run`) and `seconds`; `rows` and `table` of its findings, or `reason` or `error`; and
        `output`, what its processes printed, if it failed.

    Raises:
        ConfigError: a GPU is asked for, and there is none.
    """
    probes, done, gpus = plan.probes or PROBES, [], None
    for place, name in enumerate(plan.names, 1):
        if name == FACTS:
            found = [_run(name, probes[name], "cpu", plan) | {"device": "-"}]
            gpus = _gpus(found[0])
            if plan.device == "gpu" and gpus == 0:
                raise ConfigError(
                    "--device gpu: this machine has none that Paddle can use; leave it out"
                )
        else:
            found = _on_devices(name, probes[name], plan, gpus)
        done += found
        rest = [_not_run(other, "-", NOT_REACHED) for other in plan.names[place:]]
        ended(found, [*done, *rest])
    return done


def _on_devices(name: str, probe: Probe, plan: Plan, gpus: int | None) -> list[dict[str, Any]]:
    """The outcomes of a probe, on a CPU and on a GPU; null for `gpus`: their number is unknown."""
    if gpus is None:
        reason = f"{FACTS} has failed, so it is not known whether there is a GPU"
    elif gpus == 0:
        reason = "no GPU that Paddle can use"
    elif plan.device == "cpu":
        reason = "--device cpu"
    elif gpus < probe.processes:
        reason = f"{probe.processes} GPUs are needed, there is {gpus}"
    else:
        return [_run(name, probe, "gpu", plan)]
    return [_run(name, probe, "cpu", plan), _not_run(name, "gpu", reason)]


def _run(name: str, probe: Probe, device: str, plan: Plan) -> dict[str, Any]:
    """Run a probe on a device."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="passl-check-") as work:
        outcome = _outcome(probe, device, plan, Path(work))
    seconds = round(time.monotonic() - start, 1)
    return {"probe": name, "device": device, "seconds": seconds, **outcome}


def _not_run(name: str, device: str, reason: str) -> dict[str, Any]:
    return {"probe": name, "device": device, "seconds": 0.0, "status": "not run", "reason": reason}


def _outcome(probe: Probe, device: str, plan: Plan, work: Path) -> dict[str, Any]:
    """Start the processes of a probe, wait for them, and read what they have written."""
    job = Job([], probe.processes, work)
    master = f"{LOOPBACK}:{free_port()}" if probe.processes > 1 else ""
    ranks, results, outputs = [], [], []
    with ExitStack() as opened:
        for rank in range(probe.processes):
            folder = work / f"rank_{rank}"
            folder.mkdir()
            results.append(work / f"result_{rank}.json")
            outputs.append(work / f"output_{rank}.txt")
            task = {
                "function": probe.function,
                "device": device,
                "folder": str(folder),
                "quick": plan.quick,
                "result": str(results[-1]),
            }
            command = [sys.executable, "-u", "-m", "passl.check.child", json.dumps(task)]
            place = job.environment(rank, master) if probe.processes > 1 else {}
            stream = opened.enter_context(outputs[-1].open("wb"))
            variables = {**os.environ, **probe.environment, **place, **_python_path()}
            ranks.append(ProcessGroup(command, variables, stream, stream))
            opened.callback(ranks[-1].kill_group)
        hung = _wait(ranks, plan.timeout)
    found = [
        _read(path) or _without_result(rank) for path, rank in zip(results, ranks, strict=True)
    ]
    if hung:
        text = f"it was ended after its time limit of {plan.timeout:g} s"
        found[0] = {"status": "failed", "error": text}
    worst = _worst(found)
    if worst["status"] == "failed":
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in outputs]
        worst["output"] = "\n".join(_named(rank, text, texts) for rank, text in enumerate(texts))
    return worst


def _wait(ranks: Sequence[ProcessGroup], timeout: float) -> bool:
    """Wait until all processes have ended. If one fails, the others have a moment to end too.

    Returns:
        Whether the time was up. The processes then print where they are, and are killed.
    """
    end = failed_by = time.monotonic() + timeout
    while (running := [rank for rank in ranks if rank.poll() is None]) and time.monotonic() < min(
        end, failed_by
    ):
        time.sleep(_POLL)
        if failed_by == end and any(rank.returncode for rank in ranks):
            failed_by = min(end, time.monotonic() + _SETTLE)
    hung = bool(running) and time.monotonic() >= end
    for rank in running:
        rank.send_signal(signal.SIGABRT)  # faulthandler prints all threads
    deadline = time.monotonic() + _LAST_WORDS
    while any(rank.poll() is None for rank in running) and time.monotonic() < deadline:
        time.sleep(_POLL)
    for rank in ranks:
        rank.kill_group()
    return hung


def _read(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def _without_result(rank: ProcessGroup) -> dict[str, Any]:
    """The outcome of a process that has ended without one."""
    code = rank.returncode
    text = f"its process ended with code {code}"
    if code is not None and code < 0:
        text = f"its process was killed by signal {-code} ({signal.strsignal(-code)})"
    return {"status": "failed", "error": text}


def _worst(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The outcome that counts: of the rank that has failed of itself, else one that failed because
    another was gone, else that of rank 0.
    """
    failed = [outcome for outcome in found if outcome["status"] == "failed"]
    own = [outcome for outcome in failed if outcome.get("kind") != "RunError"]
    return {key: value for key, value in (own or failed or found)[0].items() if key != "kind"}


def _named(rank: int, text: str, texts: Sequence[str]) -> str:
    """The end of the output of a process, without control characters and home folders."""
    lines = "\n".join(map(printable, text.strip()[-_SHOWN:].splitlines()))
    lines = lines.replace(str(Path.home()), "~")
    return f"rank {rank}:\n{lines}\n" if len(texts) > 1 else lines


def _gpus(outcome: Mapping[str, Any]) -> int | None:
    """The number of GPUs that `facts` has found; null if it has failed before."""
    values = [row["value"] for row in outcome.get("rows", ()) if row["name"] == GPUS]
    return values[0] if values else None


def _python_path() -> dict[str, str]:
    """The variable by which a child finds this package."""
    root = str(Path(passl.__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}
