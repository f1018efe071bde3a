"""Where the samples of a large dataset are: found once, kept in a file, and mapped into memory.

An index file has the layout of safetensors: the length of a header, the header in JSON, and flat
arrays. Its processes and their forked workers share one copy of it, the system's cache of the file.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from passl.data.datasets.fingerprint import hash_of_names
from passl.data.datasets.packed import PackedPaths
from passl.io.files import cache_folder, open_regular, write_atomically
from passl.io.lock import locked
from passl.logging import get_logger

SWITCH = "PASSL_INDEX"
"""0 in the environment: no index is kept or read."""
_FORMAT = 1
_FEWEST = 1000
"""Samples of the smallest dataset whose index is kept."""
_SETTLED = 2 * 10**9
"""Nanoseconds. A file system may count times in steps of up to 2 s (FAT), so data that has changed
within this time could change again without another time.
"""
_TYPES: Mapping[str, np.dtype[Any]] = {"I64": np.dtype("<i8"), "U8": np.dtype("u1")}
_BLOCK = 1 << 20
UNUSABLE = (OSError, ValueError, LookupError, TypeError, RecursionError)
"""What `read_index` raises."""


class Source(NamedTuple):
    """A file or folder that an index was made of.

    Args:
        path: absolute.
        size: bytes of a file; 0 of a folder.
        time: nanoseconds since 1970, when it was last modified.
    """

    path: str
    size: int
    time: int


@dataclass(frozen=True)
class Index:
    """The samples of a dataset.

    Args:
        arrays: `names` and `ends`, as of `PackedPaths`; `labels`, int64 [N]; and int64 arrays of
            the kind of dataset. Some may be mapped from a file, read-only.
        facts: JSON of the kind of dataset.
        sources: what it was made of; empty once it is mapped.
        names_hash: see `ImageDataset`; null if it was not computed.
    """

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    sources: Sequence[Source] = ()
    names_hash: str | None = None

    @property
    def labels(self) -> np.ndarray:
        return self.arrays["labels"]

    def names(self, root: str = "") -> PackedPaths:
        """Return the names of the samples, joined to a folder."""
        return PackedPaths.of_arrays(root, self.arrays["names"], self.arrays["ends"])


class Kind(NamedTuple):
    """How the index of a dataset is found, made and read.

    Args:
        key: distinguishes datasets: every argument that the index depends on.
        make: reads the data.
        full_names: the names of the samples as the dataset has them.
        folder: where the index is kept if it can be, so that other machines find it there; null
            keeps it in the user's cache folder.
        check: raises ValueError for an index that would read what it must not.
    """

    key: Sequence[str]
    make: Callable[[], Index]
    full_names: Callable[[Index], Sequence[str]]
    folder: str | None = None
    check: Callable[[Index], object] = lambda _: None


def source_of(path: str) -> Source:
    """Return the present state of a file or folder.

    Raises:
        OSError: there is none.
    """
    found = os.stat(path)
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return Source(os.path.abspath(path), size, found.st_mtime_ns)


def load_index(kind: Kind) -> Index:
    """Return the kept index of a dataset, or make it and keep it. Of several processes of a user
    one makes it, and the others wait.

    An index is not kept if the dataset is small, was changed in the last seconds, or no folder can
    be written.

    Raises:
        ConfigError: whatever `kind.make` raises.
    """
    index = current_index(kind)
    if index is not None:
        return index
    with _alone(kind):
        index = current_index(kind, get_logger().info)  # another process may have made it
        return index or make_index(kind)


def make_index(kind: Kind, settled: bool = False) -> Index:
    """Make an index, and keep it if that pays and can be done.

    Args:
        settled: keep it also if the data is small or has just been written, because nobody else
            writes it.

    Raises:
        ConfigError: whatever `kind.make` raises.
    """
    started = time.time_ns()
    index = kind.make()
    newest = max((source.time for source in index.sources), default=started)
    places = list(_places(kind))
    pays = settled or (len(index.labels) >= _FEWEST and newest <= started - _SETTLED)
    if not places or not len(index.labels) or not pays:
        return index
    index = replace(index, names_hash=hash_of_names(kind.full_names(index)))
    seconds, problems = (time.time_ns() - started) / 1e9, []
    for path in places:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(
                path, partial(write_index, index=index, key=kind.key, folder=kind.folder)
            )
            mapped = read_index(path, kind.key, kind.check, kind.folder)
        except (OSError, ValueError) as error:  # the latter: the data changes while it is read
            problems.append(str(error))
            continue
        get_logger().info(
            "index of %d samples made in %.1f s: %s", len(index.labels), seconds, path
        )
        return mapped
    get_logger().info("the index of the data is not kept: %s", "; ".join(problems))
    return index


def current_index(kind: Kind, log: Callable[..., object] = lambda *_: None) -> Index | None:
    """Return the kept index of a dataset; null if there is none, or if it is damaged or older than
    the data, which is logged.
    """
    for path in _places(kind):
        try:
            return read_index(path, kind.key, kind.check, kind.folder)
        except FileNotFoundError:
            continue
        except UNUSABLE as error:
            log("%s: not used, and made again: %s", path, error)
    return None


def _places(kind: Kind) -> Iterator[Path]:
    """The files in which an index may be kept, the preferred one first."""
    if os.environ.get(SWITCH) == "0":
        return
    if kind.folder is not None:
        yield Path(kind.folder, f".passl-{_digest(kind.key)}.idx")
    place = os.path.abspath(kind.folder or "")
    yield cache_folder() / "indexes" / f"{_digest([place, *kind.key])}.idx"


def _digest(key: Sequence[str]) -> str:
    text = "\0".join([str(_FORMAT), *key])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@contextmanager
def _alone(kind: Kind) -> Iterator[None]:
    """Hold the lock of an index, if there is a place for it."""
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):
            for place in list(_places(kind))[-1:]:  # in the cache folder: one for each machine
                place.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(place))
        yield


# --------------------------------------------------------------------------------------------------
# The file
# --------------------------------------------------------------------------------------------------
def write_index(path: Path, index: Index, key: Sequence[str], folder: str | None = None) -> None:
    """Write an index; see `Kind` for its key and folder."""
    own = os.path.abspath(folder) if folder is not None else ""
    paths = PackedPaths()
    for source in index.sources:
        paths.append(os.path.relpath(source.path, own) if own else source.path)
    content, ends = paths.arrays
    arrays = {
        **index.arrays,
        "source_ends": ends,
        "source_sizes": np.array([source.size for source in index.sources], "<i8"),
        "source_times": np.array([source.time for source in index.sources], "<i8"),
        "source_names": content,
    }
    names = {dtype: name for name, dtype in _TYPES.items()}
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)  # which aligns them
    header: dict[str, Any] = {}
    checksum = begin = 0
    for name, array in ordered:
        end = begin + array.nbytes
        dtype = names[array.dtype]
        header[name] = {"dtype": dtype, "shape": [len(array)], "data_offsets": [begin, end]}
        checksum, begin = zlib.crc32(np.ascontiguousarray(array).data, checksum), end
    facts = {
        "key": list(key),
        "checksum": checksum,
        "names_hash": index.names_hash,
        "facts": index.facts,
    }
    header["__metadata__"] = {"index": json.dumps(facts)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            file.write(np.ascontiguousarray(array).data)


def read_index(
    path: Path, key: Sequence[str], check: Callable[[Index], object], folder: str | None = None
) -> Index:
    """Map an index; see `Kind` for its key, check and folder.

    Raises:
        FileNotFoundError: there is none.
        OSError, ValueError, LookupError, TypeError, RecursionError: it is not to be used; the
            message of the first two is the reason.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        begin = 8 + int.from_bytes(file.read(8), "little")
        if not 8 < begin <= size:
            raise ValueError("it is damaged")
        header, checksum = json.loads(file.read(begin - 8)), 0
        while block := file.read(_BLOCK):  # reading, unlike the map, adds nothing to this process
            checksum = zlib.crc32(block, checksum)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    about = json.loads(header.pop("__metadata__")["index"])
    if about["key"] != list(key):
        raise ValueError("it is of other data")
    if checksum != about["checksum"]:
        raise ValueError("it is damaged")
    arrays = {
        name: np.frombuffer(
            mapped,
            _TYPES[place["dtype"]],
            (place["data_offsets"][1] - place["data_offsets"][0])
            // _TYPES[place["dtype"]].itemsize,
            begin + place["data_offsets"][0],
        )
        for name, place in header.items()
    }
    own = {name: arrays.pop(f"source_{name}") for name in ("names", "ends", "sizes", "times")}
    index = Index(arrays, about["facts"], (), about["names_hash"])
    _check_sources(folder, **own)
    _check(index)
    check(index)
    if hasattr(mapped, "madvise"):
        # The checks have touched many pages; those that are used come back.
        mapped.madvise(mmap.MADV_DONTNEED)
    return index


def _check_sources(
    folder: str | None, names: np.ndarray, ends: np.ndarray, sizes: np.ndarray, times: np.ndarray
) -> None:
    """Raise ValueError if something that the index was made of has changed."""
    root = os.path.abspath(folder) if folder is not None else ""
    paths = PackedPaths.of_arrays(root, names, ends)
    states = zip(paths, sizes.tolist(), times.tolist(), strict=True)
    for path, size, modified in states:
        try:
            found = source_of(path)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        if (found.size, found.time) != (size, modified):
            raise ValueError(f"{path} has changed")


def _check(index: Index) -> None:
    """Raise ValueError if numbers are out of range."""
    if len(index.names()) != len(index.labels) or not len(index.labels):
        raise ValueError("it is damaged: names and labels differ in number")
    if index.labels.min() < 0:
        raise ValueError("it is damaged: a label is below 0")
