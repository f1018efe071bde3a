"""Time and memory of a piece of work. The standard library alone: other projects' networks are
measured by the same code, in an environment without passl.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Summary:
    """Of several measurements of the same thing.

    Args:
        median: of all.
        low, high: the smallest and the largest.
        count: how many there are.
    """

    median: float
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, float]:
        """As plain data, to four digits."""
        return {key: rounded(value) for key, value in asdict(self).items()}


def summary(values: Sequence[float]) -> Summary:
    """Median and spread.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("a summary needs at least one value")
    return Summary(statistics.median(values), min(values), max(values), len(values))


def rounded(value: float, digits: int = 4) -> float:
    """To that many significant digits. A whole number stays as it is."""
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")


def measure(step: Callable[[], Any], images: int, warmup: int, repeats: int) -> dict[str, Any]:
    """Run a step several times and say what it took.

    Process time is that of all threads of this process: on a machine that does other things too it
    is what the work costs, where wall time is what one waits.

    Args:
        step: does the work for `images` images, and has done it when it returns. All that it needs
            has been made.
        warmup: runs before those that are timed.
        repeats: runs that are timed.

    Returns:
        `cpu_ms` and `wall_ms` of one run (median, low, high, count); `rate` and `wall_rate`,
        images per second of median process and wall time; `idle_mib`, the process's memory before
        the first run, and `peak_mib`, the largest that it had during all runs, less that. Null for
        memory that this operating system does not tell.

    Raises:
        ValueError: nothing is to be run.
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
        "cpu_ms": summary(cpu).to_dict(),
        "wall_ms": summary(wall).to_dict(),
        "rate": rounded(1000 * images / max(statistics.median(cpu), 1e-6)),
        "wall_rate": rounded(1000 * images / max(statistics.median(wall), 1e-6)),
        "idle_mib": round(idle / 2**20, 1) if known else None,
        "peak_mib": round((peak - idle) / 2**20, 1) if known else None,
    }


def idle_memory() -> int | None:
    """Bytes that this process has now; from here on VmHWM counts anew, where the system lets it."""
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
