"""Time and memory of a piece of work. Needs only the standard library: the networks of other
projects are measured by the same code, in an environment without passl.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest (`low`) and largest value (`high`) and their `count`, to four digits.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("a summary needs at least one value")
    found = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {**{key: rounded(value) for key, value in found.items()}, "count": len(values)}


def rounded(value: float) -> float:
    """Round to four significant digits. A whole number stays as it is."""
    return value if isinstance(value, int) else float(f"{value:.4g}")


def measure(step: Callable[[], Any], images: int, warmup: int, repeats: int) -> dict[str, Any]:
    """Run a step several times, and measure its time and memory.

    Process time is that of all threads of this process. It is the cost of the work; wall time also
    depends on the other load of the machine.

    Args:
        step: does the work for `images` images, and has finished it when it returns.
        warmup: runs before those that are timed.
        repeats: runs that are timed.

    Returns:
        `cpu_ms` and `wall_ms` of one run (median, low, high, count); `rate` and `wall_rate`,
        images per second of median process and wall time; `idle_mib`, the process's memory before
        the first run, and `peak_mib`, its largest memory during all runs, less `idle_mib`. Null if
        the operating system does not report memory.

    Raises:
        ValueError: `warmup` is below 0 or `repeats` below 1.
    """
    if warmup < 0 or repeats < 1:
        raise ValueError(f"warmup {warmup} must be at least 0 and repeats {repeats} at least 1")
    idle = idle_memory()
    cpu, wall = [], []
    for run in range(warmup + repeats):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        step()
        if run >= warmup:
            cpu.append(1000 * (time.process_time() - cpu_start))
            wall.append(1000 * (time.perf_counter() - wall_start))
    peak = memory("VmHWM")
    known = idle is not None and peak is not None
    return {
        "cpu_ms": summary(cpu),
        "wall_ms": summary(wall),
        "rate": rounded(1000 * images / max(statistics.median(cpu), 1e-6)),
        "wall_rate": rounded(1000 * images / max(statistics.median(wall), 1e-6)),
        "idle_mib": round(idle / 2**20, 1) if known else None,
        "peak_mib": round((peak - idle) / 2**20, 1) if known else None,
    }


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
