"""Follow a run from another shell, as text."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from passl.analysis.run_state import Follower, RunState, Status
from passl.errors import ConfigError
from passl.io.terminal import clock
from passl.logging import has_live_terminal, printable
from passl.step_times import NAMES, READER

_BLOCKS, _ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*%#"
"""Levels of a character of the curve."""
_HEIGHT = 5
"""Lines of the curve."""
_SILENCE = 60.0
"""Seconds without a line after which the age of the last one is shown."""


def watch(folder: Path, every: float, once: bool) -> None:
    """Print the state of a run on stdout: on a terminal as a text that is drawn again, else as a
    line for each interval and evaluation. Returns when the run is finished, and on Ctrl-C.

    Args:
        folder: of the run, which need not exist yet.
        every: seconds between two looks.
        once: print the state once and return.

    Raises:
        ConfigError: `once`, and there is no run.
    """
    follower = Follower(folder)
    if once:
        state, _ = follower.read()
        if state.status is Status.WAITING:
            raise ConfigError(f"{folder}: holds no run; name the output_dir of a training run")
        _write("\n".join(text_of(folder, state, 80)))
        return
    try:
        if has_live_terminal(sys.stdout):
            _follow_on_terminal(follower, every)
        else:
            _follow_in_pipe(follower, every)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # what reads it, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _follow_on_terminal(follower: Follower, every: float) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    options: dict[str, Any] = {"redirect_stdout": False, "redirect_stderr": False}
    with Live(console=console, auto_refresh=False, vertical_overflow="crop", **options) as live:
        while True:
            state, _ = follower.read()
            lines = text_of(follower.folder, state, console.width - 1)
            live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
            if state.status is Status.FINISHED:
                return
            time.sleep(every)


def _follow_in_pipe(follower: Follower, every: float) -> None:
    status: Status | None = None
    is_first = True
    while True:
        state, rows = follower.read()
        # Of a run that goes on, what came before is told by its last line.
        for row in rows[-1:] if is_first else rows:
            _write(_line_of(state, row))
        if state.status is not status:
            status = state.status
            _write(f"{printable(str(follower.folder))} {_status(state)}")
        if status is Status.FINISHED:
            return
        is_first = False
        time.sleep(every)


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def text_of(folder: Path, state: RunState, width: int) -> list[str]:
    """Lines that tell the state.

    Args:
        width: columns of the terminal.
    """
    lines = [f"{printable(str(folder))} {_status(state)}"]
    if state.start:
        lines.append(_where(state))
    if state.news is not None and state.news > _SILENCE and state.status is not Status.FINISHED:
        lines.append(f"nothing was written for {clock(state.news)}")
    if state.epochs is not None:
        lines += ["", _position(state, width)]
    if state.train:
        lines.append(_interval(state.train))
    if state.evaluations:
        lines.append(_evaluation(state.evaluations[-1]))
    if state.best is not None:
        epoch, score = state.best
        lines.append(f"best {state.score} {score:.2f} % in epoch {epoch}")
    if len(state.scores) > 1:
        lines += ["", *_curve(state, width)]
    if state.warnings:
        lines += ["", "last warnings:", *(f"  {printable(text)}" for text in state.warnings)]
    return lines


def _status(state: RunState) -> str:
    text = state.status.value
    if state.status is Status.FAILED:
        text += f": {printable(str(state.start.get('error')))}"
    if state.status in (Status.RUNNING, Status.STARTING, Status.KILLED) and state.holder:
        text += f" (process {state.holder.get('pid')} on {state.holder.get('host')})"
    return printable(text)


def _where(state: RunState) -> str:
    start = state.start
    since = start.get("time")
    try:
        since = f"{datetime.fromisoformat(since).astimezone():%Y-%m-%d %H:%M:%S}"  # type: ignore[arg-type]
    except (TypeError, ValueError):
        since = "an unknown time"
    resumed = start.get("resumed_from")
    how = f"resumed from {Path(str(resumed)).name}" if resumed else "started"
    if start.get("step"):
        how += f" at step {start['step']}"
    world = start.get("world_size")
    return printable(f"{how} {since}, {world} process(es) on {start.get('device')}")


def _position(state: RunState, width: int) -> str:
    parts = [f"epoch {state.epoch}/{state.epochs}"]
    if state.done is not None and state.epochs and state.steps:
        share = state.done / (state.epochs * state.steps)
        size = max(min(width - 50, 30), 0)
        full, empty = ("━", " ") if _takes("━") else ("=", " ")
        filled = round(share * size)
        parts += [f"[{full * filled}{empty * (size - filled)}]"] * (size > 5)
        parts.append(f"{100 * share:.1f} %")
        step = state.done - (state.epoch - 1) * state.steps
        parts.insert(1, f"step {step}/{state.steps}")
    if state.left is not None and state.status in (Status.RUNNING, Status.STARTING):
        parts.append(f"{clock(state.left)} left")
    return "  ".join(parts)


def _interval(row: dict[str, Any]) -> str:
    parts = [f"loss {row['loss']:.4f}"] if "loss" in row else []
    if "lr" in row:
        parts.append(f"lr {row['lr']:.3e}")
    if "ips" in row:
        parts.append(f"{row['ips']:.1f} images/s")
    part = row.get("bound_by", READER)  # rows of older versions only tell the reading
    if row.get("batch_cost"):
        share = 100 * row.get(f"{part}_cost", 0) / row["batch_cost"]
        parts.append(f"{NAMES.get(part, part)} {share:.0f} %")
    return "training    " + "  ".join(parts)


def _evaluation(row: dict[str, Any]) -> str:
    others = ("phase", "step", "time", "epoch", "samples", "ips")
    values = [
        f"{key} {value:.4g}"
        for key, value in row.items()
        if key not in others and isinstance(value, int | float)
    ]
    return f"evaluation  epoch {row['epoch']}: {', '.join(values[:6])}"


def _line_of(state: RunState, row: dict[str, Any]) -> str:
    """A row of metrics as a line."""
    epochs = "" if state.epochs is None else f"/{state.epochs}"
    if row["phase"] == "val":
        best = "" if state.best is None else f"; best {state.score} {state.best[1]:.2f} %"
        return f"{_evaluation(row)}{best}"
    left = "" if state.left is None else f"  {clock(state.left)} left"
    return f"{_interval(row)}  epoch {row['epoch']}{epochs}, step {row['step']}{left}"


def _curve(state: RunState, width: int) -> list[str]:
    """The selecting score over the epochs."""
    values = [score for _, score in state.scores]
    low, high = min(values), max(values)
    labels = [f"{high:.2f}", *[""] * (_HEIGHT - 2), f"{low:.2f}"]
    margin = max(len(str(state.score)), *map(len, labels)) + 1
    lines = [
        f"{label:>{margin}} |{line}"
        for label, line in zip(labels, curve(values, max(width - margin - 2, 1)), strict=True)
    ]
    first, last = state.scores[0][0], state.scores[-1][0]
    return [*lines, f"{state.score:>{margin}}  epoch {first} to {last}"]


def curve(values: Sequence[float], width: int, height: int = _HEIGHT) -> list[str]:
    """Lines of a bar for each value, from the lowest, whose bar is empty, to the highest. More
    values than fit are put together, and the last of each group is shown.
    """
    columns = min(len(values), width)
    widened = max(1, min(4, width // columns))
    ends = [len(values) * (i + 1) // columns - 1 for i in range(columns)]
    low, high = min(values), max(values)
    characters = _BLOCKS if _takes(_BLOCKS) else _ASCII
    levels = len(characters) - 1
    tops = [round((values[i] - low) / ((high - low) or 1) * levels * height) for i in ends]
    return [
        "".join(characters[max(0, min(levels, top - levels * line))] * widened for top in tops)
        for line in reversed(range(height))
    ]


def _takes(text: str) -> bool:
    """Whether stdout can show it."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
