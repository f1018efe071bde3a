"""Shards of a folder of `passl pack` at an address.

The manifest says which shards there are, and its index where each sample is, so no header is read.
A shard is read in blocks of whole samples, of about `PIECE` bytes, so that a machine which reads
few samples of a shard need not receive all of it. The samples of a block are compared with their
digests in the index when it is received, and the block is kept in the cache folder of the machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from passl.data.datasets.index import UNUSABLE, Index, read_index
from passl.errors import ConfigError, RunError
from passl.io.disk_cache import DiskCache
from passl.io.files import cache_folder, write_atomically
from passl.io.lock import locked
from passl.io.remote import PIECE, fetch, read_url
from passl.logging import get_logger

MANIFEST, INDEX = "manifest.json", "members.idx"
INDEX_KEY = ("packed",)
"""The key of an index file of `passl pack`, see `index.Kind`."""


def digest_of(content: bytes) -> int:
    """Return the first 8 bytes of a sample's SHA-256, which show damage."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little", signed=True)


@dataclass(frozen=True)
class _File:
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Manifest:
    shards: list[_File]
    image_keys: list[str]
    label_key: str
    index: _File | None = None


@dataclass(frozen=True)
class PackedFolder:
    """A folder of `passl pack` at an address.

    Args:
        root: its address.
        shards: addresses of the shards that are used.
        numbers: their places in the manifest.
        manifest: what the folder has.
        version: SHA-256 of the index, which differs when other data is at the same address.
    """

    root: str
    shards: Sequence[str]
    numbers: Sequence[int]
    manifest: _Manifest
    version: str

    def load_index(self, suffixes: Collection[str], label_key: str) -> Index:
        """Return the places and labels of the samples, from the cache folder if they are there.

        Raises:
            ConfigError: the folder has other suffixes.
            RunError: the index cannot be read.
        """
        manifest = self.manifest
        if manifest.label_key != label_key or not set(manifest.image_keys) <= set(suffixes):
            shown = ", ".join(manifest.image_keys)
            raise ConfigError(
                f"{self.root}: has images with suffixes {shown} and labels "
                f"in {manifest.label_key}; set image_keys and label_key to these"
            )
        assert manifest.index is not None
        url = f"{self.root}/{manifest.index.name}"
        path = cache_folder() / "indexes" / f"{self.version[:32]}.idx"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path):
                try:
                    return self._selected(read_index(path, INDEX_KEY, self._check))
                except FileNotFoundError:
                    pass
                except UNUSABLE as error:
                    get_logger().info("%s: not used, and read again: %s", path, error)
                size, sha256 = manifest.index.bytes, manifest.index.sha256
                write_atomically(path, lambda temporary: fetch(url, temporary, size, sha256))
                return self._selected(read_index(path, INDEX_KEY, self._check))
        except (ConfigError, RunError):
            raise
        except FileNotFoundError:
            raise RunError(f"{url}: is missing; upload the whole folder") from None
        except UNUSABLE as error:
            raise RunError(f"{url}: cannot be used: {error}; pack the data again") from None

    def _check(self, index: Index) -> None:
        """Raise ValueError unless each sample is inside its shard and behind the one before it."""
        names = ("begins", "offset", "size", "digests")
        begins, offset, size, digests = (index.arrays[name] for name in names)
        sizes, count = [shard.bytes for shard in self.manifest.shards], len(index.labels)
        if len(begins) != len(sizes) + 1 or not len(offset) == len(size) == len(digests) == count:
            raise ValueError("samples and shards differ")
        if begins[0] != 0 or begins[-1] != count or (np.diff(begins) < 0).any():
            raise ValueError("the shards are out of order")
        ends = np.repeat(sizes, np.diff(begins))
        if offset.min() < 0 or size.min() < 0 or (size > ends - offset).any():
            raise ValueError("a sample is outside its shard")
        is_first = np.zeros(count + 1, bool)
        is_first[begins] = True
        if ((offset[1:] < offset[:-1] + size[:-1]) & ~is_first[1:-1]).any():
            raise ValueError("the samples of a shard are out of order")

    def _selected(self, index: Index) -> Index:
        """Return the samples of the shards that are used."""
        if list(self.numbers) == list(range(len(self.manifest.shards))):
            return index
        begins, ends = index.arrays["begins"], index.arrays["ends"]
        spans = [(int(begins[number]), int(begins[number + 1])) for number in self.numbers]
        arrays = {
            name: np.concatenate([array[first:last] for first, last in spans])
            for name, array in index.arrays.items()
            if name not in ("names", "ends", "begins")
        }
        counts = [last - first for first, last in spans]
        lengths = np.concatenate([np.diff(ends[first : last + 1]) for first, last in spans])
        arrays["begins"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        arrays["ends"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        names = index.arrays["names"]
        arrays["names"] = np.concatenate([names[ends[first] : ends[last]] for first, last in spans])
        return replace(index, arrays=arrays, names_hash=None)


def find_packed(urls: Sequence[str]) -> PackedFolder:
    """Return the folder of shards, whose names can have the wildcards * ? [].

    Raises:
        ConfigError: the shards are not of one folder of `passl pack`, or it does not have them.
        RunError: it cannot be read.
    """
    roots = sorted({url.rpartition("/")[0] for url in urls})
    if len(roots) > 1:
        raise ConfigError(f"shards at addresses must be of one folder, not of {', '.join(roots)}")
    root = roots[0]
    manifest = _read_manifest(root)
    numbers: list[int] = []
    for url in urls:
        pattern = url.rpartition("/")[2]
        names = enumerate(shard.name for shard in manifest.shards)
        found = [number for number, name in names if name == pattern or fnmatchcase(name, pattern)]
        if not found:
            first, last = manifest.shards[0].name, manifest.shards[-1].name
            raise ConfigError(
                f"{url}: there is no such shard; {MANIFEST} has {len(manifest.shards)}, from "
                f"{first} to {last}"
            )
        numbers += found
    shards = [f"{root}/{manifest.shards[number].name}" for number in numbers]
    assert manifest.index is not None
    return PackedFolder(root, shards, numbers, manifest, manifest.index.sha256)


def _read_manifest(root: str) -> _Manifest:
    url = f"{root}/{MANIFEST}"
    try:
        manifest = TypeAdapter(_Manifest).validate_json(read_url(url))
    except FileNotFoundError:
        raise ConfigError(
            f"{url}: is missing; shards at an address are those of `passl pack`, which writes it"
        ) from None
    except ValidationError as error:
        what = error.errors()[0]["msg"]
        raise ConfigError(f"{url}: is not a manifest of `passl pack`: {what}") from None
    if manifest.index is None or not manifest.shards:
        raise ConfigError(
            f"{url}: names no index; the same call of `passl pack` adds it to its folder, which is "
            "then uploaded again"
        )
    return manifest


class RemoteShards:
    """Reads samples of shards at addresses, by way of a cache on disk.

    It has no connection, so that it can be forked and pickled; see `io.remote`.

    Args:
        shards: their addresses.
        index: of their samples.
        version: distinguishes the data from other data that was at the same addresses.
        cache: where blocks are kept.
    """

    def __init__(self, shards: Sequence[str], index: Index, version: str, cache: DiskCache):
        self._shards, self._version, self._cache = shards, version, cache
        self._arrays: Mapping[str, Any] = index.arrays

    def check_cache(self, buffer_size: int) -> None:
        """Warn of a cache in which the samples that are shuffled together do not fit."""
        size = self._arrays["size"]
        wanted = int(size.mean() * min(buffer_size, len(size))) if len(size) else 0
        if wanted > self._cache.limit:
            get_logger().warning(
                "%s: buffer_size %d takes %.2f GiB of the cache, which has %.2f, so each block is "
                "read several times in training; increase cache_gib or reduce buffer_size",
                self._shards[0],
                buffer_size,
                wanted / 2**30,
                self._cache.limit / 2**30,
            )

    def read(self, shard: int, index: int, name: str) -> bytes:
        """Return the content of a sample.

        Args:
            shard: the place of its shard.
            name: of the sample, for messages.

        Raises:
            RunError: it cannot be read, or is not what was packed.
        """
        offset, size = self._arrays["offset"], self._arrays["size"]
        first, last = self._block(shard, index)
        begin = int(offset[first])
        end = int(offset[last - 1] + size[last - 1])
        url = self._shards[shard]
        place = f"{self._version}\0{url}\0{begin}\0{end}"

        def check(content: bytes) -> None:
            for sample in range(first, last):
                start = int(offset[sample]) - begin
                found = digest_of(content[start : start + int(size[sample])])
                if found != int(self._arrays["digests"][sample]):
                    raise ValueError(
                        f"bytes {begin:,} to {end:,} are not those that were packed (if this "
                        "stays, upload the shard again)"
                    )

        def read() -> bytes:
            try:
                return read_url(url, begin, end, check)
            except FileNotFoundError:
                raise RunError(f"{url}: is missing; upload the whole folder") from None

        key = hashlib.sha256(place.encode()).hexdigest()[:32]
        start = int(offset[index]) - begin
        return self._cache.read(key, end - begin, start, int(size[index]), read)

    def _block(self, shard: int, index: int) -> tuple[int, int]:
        """Return the first sample of a block, and the one behind its last: those that begin in the
        same `PIECE` bytes of the shard.
        """
        first, last = (int(begin) for begin in self._arrays["begins"][shard : shard + 2])
        offset = self._arrays["offset"][first:last]
        number = int(self._arrays["offset"][index]) // PIECE
        begin, end = np.searchsorted(offset, (number * PIECE, (number + 1) * PIECE))
        return first + int(begin), first + int(end)
