"""File paths of many samples in two blocks of memory."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from typing import overload


class PackedPaths(Sequence[str]):
    """A sequence of paths, stored as one block of bytes and the place where each path ends.

    Forked loader workers share the memory of the process that forked them until one of them writes
    to it. Reading a string from a list writes its reference count, so that each worker gets a copy
    of the whole list within an epoch. Here each read makes a new string, and nothing is written.

    Args:
        root: folder that relative paths begin at, stored once; an absolute path stays as it is. An
            empty root adds nothing.
        paths: the first paths, relative to `root`. Any string is kept as it is, names that are not
            UTF-8 too.
    """

    def __init__(self, root: str = "", paths: Iterable[str] = ()):
        self.root = root
        self._bytes = bytearray()
        self._ends = array("q", [0])  # of path i, at i + 1
        self.extend(paths)

    def append(self, path: str) -> None:
        # Names that are not UTF-8 have surrogates. `os.fsencode` would depend on the locale.
        self._bytes += path.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

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
        """The path with its root; of a slice, a list of them."""
        place = range(len(self))[index]
        if isinstance(place, range):
            return [self[single] for single in place]
        path = self._bytes[self._ends[place] : self._ends[place + 1]]
        return os.path.join(self.root, path.decode("utf-8", "surrogatepass"))
