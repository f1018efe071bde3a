"""Files that are there complete, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path


def write_atomically(
    path: Path,
    write: Callable[[Path], object],
    first: Sequence[Path] = (),
    previous: Path | None = None,
) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, and rename it to
    `path`.

    Whatever happens on the way, `path` holds either what it held before or all of the new content.

    Args:
        path: the file; its folder exists.
        write: is given the temporary path and creates that file.
        first: other names in the same folder that get the same content before `path` does.
        previous: another name in the same folder for what `path` held, once the new content is on
            the disk.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    temporary = _beside(path)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        for other in first:
            duplicate(temporary, other)
        if previous is not None and path.exists():
            duplicate(path, previous)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None  # not the temporary name
    finally:
        temporary.unlink(missing_ok=True)


def duplicate(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source`, or a copy where there are no hard links. It is
    replaced at once, complete.
    """
    temporary = _beside(target)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files that a killed process has left. No other process writes there."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_text(path: Path, text: str) -> None:
    """Replace the file's content by the text, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
