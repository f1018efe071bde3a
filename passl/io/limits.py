"""Checks that every reader makes: files, names and sizes, and the bounds for hostile files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from passl.errors import CheckpointError, no_file

GROWTH = 8
"""The arrays of a file may together take at most this multiple of its size. Without the limit,
strides of zero, or one text that is encoded many times, could take any amount of memory.
"""
DIMS = 32
"""Maximum number of dimensions of an array."""
LARGEST = 2**48
"""Sizes, strides and offsets are below this, so that their products are computed fast."""

_NAME = 1000  # characters of the name of a weight


def opened(path: Path) -> BinaryIO:
    """Open a file to read.

    Raises:
        CheckpointError: it is missing, empty, not a file, or may not be read.
    """
    if not path.is_file():  # opening a pipe would wait forever
        raise CheckpointError(f"{path}: {no_file(path, 'weight file')}")
    if not path.stat().st_size:
        raise CheckpointError(f"{path}: an empty file; fetch it again")
    try:
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def in_line(error: Exception) -> str:
    """Return the text of an error as one printable line."""
    text = " ".join(str(error)[:300].split())
    if not text or not isinstance(error, (ValueError, zipfile.BadZipFile)):
        text = f"{type(error).__name__} {text}"  # the text of a KeyError is only the key
    return "".join(character if character.isprintable() else "?" for character in text)


def check_name(name: Any) -> str:
    """Return the name of a weight, which messages show.

    Raises:
        ValueError: it is not a line of text.
    """
    if type(name) is not str or not name or len(name) > _NAME or not name.isprintable():
        shown = f"{name[:40]!r}" if type(name) is str else type(name).__name__
        raise ValueError(f"the name of a weight is a line of text, not {shown}")
    return name


def check_sizes(sizes: Any, lowest: int = 0) -> tuple[int, ...]:
    """Return a shape, strides or offsets.

    Raises:
        ValueError: it is not a tuple of at most `DIMS` numbers, or one of them is out of range.
    """
    if type(sizes) not in (tuple, list) or len(sizes) > DIMS:
        raise ValueError(f"a shape is a tuple of at most {DIMS} numbers")
    if not all(type(size) is int and lowest <= size < LARGEST for size in sizes):
        raise ValueError("a size or stride is negative, absurd or no number")
    return tuple(sizes)


def widened(bf16: np.ndarray) -> np.ndarray:
    """Convert bfloat16, given as uint16, to float32, of which it is the upper half."""
    return (bf16.astype(np.uint32).reshape(-1) << 16).view(np.float32).reshape(bf16.shape)
