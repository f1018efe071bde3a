"""The samples of tar files in the layout of WebDataset."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import BinaryIO, cast

from passl.errors import ConfigError
from passl.io.limits import in_line
from passl.io.pool import map_in_processes
from passl.machine import usable_processors

_MAX_LABEL_BYTES = 1 << 20
# How compressed files begin.
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
_AT_ONCE = 4096
"""Bytes that are read at a time: the header of a small label, its content and the next header."""
_FEW = 16
"""Shards that are read in this process."""
_READERS = 8
"""Processes that read more shards; at least this many, because they wait for a disk or network."""

Member = tuple[str, int, int, int]
"""Name, offset, size and label of an image."""


def read_shards(
    shards: Sequence[str], suffixes: Collection[str], label_key: str
) -> Iterator[list[Member]]:
    """Iterate over the images of each shard, in order.

    Raises:
        ConfigError: a shard is compressed, truncated or damaged; a sample does not have exactly one
            image and one label.
    """
    read = partial(_read_index, suffixes=suffixes, label_key=label_key)
    workers = max(_READERS, usable_processors()) if len(shards) > _FEW else 0
    yield from map_in_processes(read, shards, workers, chunksize=4)


def _read_index(
    path: str, suffixes: Collection[str], label_key: str
) -> list[tuple[str, int, int, int]]:
    """Return the member name, offset, size and label of each image of a shard."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    for member, content in _members(path):
        key, suffix = _split(member.name)
        if suffix not in suffixes and suffix != label_key:
            continue
        if not member.isreg() or member.issparse():
            raise ConfigError(
                f"{path}: {member.name}: is a link or sparse; make the shard of plain files"
            )
        what = "image" if suffix in suffixes else "label"
        if key in (images if what == "image" else labels):
            raise ConfigError(
                f"{path}: {member.name}: the second {what} of {key}; a sample has one image and "
                "one label"
            )
        if what == "image":
            images[key] = member
        else:
            labels[key] = _read_label(path, member, content, label_key)
    for key in sorted(images.keys() ^ labels.keys()):
        what, wanted = ("label", [label_key]) if key in images else ("image", sorted(suffixes))
        raise ConfigError(f"{path}: {key}: has no {what} ({', '.join(wanted)})")
    return [(m.name, m.offset_data, m.size, labels[key]) for key, m in images.items()]


def _members(path: str) -> Iterator[tuple[tarfile.TarInfo, _Places]]:
    """Iterate over the members of a tar that are not folders, each with the file to read it from.

    Unlike the standard library, this raises at a header that is damaged or incomplete.
    """
    try:
        with open(path, "rb", buffering=0) as opened:
            file = _Places(opened.fileno())
            if file.read(8).startswith(_COMPRESSED):
                raise ConfigError(
                    f"{path}: is compressed, so that no image of it can be read alone; decompress "
                    "it to a plain tar file"
                )
            file.seek(0)
            with tarfile.open(fileobj=cast(BinaryIO, file), mode="r:") as archive:
                for member in archive:
                    if not member.isdir():
                        yield member, file
                end = file.read_at(archive.offset, tarfile.BLOCKSIZE)
            if end.strip(b"\0") or len(end) < tarfile.BLOCKSIZE:
                what = "damaged" if len(end) == tarfile.BLOCKSIZE else "truncated"
                raise ConfigError(f"{path}: {what} at byte {archive.offset:,}; download it again")
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged header can fail in any way
        raise ConfigError(
            f"{path}: damaged, or not a tar file: {in_line(error)}; download it again"
        ) from None


class _Places:
    """A file whose seeks cost nothing, and whose small reads that lie together are one: over a
    network each read waits for an answer.
    """

    def __init__(self, descriptor: int):
        self._descriptor, self._place = descriptor, 0
        self._begin, self._block = 0, b""

    def seek(self, place: int) -> int:
        self._place = place
        return place

    def tell(self) -> int:
        return self._place

    def read(self, size: int) -> bytes:
        content = self.read_at(self._place, size)
        self._place += len(content)
        return content

    def read_at(self, place: int, size: int) -> bytes:
        start = place - self._begin
        if start < 0 or start + size > len(self._block):
            self._begin, start = place, 0
            self._block = os.pread(self._descriptor, max(size, _AT_ONCE), place)
        return self._block[start : start + size]


def _split(name: str) -> tuple[str, str]:
    """Return the key and suffix of a member: "a.b/c.seg.PNG" is "a.b/c" and "seg.png"."""
    folder, slash, file = name.rpartition("/")
    if file.startswith("."):  # hidden, such as macOS's ._c.png
        return name, ""
    key, _, suffix = file.partition(".")
    return f"{folder}{slash}{key}", suffix.lower()


def _read_label(path: str, member: tarfile.TarInfo, file: _Places, label_key: str) -> int:
    size = min(member.size, _MAX_LABEL_BYTES)
    content = file.read_at(member.offset_data, size)
    if len(content) < size:
        raise ConfigError(f"{path}: truncated within {member.name}; download it again")
    text = content.decode("utf-8", "replace").strip()
    if label_key == "json":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        text = str(value.get("label")) if isinstance(value, dict) else "not an object"
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ConfigError(
            f"{path}: {member.name}: the label {text[:40]!r} is not a number of at least 0"
        )
    return int(text)
