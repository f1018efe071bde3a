"""Runs measurements in processes of their own: each starts with the same memory and cold caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passl.errors import ConfigError, RunError

OURS = Path(__file__).with_name("ours.py")
THEIRS = Path(__file__).with_name("theirs.py")


def measure_in_child(
    script: Path,
    task: Mapping[str, Any],
    threads: int = 1,
    cpu: int | None = None,
    python: str | Path = sys.executable,
) -> dict[str, Any]:
    """Run a task by a script of `benchmarks`, and return its result.

    Args:
        script: takes the task as JSON and prints the result as JSON on its last line.
        task: see the script.
        threads: of its libraries.
        cpu: the only processor that it may use; null for all.
        python: its interpreter.

    Raises:
        RunError: it failed; the message is its last one.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **{name: str(threads) for name in names}}
    text = json.dumps({**task, "threads": threads, "cpu": cpu})
    done = subprocess.run(
        [str(python), str(script), text],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        raise RunError(f"killed by signal {-done.returncode}")
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise RunError(lines[-1].removeprefix("error: ") if lines else f"exit {done.returncode}")
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise RunError(f"{script.name} printed no result") from None


def check_cpu(cpu: int | None) -> None:
    """Check whether a measurement can be bound to a processor.

    Raises:
        ConfigError: it may not be used, or this operating system does not bind processes.
    """
    if cpu is None:
        return
    if not hasattr(os, "sched_getaffinity"):
        raise ConfigError(
            f"--cpu {cpu}: this operating system does not bind processes; leave it out"
        )
    usable = sorted(os.sched_getaffinity(0))
    if cpu not in usable:
        raise ConfigError(f"--cpu {cpu} is none of the processors {usable} that may be used")
