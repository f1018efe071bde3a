"""The one logger: to the console, and into the run folder once there is one."""

from __future__ import annotations

import logging
import os
import sys
import unicodedata
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

NAME = "passl"
PROGRESS = logging.INFO - 1
"""Level of lines that a progress bar stands for: in the log file always, on the console where it is
no terminal.
"""
_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories: control, surrogate, line and paragraph separator."""
_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Marks that turn the direction of a text, so that it shows as another one."""
logging.addLevelName(PROGRESS, "INFO")
logging.addLevelName(logging.INFO, "INFO")  # the name still means the usual level


class _Formatter(logging.Formatter):
    """Messages have names of files and classes, which may be made to write to a terminal; so each
    is a line that only shows. A traceback keeps its lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return printable(super().formatMessage(record))


_FORMAT = _Formatter(
    "[%(asctime)s] %(name)s%(process_of_run)s %(levelname)s: %(message)s",
    "%Y/%m/%d %H:%M:%S",
    defaults={"process_of_run": ""},
)


def name_process(name: str) -> None:
    """Name this process in every message, such as `rank 1 on gpu7`: the processes of a run may
    share a console.
    """

    def add(record: logging.LogRecord) -> bool:
        record.process_of_run = f" {name}"
        return True

    get_logger().addFilter(add)


def get_logger() -> logging.Logger:
    """The package's logger. Until one of the functions below is called, or its level is set, it
    gives warnings alone: Paddle opens the root logger for everything else when it is imported.
    """
    logger = logging.getLogger(NAME)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)
    return logger


def has_live_terminal(stream: TextIO | None = None) -> bool:
    """Whether a stream, by default stderr, is a terminal whose lines can be drawn again, so that it
    shows progress bars in place of PROGRESS lines.
    """
    stream = sys.stderr if stream is None else stream
    is_dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return stream is not None and stream.isatty() and not is_dumb


def log_to_console() -> None:
    """Show what is logged on stderr, so that stdout stays for results. Calling it again changes
    nothing.
    """
    if any(isinstance(handler, _Console) for handler in get_logger().handlers):
        return
    _add(_Console()).setLevel(logging.INFO if has_live_terminal() else PROGRESS)


class _Console(logging.StreamHandler):
    """Writes to what stderr is at the moment: while there are progress bars, that writes above
    them.
    """

    @property
    def stream(self) -> Any:  # type: ignore[override]
        return sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None:
        """Ignored: `StreamHandler` sets it once."""


def log_others() -> None:
    """Show warnings of other packages on stderr. A root logger that has a handler is left alone by
    Paddle, which would show their notes too.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMAT)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def log_to_file(path: Path) -> logging.Handler:
    """Append what is logged to a file; `stop_logging_to` ends it."""
    # File names that are not UTF-8 are escaped, as Python does on stderr.
    return _add(_LogFile(path, encoding="utf-8", errors="backslashreplace"))


class _LogFile(logging.FileHandler):
    """Says once on stderr that it cannot be written, where logging's own would print a traceback
    for each line.
    """

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        error = sys.exc_info()[1]
        if not self._said and isinstance(error, OSError):
            sys.stderr.write(
                f"{self.baseFilename} cannot be written ({error.strerror}); the run goes on\n"
            )
            self._said = True
        elif not isinstance(error, OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):  # of lines that could not be written
            super().close()


def stop_logging_to(handler: logging.Handler) -> None:
    """Take a handler off and close its file."""
    get_logger().removeHandler(handler)
    handler.close()


def _add(handler: logging.Handler) -> logging.Handler:
    logger = get_logger()
    logger.setLevel(PROGRESS)
    logger.propagate = False
    handler.setFormatter(_FORMAT)
    logger.addHandler(handler)
    return handler


def printable(text: str) -> str:
    """The text as one line that a terminal only shows, for screens, logs and plots: control
    characters, line ends, marks that turn the direction of the text, and the bytes of file names
    that are not UTF-8 are escapes such as \\x1b and \\udcff.
    """
    return "".join(ascii(one)[1:-1] if _acts(one) else one for one in text)


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Lines of a table whose columns have one width each, and start at the right.

    Args:
        left: indices of the columns that start at the left.
    """
    widths = [max(map(columns_of, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        spaces = [" " * (width - columns_of(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [
            cell + space if index in left else space + cell
            for index, (cell, space) in enumerate(zip(row, spaces, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def columns_of(text: str) -> int:
    """Columns of a terminal that the text takes: characters of Chinese, for example, take two."""
    return sum(1 + (unicodedata.east_asian_width(one) in "WF") for one in text)


def shortened(text: str, columns: int) -> str:
    """The text in at most so many columns; what is cut off at its end is an ellipsis."""
    if columns_of(text) <= columns:
        return text
    while text and columns_of(text) >= columns:
        text = text[:-1]
    return f"{text}…"


def _acts(one: str) -> bool:
    turns = unicodedata.bidirectional(one) in _TURNING
    return turns or unicodedata.category(one) in _CONTROLS
