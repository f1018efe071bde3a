"""The state of a run, read from its folder before, during and after it. Nothing is locked or
written, and neither numpy nor Paddle is imported.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from passl.engine.run_files import LOG, METRICS, STARTS, WARNING, json_objects
from passl.engine.run_lock import HOLDER

_STEP = re.compile(r"\[Train\]\[Epoch (\d+)/(\d+)\]\[Iter: (\d+)/(\d+)\]")
_RESUMED = re.compile(r"resumed after epoch \d+, step \d+")
_SCORE = re.compile(r"\[Eval\]\[Epoch \d+\] .*; best (\w+): ")
_ROWS = 200
"""Intervals whose time the speed is measured on."""


class Status(Enum):
    """What a run does."""

    WAITING = "has not started"
    STARTING = "is starting"
    RUNNING = "is running"
    FINISHED = "is finished"
    STOPPED = "is stopped; continue it by --resume auto"
    KILLED = "was killed: its process is gone; continue it by --resume auto"
    FAILED = "could not start"


@dataclass
class RunState:
    """What the files of a run say.

    Args:
        status: of the run.
        start: the last line of `starts.jsonl`; empty before the first.
        holder: host, process and time of the run that holds the folder; empty if none does.
        epochs: of the run; null while it is not known.
        steps: of an epoch; null likewise.
        iteration: steps of the current epoch; null likewise.
        train: the last interval; empty before the first.
        evaluations: all of them.
        score: name of the score that selects the best checkpoint; null before the first evaluation.
        left: seconds that the run will take at its speed; null if it is not known.
        news: seconds since the run has written something.
        warnings: the last ones of the log, with their times.
    """

    status: Status = Status.WAITING
    start: dict[str, Any] = field(default_factory=dict)
    holder: dict[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    steps: int | None = None
    iteration: int | None = None
    train: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    score: str | None = None
    left: float | None = None
    news: float | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def scores(self) -> list[tuple[int, float]]:
        """Epoch and selecting score of each evaluation."""
        name = self.score or ""
        return [(row["epoch"], row[name]) for row in self.evaluations if name in row]

    @property
    def best(self) -> tuple[int, float] | None:
        """Epoch and score of the best evaluation."""
        return max(self.scores, key=lambda pair: pair[1], default=None)

    @property
    def epoch(self) -> int:
        """The epoch that is trained, from 1; the last one after the end."""
        done = self.evaluations[-1]["epoch"] if self.evaluations else 0
        last = max(self.train.get("epoch", 0), done + (self.epochs is None or done < self.epochs))
        return last if self.epochs is None else min(last, self.epochs)

    @property
    def done(self) -> int | None:
        """Steps that are done, of `epochs * steps`."""
        if self.steps is None:
            return None
        is_after = self.evaluations and self.evaluations[-1]["step"] >= self.train.get("step", 0)
        if is_after:
            return self.evaluations[-1]["epoch"] * self.steps
        return (self.train.get("epoch", 1) - 1) * self.steps + (self.iteration or 0)


class Tail:
    """The lines of a file that grows. A file that is replaced, as `metrics.jsonl` by a resume, is
    read again from its beginning.
    """

    def __init__(self, path: Path):
        self._path = path
        self._inode, self._offset, self._rest = -1, 0, b""

    def lines(self) -> tuple[bool, list[bytes]]:
        """Whether the file is another one than before, and its complete new lines."""
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                is_other = stat.st_ino != self._inode or stat.st_size < self._offset
                if is_other:
                    self._inode, self._offset, self._rest = stat.st_ino, 0, b""
                file.seek(self._offset)
                data = file.read()
        except OSError:  # not there yet
            return False, []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return is_other, lines


class Follower:
    """Follows a run.

    Args:
        folder: of the run, which need not exist yet.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._metrics, self._log = Tail(folder / METRICS), Tail(folder / LOG)
        self._starts = Tail(folder / STARTS)
        self._intervals: deque[tuple[float, int]] = deque(maxlen=_ROWS)
        self._warnings: deque[str] = deque(maxlen=3)
        self._state = RunState()

    def read(self) -> tuple[RunState, list[dict[str, Any]]]:
        """The state, and the rows of intervals and evaluations that are new since the last call."""
        for start in json_objects(self._starts.lines()[1]):
            self._state.start = start
            self._intervals.clear()
        self._read_log()
        is_other, lines = self._metrics.lines()
        if is_other:
            self._state.train, self._state.evaluations = {}, []
            self._intervals.clear()
        rows = [row for row in json_objects(lines) if {"phase", "step", "epoch"} <= row.keys()]
        rows = [row for row in rows if row["phase"] in ("train", "val")]
        for row in rows:
            self._note(row)
        self._state.holder = _object(self.folder / HOLDER)
        self._state.warnings = list(self._warnings)
        self._state.news = self._age()
        self._state.status = self._status()
        self._state.left = self._left()
        return self._state, rows

    def _read_log(self) -> None:
        is_other, lines = self._log.lines()
        if is_other:
            self._warnings.clear()
        for line in lines:
            text = line.decode("utf-8", "replace")
            state = self._state
            if found := _STEP.search(text):
                _, state.epochs, state.iteration, state.steps = map(int, found.groups())
            elif _RESUMED.search(text):
                state.iteration = None
            elif found := _SCORE.search(text):
                state.score = found[1]
            elif found := WARNING.match(text):
                self._warnings.append(f"{found[1]}  {found[2]}")

    def _note(self, row: dict[str, Any]) -> None:
        if row["phase"] == "val":
            self._state.evaluations.append(row)
        else:
            self._state.train = row
        began = _moment(self._state.start.get("time"))
        if "time" in row and (began is None or row["time"] >= began):
            self._intervals.append((row["time"], row["step"]))

    def _age(self) -> float | None:
        """Seconds since the log or the metrics were written."""
        times = []
        for name in (METRICS, LOG):
            with suppress(OSError):
                times.append((self.folder / name).stat().st_mtime)
        return max(time.time() - max(times), 0.0) if times else None

    def _status(self) -> Status:
        state = self._state
        began = _moment(state.start.get("time"))
        is_done = bool(state.evaluations) and state.evaluations[-1]["epoch"] == state.epochs
        if state.holder:
            if _is_gone(state.holder):
                return Status.FINISHED if is_done else Status.KILLED
            last = self._intervals[-1][0] if self._intervals else None
            return Status.STARTING if last is None else Status.RUNNING
        if state.start.get("error") is not None:
            return Status.FAILED
        if is_done:
            return Status.FINISHED
        if began is None and not state.train:
            return Status.WAITING
        return Status.STOPPED

    def _left(self) -> float | None:
        """The steps that are left, at the speed since the last start, evaluations included."""
        state = self._state
        if state.epochs is None or state.steps is None or state.done is None:
            return None
        steps = max(state.epochs * state.steps - state.done, 0)
        if len(self._intervals) > 1:
            (begin, first), (end, last) = self._intervals[0], self._intervals[-1]
            if last > first:
                return steps * (end - begin) / (last - first)
        cost = state.train.get("batch_cost")
        return None if cost is None else steps * cost


def _is_gone(holder: Mapping[str, Any]) -> bool:
    """Whether the process that holds a run is one of this machine and does not exist."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)  # sends nothing
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False


def _object(path: Path) -> dict[str, Any]:
    with suppress(OSError):
        return next(json_objects([path.read_bytes()]), {})
    return {}


def _moment(text: Any) -> float | None:
    """Seconds since 1970 of a time in ISO format."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None
