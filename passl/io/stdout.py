"""Output of other packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from tempfile import TemporaryFile


@contextmanager
def captured_stdout() -> Iterator[list[str]]:
    """Capture the lines that Python and compiled code print to stdout, of all threads.

    The list is filled when the context ends, also after an error. If stdout is closed, nothing is
    captured.
    """
    lines: list[str] = []
    if not _is_open():
        yield lines
        return
    kept = os.dup(1)
    with TemporaryFile("w+", errors="replace") as file:
        os.dup2(file.fileno(), 1)
        try:
            with redirect_stdout(file):
                yield lines
        finally:
            file.flush()
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            lines += file


def _is_open() -> bool:
    try:
        sys.stdout.flush()
        os.fstat(1)
    except (AttributeError, OSError, ValueError):  # none, no such file, closed
        return False
    return True
