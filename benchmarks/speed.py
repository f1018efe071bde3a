"""Time and memory of a piece of work, and processes that measure one each: all start with the same
memory and cold caches. Needs only the standard library: the networks of other projects are measured
by the same code, in an environment without passl.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from passl.errors import RunError

OURS, THEIRS = (Path(__file__).with_name(name) for name in ("ours.py", "theirs.py"))
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_in_child(
    script: Path,
    task: Mapping[str, Any],
    threads: int = 1,
    python: str | Path = sys.executable,
) -> dict[str, Any]:
    """Run a task by a script of `benchmarks`, and return its result.

    Args:
        script: takes the task as JSON and prints the result as JSON on its last line.
        task: see the script.
        threads: of its libraries.
        python: its interpreter.

    Raises:
        RunError: it failed; the message is its last one.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    done = subprocess.run(
        [str(python), str(script), json.dumps({**task, "threads": threads})],
        env={**os.environ, **{name: str(threads) for name in names}},
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


def measure(step: Callable[[], Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """Run a step several times, and measure its time and memory.

    Process time is that of all threads of this process. It is the cost of the work; wall time also
    depends on the other load of the machine.

    Args:
        step: does the work, and has finished it when it returns.
        task: `batch`, the images of a step; `warmup`, runs before those that are timed; and
            `repeats`, runs that are timed.

    Returns:
        `cpu_ms` and `wall_ms` of one run (median, low, high); `rate`, images per second of median
        process time; and `peak_mib`, the process's largest memory during all runs, less its memory
        before the first. Null if the operating system does not report memory.
    """
    idle = idle_memory()
    cpu, wall = [], []
    for run in range(task["warmup"] + task["repeats"]):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        step()
        if run >= task["warmup"]:
            cpu.append(1000 * (time.process_time() - cpu_start))
            wall.append(1000 * (time.perf_counter() - wall_start))
    peak = memory("VmHWM")
    return {
        "cpu_ms": summary(cpu),
        "wall_ms": summary(wall),
        "rate": rounded(1000 * task["batch"] / max(statistics.median(cpu), 1e-6)),
        "peak_mib": None if idle is None or peak is None else round((peak - idle) / 2**20, 1),
    }


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest (`low`) and largest value (`high`), to four digits."""
    found = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {key: rounded(value) for key, value in found.items()}


def rounded(value: float) -> float:
    """Round to four significant digits. A whole number stays as it is."""
    return value if isinstance(value, int) else float(f"{value:.4g}")


def idle_memory() -> int | None:
    """Bytes that this process has now. Resets VmHWM if the system allows it."""
    with suppress(OSError):  # VmHWM then still knows what came before: the peak is an upper bound
        RESET.write_text("5")
    return memory("VmRSS")


def memory(field: str) -> int | None:
    """Bytes that the operating system counts for this process: `VmRSS`, what is resident now, or
    `VmHWM`, the most that was.

    (Not `ru_maxrss`: a child process starts with its parent's.)
    """
    try:
        text = STATUS.read_text(encoding="utf-8")
    except OSError:
        return None  # not Linux
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
