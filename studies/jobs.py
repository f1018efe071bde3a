"""The runs of a study: processes of one thread, several side by side. Finished ones are left out by
the caller, and interrupted ones continue.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passl.distributed.launcher import end_with_parent
from passl.engine.metrics import METRICS, read_metrics
from passl.engine.run_folder import CONFIG
from passl.errors import EXIT_STOPPED, ConfigError, RunError, Stopped
from passl.io.files import to_json
from passl.utils.config import dotted, get_config, leaves, storable
from passl.utils.paths import escaped
from passl.utils.yaml import read

ROOT = Path(__file__).resolve().parents[1]
_PLACES = ("output_dir", "pretrained", "dataroot")
"""Keys that say where files are, not what is trained."""


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
            if keys[-1] not in _PLACES and stored.get(keys) != value:
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
        Stopped: one was asked to stop, and has saved its state.
        RunError: one has failed. Those that run go on to their end, no other is started.
    """
    logs.mkdir(parents=True, exist_ok=True)
    pool, start = ThreadPoolExecutor(count), time.monotonic()
    try:
        futures = [pool.submit(_run, name, commands[name], logs) for name in commands]
        for done, future in enumerate(as_completed(futures), 1):
            minutes = (time.monotonic() - start) / 60
            print(f"{done} of {len(futures)}, {minutes:.0f} min: {future.result()}", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _run(name: str, command: Sequence[str], logs: Path) -> str:
    path = logs / f"{name}.txt"
    with path.open("w") as log:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # One thread each: with networks this small two runs side by side are faster than one.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=end_with_parent,
        )
    if done.returncode == EXIT_STOPPED:
        raise Stopped(f"a signal to the run {name}")
    if done.returncode:
        raise RunError(f"{name} has failed with exit code {done.returncode}: {path} says why")
    return name


def unfinished(runs: Mapping[str, Training]) -> Iterator[tuple[str, Sequence[str]]]:
    """Name and command of each run that is not finished."""
    for name, run in runs.items():
        if run.result() is None:
            yield name, run.command
