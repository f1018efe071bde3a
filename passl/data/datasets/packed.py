"""File paths of many samples in two blocks of memory."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class PackedPaths(Sequence[str]):
    """A sequence of paths, stored as one block of bytes and the end of each path in it.

    Forked loader workers share memory with the process that forked them until one of them writes
    to it. Reading a string from a list writes its reference count, so each worker would copy the
    whole list within an epoch. Here each read creates a new string and writes nothing.

    Args:
        root: folder that relative paths are joined to, stored once; absolute paths stay as they
            are. An empty root adds nothing.
        paths: the first paths. Any string is kept unchanged, also names that are invalid UTF-8.
    """

    def __init__(self, root: str = "", paths: Iterable[str] = ()):
        self.root = root
        self._bytes: bytearray | np.ndarray = bytearray()
        self._ends: array[int] | np.ndarray = array("q", [0])  # path i ends at _ends[i + 1]
        self.extend(paths)

    @classmethod
    def of_arrays(cls, root: str, content: np.ndarray, ends: np.ndarray) -> PackedPaths:
        """Return the paths of `arrays`, which are not copied. No more paths can be appended.

        Raises:
            ValueError: the arrays are not those of paths.
        """
        if content.dtype != np.uint8 or ends.dtype != np.int64 or not len(ends):
            raise ValueError("not the arrays of paths")
        if ends[0] != 0 or ends[-1] != len(content) or (ends[1:] < ends[:-1]).any():
            raise ValueError("the ends of paths are out of order")
        paths = cls(root)
        paths._bytes, paths._ends = content, ends
        return paths

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The bytes of all paths without the root, uint8, and int64 [N + 1], where each begins and
        the last ends.
        """
        return np.frombuffer(self._bytes, np.uint8), np.frombuffer(self._ends, np.int64)

    def append(self, path: str) -> None:
        # Invalid UTF-8 has become surrogates. `os.fsencode` would depend on the locale.
        self._bytes += path.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))  # type: ignore[union-attr]

    def extend(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.append(path)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return a path joined to the root, or a list of them for a slice."""
        place = range(len(self))[index]
        if isinstance(place, range):
            return [self[single] for single in place]
        path = bytes(self._bytes[self._ends[place] : self._ends[place + 1]])
        return os.path.join(self.root, path.decode("utf-8", "surrogatepass"))
