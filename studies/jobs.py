"""The runs of a study: processes of one thread, several side by side. Finished ones are left out by
the caller, and interrupted ones continue.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passl.distributed.launcher import ProcessGroup
from passl.engine.metrics import METRICS, read_metrics
from passl.engine.run_folder import CONFIG
from passl.engine.signals import StopRequest
from passl.errors import EXIT_STOPPED, ConfigError, RunError, Stopped
from passl.io.files import to_json
from passl.utils.config import dotted, get_config, leaves, storable
from passl.utils.paths import escaped
from passl.utils.yaml import read

ROOT = Path(__file__).resolve().parents[1]
_IGNORED = {"output_dir", "pretrained", "dataroot", "download", "checkpoint", "log_config"}
"""Keys that do not say what is trained."""
_POLL = 0.2
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class Training:
    """A training run.

    Args:
        folder: of the run.
        config: the file.
        overrides: of the file.
    """

    folder: Path
    config: Path
    overrides: Sequence[str]

    @property
    def options(self) -> list[str]:
        return [*self.overrides, f"output_dir={path_value(self.folder)}"]

    @property
    def command(self) -> list[str]:
        """The process that trains, or continues."""
        tool = ROOT / "tools" / "train.py"
        config = ["-c", str(self.config), "-o", *self.options]
        return [sys.executable, str(tool), *config, "--resume", "auto"]

    def result(self) -> dict[str, Any] | None:
        """The metrics of the last evaluation; null for a run that is not finished.

        Raises:
            ConfigError: the folder has a run with other settings.
        """
        if not (self.folder / CONFIG).exists():
            return None
        cfg = get_config(self.config, self.options)
        stored = dict(leaves(read(self.folder / CONFIG)[0]))
        for keys, value in leaves(storable(cfg)):
            if _IGNORED.isdisjoint(keys) and stored.get(keys) != value:
                raise ConfigError(
                    f"{self.folder}: the run there has {dotted(keys)} {stored.get(keys)!r}, the "
                    f"study now {value!r}; choose another folder by --runs"
                )
        if not (self.folder / METRICS).exists():
            return None
        rows = [row for row in self.rows("val") if row["epoch"] == cfg.epochs]
        return rows[-1] if rows else None

    def rows(self, phase: str) -> list[dict[str, Any]]:
        """The rows of metrics of a phase, `train` or `val`."""
        return [row for row in read_metrics(self.folder) if row["phase"] == phase]


def path_value(path: Path) -> str:
    """A path as the value of an override."""
    return to_json(escaped(str(path)))


def run_side_by_side(commands: Mapping[str, Sequence[str]], count: int, logs: Path) -> None:
    """Run processes, `count` at a time, one thread each.

    Args:
        commands: of each process, by its name.
        logs: the folder of what they print, a file for each.

    Raises:
        SystemExit: this process, or one of them, was asked to stop; they have saved their state.
        RunError: one has failed; the others have saved their state.
    """
    logs.mkdir(parents=True, exist_ok=True)
    try:
        _run_all(commands, count, logs)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same call continues", file=sys.stderr)
        sys.exit(EXIT_STOPPED)


def _run_all(commands: Mapping[str, Sequence[str]], count: int, logs: Path) -> None:
    waiting, running = deque(commands), {}
    start = time.monotonic()
    with StopRequest() as stop:
        try:
            while waiting or running:
                stop.check()
                while waiting and len(running) < count:
                    name = waiting.popleft()
                    running[name] = _started(commands[name], logs / f"{name}.txt")
                time.sleep(_POLL)
                for name in [name for name in running if running[name].poll() is not None]:
                    _check(name, running.pop(name).returncode, logs)
                    done = len(commands) - len(waiting) - len(running)
                    minutes = (time.monotonic() - start) / 60
                    print(f"{done} of {len(commands)}, {minutes:.0f} min: {name}", flush=True)
        finally:
            _end(running.values())


def _started(command: Sequence[str], log: Path) -> ProcessGroup:
    # One thread each: with networks this small two runs side by side are faster than one.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        return ProcessGroup(command, stdout=output, stderr=output, env=environment)


def _check(name: str, code: int, logs: Path) -> None:
    if code == EXIT_STOPPED:
        raise Stopped(f"a signal to the run {name}")
    if code:
        raise RunError(f"{name} has failed with exit code {code}: {logs / name}.txt says why")


def _end(processes: Iterable[ProcessGroup]) -> None:
    """Ask processes to stop, and wait until they have saved their state."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait()
        finally:
            process.kill_group()
