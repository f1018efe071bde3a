"""Progress bars on a terminal, drawn by rich below what is written meanwhile.

Elsewhere a bar only counts, and rich is not imported. Bars are redrawn when they are updated, not
by a thread: a process that forks, for data loading, must not have a thread that holds a lock.
"""

from __future__ import annotations

import io
import os
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO

from passl.logging import columns_of, has_live_terminal, printable

_INTERVAL = 0.5
"""Seconds between two drawings."""
_BAR = range(8, 31)
"""Widths of a bar, in columns; in a terminal without room for the smallest it is left out."""
_MARGIN = 3
"""Columns that stay free: the terminal shows ^C there, and a full line would wrap."""
_ERASE_LINE, _LINE_UP = "\r\x1b[2K", "\x1b[1A"
STDERR = 2
"""Number of the file."""


class Bar:
    """Progress of one task, as a line of the terminal. Used as a context. Bars that are open at the
    same time are drawn below each other.

    Args:
        name: of the task.
        total: of its parts; null while it is unknown.
        unit: of the parts, such as `images`, for the throughput; without it none is shown. `B`
            shows sizes in bytes.
        done: parts that were done before.
        shown: false for all ranks but the first.

    Attributes:
        text: shown behind the numbers.
    """

    def __init__(
        self,
        name: str,
        total: int | None = None,
        unit: str = "",
        *,
        done: int = 0,
        shown: bool = True,
    ):
        self.name, self.total, self.unit, self.done = printable(name), total, unit, done
        self.shown, self.text = shown, ""
        self._before, self._since = done, time.monotonic()

    def __enter__(self) -> Bar:
        if self.shown and has_live_terminal():
            self._before, self._since = self.done, time.monotonic()
            _Display.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        """So many parts more are done."""
        self.done += count
        if _Display.current is not None:
            _Display.current.refresh()

    def reset(self) -> None:
        """Nothing is done (for pooch)."""
        self.done = 0

    def close(self) -> None:
        """Remove it from the terminal. Closing it again does nothing."""
        if _Display.current is not None:
            _Display.current.remove(self)

    def numbers(self) -> str:
        """Parts, time left, throughput and text."""
        seconds, parts = time.monotonic() - self._since, self.done - self._before
        found = [self._amount()]
        if self.total and parts > 0:
            found.append(f"{clock(seconds * max(self.total - self.done, 0) / parts)} left")
        if self.unit and parts > 0 and seconds > 0:
            found.append(f"{_size(parts / seconds, self.unit)}/s")
        return "  ".join([*found, self.text] if self.text else found)

    def _amount(self) -> str:
        if self.unit == "B":
            return " of ".join(
                _size(n, "B") for n in (self.done, self.total or None) if n is not None
            )
        return f"{self.done}/{self.total}" if self.total else str(self.done)


def write_above(text: str) -> None:
    """Write a line to stderr, above the bars. Only for signal handlers, which may have interrupted
    a drawing or a line of the log.
    """
    bars = 0 if _Display.current is None else _Display.current.height
    erased = _ERASE_LINE + (_LINE_UP + _ERASE_LINE) * (bars - 1) if bars else ""
    with suppress(OSError):
        # The next drawing begins as many lines above the cursor as the bars had.
        os.write(STDERR, "".join((erased, text, "\n" * max(bars, 1))).encode())


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"


def _size(count: float, unit: str) -> str:
    if unit == "B":
        from rich.filesize import decimal

        return decimal(round(count))
    return f"{count:.0f} {unit}" if count >= 10 else f"{count:.2g} {unit}"


class _Display:
    """The open bars of this process. There is one while a bar is open.

    Attributes:
        height: lines of the terminal that it takes.
    """

    current: _Display | None = None

    def __init__(self, first: Bar):
        from rich.console import Console
        from rich.live import Live

        class Terminal(Console):
            """Keeps the cursor visible: a process that is killed cannot show it again."""

            def show_cursor(self, show: bool = True) -> bool:
                return False

        self.bars = [first]
        self.height, self._drawn = 0, -_INTERVAL
        self._streams = sys.stdout, sys.stderr
        self._console = Terminal(file=sys.stderr, force_terminal=True, highlight=False)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,  # rich's would fold long lines
            redirect_stderr=False,
            get_renderable=self._render,
        )

    @classmethod
    def add(cls, bar: Bar) -> None:
        if cls.current is None:
            cls.current = cls(bar)
            cls.current._start()
        else:
            cls.current.bars.append(bar)
        cls.current.refresh(now=True)

    def remove(self, bar: Bar) -> None:
        if bar not in self.bars:
            return
        if len(self.bars) == 1:
            self._end()
        self.bars.remove(bar)
        self.refresh(now=True)

    def refresh(self, now: bool = False) -> None:
        if _Display.current is not self or not (now or time.monotonic() > self._drawn + _INTERVAL):
            return
        self._drawn = time.monotonic()
        try:
            self._live.refresh()
        except OSError:  # the terminal is gone; the work goes on
            self._end()

    def _start(self) -> None:
        self._live.start()
        stdout, stderr = self._streams
        sys.stderr = _Above(stderr, self._console)
        if stdout is not None and stdout.isatty():
            sys.stdout = _Above(stdout, self._console)

    def _end(self) -> None:
        _Display.current = None
        with suppress(OSError):
            for stream in {sys.stdout, sys.stderr}:
                if isinstance(stream, _Above):
                    stream.end_line()
            self._live.stop()
        self.restore_streams()

    def restore_streams(self) -> None:
        """Undo the redirection of what is written meanwhile."""
        for name, stream in zip(("stdout", "stderr"), self._streams, strict=True):
            if isinstance(getattr(sys, name), _Above):
                setattr(sys, name, stream)

    def _render(self) -> Any:
        """A line for each bar: name, bar, numbers."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        rows = [(bar, bar.numbers()) for bar in self.bars]
        self.height = len(rows)
        width = max(self._console.width - _MARGIN, 1)
        name_width = min(max(columns_of(bar.name) for bar in self.bars), width // 2)
        longest = max(columns_of(text) for _, text in rows)
        size = min(width - name_width - longest - 2, _BAR[-1])
        bar_width = [size] * (size in _BAR)
        text_width = width - name_width - 1 - sum(bar_width) - len(bar_width)
        table = Table.grid(padding=(0, 1, 0, 0))
        for column in (name_width, *bar_width, max(text_width, 1)):
            table.add_column(width=column, no_wrap=True, overflow="ellipsis")
        for bar, text in rows:
            drawn = [ProgressBar(bar.total, bar.done, w, animation_time=0) for w in bar_width]
            table.add_row(bar.name, *drawn, text)
        return table


class _Above(io.TextIOBase):
    """Stands for stdout or stderr while there are bars: writes whole lines above them."""

    def __init__(self, stream: TextIO, console: Any):
        self._stream, self._console, self._line = stream, console, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._print(line)
        return len(text)

    def end_line(self) -> None:
        """Write a line that has no end yet."""
        if self._line:
            self._print(self._line)
            self._line = ""

    def _print(self, line: str) -> None:
        from rich.text import Text

        # soft_wrap: the terminal folds a long line, so that it is copied as one.
        self._console.print(Text.from_ansi(line), soft_wrap=True)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def flush(self) -> None:
        self._stream.flush()

    @property
    def buffer(self) -> Any:
        """That of the stream: bytes are not written above the bars."""
        return self._stream.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding


def _forget() -> None:
    """A forked process writes like any other: the bars are its parent's."""
    if _Display.current is not None:
        _Display.current.restore_streams()
        _Display.current = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
