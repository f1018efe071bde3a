"""Start the processes of one machine, watch them, end them together, and start them again.

docs/distributed.md compares this launcher with Paddle's and mpirun. The ranks themselves notice
that another one is gone, here or on another machine (`liveness.py`).

Exit codes of a run: 0, done; 2, wrong call or config; 75, stopped by a signal with its state saved;
anything else, failed.
"""

from __future__ import annotations

import ctypes
import math
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from passl.distributed.environment import LOOPBACK, MASTER, PORTS, SECRET
from passl.errors import EXIT_STOPPED, EXIT_WRONG_CALL, ConfigError
from passl.io.shared_memory import remove_leftovers

_POLL = 0.1
_SETTLE = 10.0
"""Seconds in which the ranks that are left end by themselves after a failure, and say why."""
_TAIL = 8192
"""Bytes of a failed rank's log that are shown."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


@dataclass(frozen=True)
class Job:
    """The processes to start on this machine.

    Args:
        command: of every process.
        processes: number of processes on this machine.
        logs: folder for the output of all processes but this machine's first, which keeps the
            launcher's stdout and stderr.
        machines: number of machines, each with a launcher and as many processes.
        machine: index of this machine, from 0; rank 0 runs on machine 0.
        master: HOST:PORT where rank 0 listens; null takes a free port of this machine.
        grace: seconds in which processes save their state after a signal.
        checkpoint: a file that changes when the run makes progress; null for none.
    """

    command: Sequence[str]
    processes: int
    logs: Path
    machines: int = 1
    machine: int = 0
    master: str | None = None
    grace: float = 60.0
    checkpoint: Path | None = None

    def environment(self, local_rank: int, master: str) -> dict[str, str]:
        """The variables of Paddle's launcher for one process."""
        return {
            "PADDLE_TRAINER_ID": str(self.machine * self.processes + local_rank),
            "PADDLE_TRAINERS_NUM": str(self.machines * self.processes),
            "PADDLE_LOCAL_RANK": str(local_rank),
            "PADDLE_LOCAL_SIZE": str(self.processes),
            "PADDLE_NNODES": str(self.machines),
            MASTER: master,
        }


def launch(job: Job, restarts: int = 0, waits: Sequence[float] = (5.0, 10.0, 20.0)) -> int:
    """Run the job, and after a failure again with `--resume auto`. This process's SIGTERM and
    SIGINT stop the job from now on; a second signal kills it.

    Args:
        restarts: how often at most without a new checkpoint in between. There is none after a
            wrong config, nor after a stop.
        waits: seconds before the first restart, the second, and so on; the last one holds for all
            that follow.

    Returns:
        The exit code: 0 if all processes returned it; else that of the process that failed first,
        or 128 plus the number of the signal that ended it.
    """
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: received.append(number))
    command, failures = job.command, 0
    while True:
        before = _written_at(job.checkpoint)
        code = _run(job, received)
        if _written_at(job.checkpoint) != before:
            failures = 0
        if code in (0, EXIT_WRONG_CALL, EXIT_STOPPED) or received or failures == restarts:
            return code
        wait = waits[min(failures, len(waits) - 1)]
        failures += 1
        _say(f"restart {failures} of {restarts} in {wait:g} s, with --resume auto")
        end = time.monotonic() + wait
        while time.monotonic() < end:
            if received:
                return code
            time.sleep(min(_POLL, wait))
        job = replace(job, command=[*command, "--resume", "auto"])  # the last --resume counts


def free_port() -> int:
    """A port on which nobody listens. It is not reserved until rank 0 listens there, seconds later,
    but systems choose ports from another range, so only a process that asks for this number can
    take it.
    """
    for port in random.SystemRandom().sample(PORTS, 100):
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("", port))
            return port
    raise ConfigError(f"no free port between {PORTS[0]} and {PORTS[-1]}; give one by --master")


def _written_at(checkpoint: Path | None) -> int | None:
    with suppress(OSError):
        return None if checkpoint is None else checkpoint.stat().st_mtime_ns
    return None


def _run(job: Job, received: Sequence[int]) -> int:
    master = job.master or f"{LOOPBACK}:{free_port()}"
    secret = {SECRET: secrets.token_hex()} if job.machines == 1 else {}
    ranks: list[_Rank] = []
    try:
        for local_rank in range(job.processes):
            environ = {**secret, **os.environ, **job.environment(local_rank, master)}
            log = job.logs / f"rank_{environ['PADDLE_TRAINER_ID']}.log" if local_rank else None
            ranks.append(_Rank(job.command, environ, log))
        return _judge(_watch(ranks, received, job.grace), ranks)
    finally:
        for rank in ranks:
            rank.kill_group()
        remove_leftovers()


def _watch(ranks: Sequence[_Rank], received: Sequence[int], grace: float) -> list[_Rank]:
    """Wait until all have ended, or those that still run have had their time.

    Returns:
        The ranks that have ended, in that order.
    """
    ended: list[_Rank] = []
    is_stopping, deadline = False, math.inf
    while len(ended) < len(ranks) and time.monotonic() < deadline and len(received) < 2:
        time.sleep(_POLL)
        now = time.monotonic()
        new = [rank for rank in ranks if rank not in ended and rank.poll() is not None]
        for rank in sorted(new, key=lambda rank: rank.returncode):  # ended by a signal: negative
            rank.kill_group()  # its loader's workers hold its connections to the other ranks
            ended.append(rank)
        if received and not is_stopping:
            is_stopping = True
            _say(f"stopping {len(ranks)} process(es), which have {grace:g} s for it")
            for rank in ranks:
                rank.terminate()  # not its workers, which it ends itself
        if is_stopping or any(rank.returncode == EXIT_STOPPED for rank in ended):
            deadline = min(deadline, now + grace)
        if any(rank.has_failed for rank in ended):
            deadline = min(deadline, now + _SETTLE)
    return ended


def _judge(ended: Sequence[_Rank], ranks: Sequence[_Rank]) -> int:
    """Report how the ranks ended, and return the exit code of them all. A wrong config explains
    what other ranks failed of; else the first failure does.
    """
    for rank in ended:
        if rank.returncode:
            _say(f"rank {rank.number} (process {rank.pid}) {_outcome(rank.returncode)}")
    running = [rank.number for rank in ranks if rank not in ended]
    if running:
        _say(f"ending what still runs: rank {', '.join(running)}")
    failed = [rank for rank in ended if rank.has_failed]
    wrong = [rank for rank in failed if rank.returncode == EXIT_WRONG_CALL]
    for rank in wrong[:1] or failed:  # all ranks report the same wrong config
        rank.show_log()
    if failed:
        code = (wrong or failed)[0].returncode
        return code if code > 0 else 128 - code
    if running:
        return 128 + signal.SIGKILL
    return EXIT_STOPPED if any(rank.returncode for rank in ended) else 0


def _outcome(code: int) -> str:
    if code < 0:
        return f"was killed by signal {-code} ({signal.strsignal(-code)})"
    return f"returned {code}"


class ProcessGroup(subprocess.Popen):
    """A process in a group of its own with all that it starts, so that Ctrl-C in a terminal does
    not reach it. It gets SIGTERM when its parent ends.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        stdout: Any = None,
        stderr: Any = None,
    ):
        self._is_killed = False
        super().__init__(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    def kill_group(self) -> None:
        """Kill it and all that it started, once: its number may be another group's later."""
        if not self._is_killed:
            self._is_killed = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self.wait()


class _Rank(ProcessGroup):
    """One process of a job."""

    def __init__(self, command: Sequence[str], environ: dict[str, str], log: Path | None):
        self.number, self.log, self._log_start = environ["PADDLE_TRAINER_ID"], log, 0
        with ExitStack() as opened:
            output = None
            if log is not None:
                log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                output = opened.enter_context(open(log, "ab", opener=_open_for_owner))
                self._log_start = output.tell()
            super().__init__(command, env=environ, stdout=output, stderr=output)

    @property
    def has_failed(self) -> bool:
        return self.returncode not in (None, 0, EXIT_STOPPED)

    def show_log(self) -> None:
        """Print the end of its output, if that went to a file."""
        if self.log is None:
            return
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, self.log.stat().st_size - _TAIL))
            text = file.read().decode(errors="replace")
        _say(f"the end of {self.log}:\n{text.rstrip()}")


def _open_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _end_with_parent() -> None:
    """Let the system send this new process SIGTERM when the one that started it ends, even by
    SIGKILL. (On Linux; other systems do nothing.)
    """
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _say(text: str) -> None:
    sys.stderr.write(f"launch: {text}\n")
    sys.stderr.flush()
