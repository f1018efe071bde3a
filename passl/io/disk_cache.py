"""A folder of bounded size with pieces of remote files, shared by the processes of a machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from passl.errors import RunError
from passl.io.files import HOME, remove_unfinished, write_atomically
from passl.io.lock import locked

_KEPT = 0.9
"""Fraction of the limit that is left when entries are removed, so that this is rare."""


class DiskCache:
    """Entries of bytes in files. An entry is complete or absent; the least recently used ones are
    removed. Of several processes that want the same entry one makes it, and the others wait.

    fsspec's caches have no limit, and no locks between processes.

    Args:
        folder: created when needed. All that is in it belongs to the cache.
        limit: bytes of all entries. While entries are written, each process can exceed it by one.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit

    def read(
        self, key: str, length: int, begin: int, size: int, make: Callable[[], bytes]
    ) -> bytes:
        """Return `size` bytes of an entry, from `begin` on.

        Args:
            key: of the entry: hexadecimal digits of a hash.
            length: of the entry.
            make: returns the entry, if it is absent.

        Raises:
            RunError: the folder cannot be written.
        """
        path = self.folder / key[:2] / key
        content = _part(path, length, begin, size)
        if content is not None:
            return content
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.parent, quiet=True):
                content = _part(path, length, begin, size)
                if content is None:
                    entry = make()
                    self._make_room(len(entry))
                    write_atomically(path, lambda temporary: temporary.write_bytes(entry))
                    content = entry[begin : begin + size]
                return content
        except (OSError, NotImplementedError) as error:  # the latter from filelock
            raise RunError(
                f"the cache {self.folder} cannot be written: {error}; give one that can be and has "
                f"{self.limit / 2**30:.3g} GiB: {HOME} names the folder that it is in"
            ) from None

    def _make_room(self, size: int) -> None:
        """Count an entry that is going to be written, after removing others if necessary."""
        total = self.folder / "total"
        with locked(total, quiet=True):
            try:
                used = int(total.read_text())
            except (FileNotFoundError, ValueError):  # a killed process has written half of it
                used = self.limit
            if used + size > self.limit:
                used = self._remove(self.limit * _KEPT - size)
            total.write_text(str(used + size))

    def _remove(self, target: float) -> int:
        """Remove the least recently used entries until the others have at most `target` bytes, and
        return how many they have.
        """
        found = []
        for folder in self.folder.glob("??"):
            remove_unfinished(folder)
            with os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        state = entry.stat(follow_symlinks=False)
                        if not entry.is_dir():
                            found.append((state.st_mtime_ns, state.st_size, entry.path))
        used = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if used <= target:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)
            used -= size
        return used


def _part(path: Path, length: int, begin: int, size: int) -> bytes | None:
    """Return a part of an entry, which becomes the most recently used one; null if it is absent."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if os.fstat(descriptor).st_size != length:
            return None
        with suppress(PermissionError):  # another user's
            os.utime(descriptor)
        return os.pread(descriptor, size, begin)
    finally:
        os.close(descriptor)
