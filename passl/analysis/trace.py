"""Where the time of a trace goes: events of Paddle's profiler, from the file that it writes for
Chrome.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passl.logging import aligned

_DURATION = re.compile(r"\[[\d.]+ [munsµ]+\]$")
"""What Paddle appends to the name of an event."""


@dataclass(frozen=True)
class Event:
    """A part of the time of one thread.

    Args:
        name: of what was done.
        kind: category, such as `Operator` or `Backward`.
        thread: of the process.
        start: in microseconds since the trace began.
        duration: in microseconds.
    """

    name: str
    kind: str
    thread: str
    start: float
    duration: float


@dataclass
class Cost:
    """The time of all events of a name.

    Args:
        calls: number of events.
        total: sum of their times, in microseconds.
        own: the same without the times of other events in them.
    """

    calls: int = 0
    total: float = 0.0
    own: float = 0.0


def read_trace(path: Path) -> list[Event]:
    """The events of a trace file."""
    found = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    return [_event(each) for each in found if each.get("ph") == "X"]


def _event(found: dict[str, Any]) -> Event:
    # `ts` is rounded to microseconds, which would make events overlap.
    start = float(found["args"]["start_time"].split()[0])
    name = _DURATION.sub("", found["name"])
    return Event(name, found["cat"], str(found["tid"]), start, found["dur"])


def outermost(events: Iterable[Event]) -> list[Event]:
    """The events that are not inside another one."""
    found: list[Event] = []
    for event in sorted(events, key=_order):
        if not found or not _contains(found[-1], event):
            found.append(event)
    return found


def costs(events: Iterable[Event]) -> dict[str, Cost]:
    """The cost of each name. Events of a thread contain each other or do not overlap.

    A name that is inside itself, by recursion, counts once in `total`.
    """
    found: dict[str, Cost] = {}
    above: list[Event] = []  # those that contain the next one
    for event in sorted(events, key=_order):
        while above and not _contains(above[-1], event):
            above.pop()
        cost = found.setdefault(event.name, Cost())
        cost.calls += 1
        cost.own += event.duration
        if all(each.name != event.name for each in above):
            cost.total += event.duration
        if above:
            found[above[-1].name].own -= event.duration
        above.append(event)
    return found


def _order(event: Event) -> tuple[str, float, float]:
    """Of a thread, with each event before those in it."""
    return event.thread, event.start, -event.duration


def _contains(outer: Event, inner: Event) -> bool:
    """Whether the middle of an event lies in another one of the same thread."""
    middle = inner.start + inner.duration / 2
    return outer.thread == inner.thread and outer.start <= middle <= outer.start + outer.duration


def table_of_costs(
    title: str, rows: Sequence[tuple[str, Cost]], steps: int, whole: float
) -> list[str]:
    """Lines of a table.

    Args:
        title: of the first column.
        rows: names and costs, in order.
        steps: that were recorded.
        whole: time of all steps, in microseconds, for the percentages.
    """
    lines = [(title, "calls a step", "ms a step", "%", "own ms a step", "%")]
    for name, cost in rows:
        times = [
            text
            for part in (cost.total, cost.own)
            for text in (f"{part / steps / 1000:.3f}", f"{100 * part / whole:.1f}")
        ]
        lines.append((name, f"{cost.calls / steps:.4g}", *times))  # type: ignore[arg-type]
    return aligned(lines)
