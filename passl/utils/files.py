"""Files that are there complete, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, and rename it to
    `path`.

    Whatever happens on the way, `path` holds either what it held before or all of the new content.

    Args:
        path: the file; its folder exists.
        write: is given the temporary path and creates that file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Replace the file's content by the text, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
