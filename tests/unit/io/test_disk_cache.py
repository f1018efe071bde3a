"""A cache of bounded size on disk, shared by processes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from passl.errors import RunError
from passl.io.disk_cache import DiskCache
from passl.io.pool import map_in_processes


def key_of(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()[:32]


def entries(folder: Path) -> dict[str, int]:
    found = folder.glob("??/*")
    return {path.name: path.stat().st_size for path in found if path.is_file()}


def test_least_recently_used_entries_are_removed(tmp_path):
    cache, made = DiskCache(tmp_path / "cache", 1000), []

    def read(number: int) -> bytes:
        def make() -> bytes:
            made.append(number)
            return bytes([number]) * 200

        return cache.read(key_of(number), 200, 10, 50, make)

    for number in (0, 1, 2, 3, 0, 4, 0):
        assert read(number) == bytes([number]) * 50
    assert made == [0, 1, 2, 3, 4]
    assert sum(entries(cache.folder).values()) == 1000
    read(5)
    assert key_of(0) in entries(cache.folder)  # used after the others
    assert key_of(1) not in entries(cache.folder)
    assert sum(entries(cache.folder).values()) <= 1000
    # A cut entry, and a count that was not written whole, are made again.
    path = cache.folder / key_of(5)[:2] / key_of(5)
    path.write_bytes(b"")
    (cache.folder / "total").write_text("")
    assert read(5) == bytes([5]) * 50
    assert made[-2:] == [5, 5]
    assert int((cache.folder / "total").read_text()) == sum(entries(cache.folder).values())


def test_processes_share_entries(tmp_path):
    cache = DiskCache(tmp_path / "cache", 3000)
    log = tmp_path / "log"

    def read(turn: int) -> bytes:
        number = turn % 6

        def make() -> bytes:
            with log.open("ab") as file:
                file.write(bytes([number]))
            return bytes([number]) * 200

        return cache.read(key_of(number), 200, 0, 200, make)

    results = list(map_in_processes(read, range(30), 2))
    assert results == [bytes([turn % 6]) * 200 for turn in range(30)]
    assert sorted(log.read_bytes()) == list(range(6))  # each was made once
    small = DiskCache(tmp_path / "small", 600)
    cache.folder, cache.limit = small.folder, small.limit
    assert list(map_in_processes(read, range(30), 2)) == results
    assert sum(entries(small.folder).values()) <= 600 + 2 * 200  # what was being written


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written: .*PASSL_HOME"):
        DiskCache(tmp_path / "file" / "cache", 1000).read(key_of(0), 1, 0, 1, lambda: b"a")
