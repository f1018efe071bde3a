"""Images in tar files, in the layout of WebDataset."""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from passl.data import DATASETS
from passl.data.datasets.base import FileDataset
from passl.data.datasets.class_file import read_class_file
from passl.data.datasets.index import Index, Kind, load_index, make_index, source_of
from passl.data.datasets.packed import PackedPaths
from passl.data.datasets.remote_shards import RemoteShards, find_packed
from passl.data.datasets.tar_members import read_shards
from passl.errors import ConfigError, RunError, no_file
from passl.io.disk_cache import DiskCache
from passl.io.files import cache_folder
from passl.io.remote import is_url
from passl.utils.types import PositiveFloat, PositiveInt

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")
_MAX_SHARDS = 100_000
_DRAWN = 1 << 18
"""Samples that go through the shuffle buffer at a time, which bounds the memory."""


@DATASETS.register
class TarShards(FileDataset):
    """Images in tar files, in the layout of WebDataset: a sample is two members of one name,
    `KEY.jpg`, the image, and `KEY.cls`, its label as decimal text. Other members are ignored. The
    key ends at the first dot of the file name.

    The headers are read once, to find the place of each image, and an index of them is kept beside
    the shards or in the cache folder (see `datasets.index`). So the length is known, each sample
    comes exactly once per epoch with any number of processes, and a run can be resumed anywhere.
    Training still reads the shards nearly in order, a few at a time: see `shuffled`.

    Args:
        shards: path of the tar files, with braces (`train-{000000..000146}.tar`, `{train,extra}`)
            and the wildcards * ? []; or address of those in a folder of `passl pack`
            (`https://HOST/packed/*.tar`, `s3://BUCKET/packed/*.tar`), see `remote_shards`.
        class_file: class names in the order of their labels; see `read_class_file`.
        image_keys: suffixes of images.
        label_key: suffix of labels; with `json` they are objects with a number `label`.
        buffer_size: number of samples that are shuffled with each other.
        exif_turn: rotate and mirror images as their EXIF orientation says.
        min_side: decode large JPEG files at 1/2, 1/4 or 1/8 of their size while both sides keep
            this many pixels; null reads them whole. It is faster but changes pixels slightly, so
            leave it null to compare with published scores.
        cache_gib: GiB of disk in the cache folder for what is read of shards at an address. All
            runs of a machine share it, and the smallest of their limits holds.

    Raises:
        ConfigError: image_keys and label_key are not different endings; `shards` has wrong braces;
            a shard is missing, compressed, truncated or damaged; a sample does not have exactly one
            image and one label of a class; an address has no folder of `passl pack`.
        RunError: an address cannot be read.

    Example:
        name: TarShards
        shards: data/imagenet-train-{000000..000146}.tar
        class_file: data/LOC_synset_mapping.txt
    """

    def __init__(
        self,
        *,
        shards: str,
        class_file: str,
        image_keys: Sequence[str] = IMAGE_KEYS,
        label_key: str = "cls",
        buffer_size: PositiveInt = 10_000,
        exif_turn: bool = False,
        min_side: PositiveInt | None = None,
        cache_gib: PositiveFloat = 20.0,
    ):
        suffixes = {_ending_of(key) for key in image_keys}
        label_key = _ending_of(label_key)
        self.buffer_size, self.exif_turn, self.min_side = buffer_size, exif_turn, min_side
        self.classes = read_class_file(class_file)
        contents: _LocalShards | RemoteShards
        if is_url(shards):
            folder = find_packed(expand_braces(shards))
            self.shards, index = folder.shards, folder.load_index(suffixes, label_key)
            cache = DiskCache(cache_folder() / "shards", int(cache_gib * 2**30))
            contents = RemoteShards(self.shards, index, folder.version, cache)
            contents.check_cache(buffer_size)
        else:
            self.shards = _find_shards(shards)
            index = load_index(_kind(self.shards, suffixes, label_key, (self.classes, class_file)))
            contents = _LocalShards(self.shards, index)
        if not len(index.labels):
            raise ConfigError(
                f"{shards}: no sample; a shard has images with suffixes "
                f"{', '.join(sorted(suffixes))}, each with its label in {label_key}"
            )
        self.labels, self.names_hash = index.labels, index.names_hash
        self.offset, self.size = index.arrays["offset"], index.arrays["size"]
        self.names, self.members = _Names(self.shards, index), index.names()
        self._contents = contents
        # A kept index may have been made with another class file.
        for wrong in np.flatnonzero(self.labels >= len(self.classes))[:1]:
            shard, member = self.names.parts(int(wrong))
            raise _above(shard, member, int(self.labels[wrong]), (self.classes, class_file))

    def source(self, index: int) -> bytes:
        return self._contents.read(self.names.shard_of(index), index, self.name(index))

    def name(self, index: int) -> str:
        """Return the path of the shard and the member in it."""
        return self.names[index]

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """Return the shards in a random order, with their samples shuffled in a buffer: a random
        sample of the buffer comes next, and the next sample of the shards replaces it. Shards are
        read in order, and a sample is at most about `buffer_size` places too early, and rarely much
        more than that too late.
        """
        begins = self.names.begins
        order = np.concatenate(
            [np.arange(begins[s], begins[s + 1]) for s in rng.permutation(len(self.shards))]
        )
        size = min(self.buffer_size, len(order))
        buffer, coming = order[:size].copy(), order[size:]
        for start in range(0, len(coming), _DRAWN):
            _through_buffer(buffer, coming[start : start + _DRAWN], rng)
        return np.concatenate([coming, rng.permutation(buffer)])

    @classmethod
    def keep_index(
        cls, *, shards: str, class_file: str, image_keys: Sequence[str] = IMAGE_KEYS
    ) -> Index:
        """Make the index of shards that have just been written, for later starts with these
        arguments, and return it.
        """
        suffixes, classes = {_ending_of(key) for key in image_keys}, read_class_file(class_file)
        return make_index(
            _kind(_find_shards(shards), suffixes, "cls", (classes, class_file)), settled=True
        )

    @staticmethod
    def check_options(*, image_keys: Sequence[str], label_key: str, **_: Any) -> None:
        """Raise a ValueError unless the keys are different endings."""
        endings = {_ending_of(key) for key in image_keys}
        if not endings or "" in endings or _ending_of(label_key) in ("", *endings):
            raise ValueError(
                f"image_keys {list(image_keys)} and label_key {label_key!r} must be endings, and "
                "not the same ones"
            )

    @classmethod
    def class_names(  # type: ignore[override]
        cls, *, shards: str, class_file: str, **_: Any
    ) -> list[str]:
        """Return the names in the class file if the shards exist, without opening them."""
        if is_url(shards):
            find_packed(expand_braces(shards))
        else:
            _find_shards(shards)
        return read_class_file(class_file)


def _through_buffer(buffer: np.ndarray, coming: np.ndarray, rng: np.random.Generator) -> None:
    """Exchange each of `coming` in turn with a random one of the buffer. Both change."""
    places = rng.integers(len(buffer), size=len(coming))
    # What is exchanged at a place is what came there last, or what the buffer has at first.
    order = np.argsort(places, kind="stable")
    sorted_places, arrived = places[order], coming[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = sorted_places[1:] != sorted_places[:-1]
    before = np.roll(arrived, 1)
    before[is_first] = buffer[sorted_places[is_first]]
    is_last = np.roll(is_first, -1)
    buffer[sorted_places[is_last]] = arrived[is_last]
    coming[order] = before


class _Names(Sequence[str]):
    """The path of the shard and the member of each sample.

    Attributes:
        begins: int64 [shards + 1], the first sample of each shard, and the number of samples.
    """

    def __init__(self, shards: Sequence[str], index: Index):
        self.begins = index.arrays["begins"]
        self._shards, self._members = shards, index.names()

    def shard_of(self, index: int) -> int:
        """Return the place of a sample's shard."""
        return int(np.searchsorted(self.begins, index, side="right")) - 1

    def parts(self, index: int) -> tuple[str, str]:
        """Return the path of a sample's shard, and the name of its member."""
        return self._shards[self.shard_of(index)], self._members[index]

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError(index)
        return "{}: {}".format(*self.parts(index))


class _LocalShards:
    """Reads samples of shards on a disk or a mount.

    Args:
        shards: their paths.
        index: of their samples.
    """

    def __init__(self, shards: Sequence[str], index: Index):
        self._shards = shards
        self._offset, self._size = index.arrays["offset"], index.arrays["size"]

    def read(self, shard: int, index: int, name: str) -> bytes:
        """Return the content of a sample; see `RemoteShards.read`."""
        size = int(self._size[index])
        try:
            with open(self._shards[shard], "rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, int(self._offset[index]))
        except OSError as error:
            raise RunError(f"{name}: cannot be read: {error.strerror}") from None
        if len(content) < size:
            raise RunError(f"{name}: the shard has become shorter; do not change data during a run")
        return content


# --------------------------------------------------------------------------------------------------
# The index
# --------------------------------------------------------------------------------------------------
_Classes = tuple[Sequence[str], str]
"""The classes and the file that they are from."""


def _kind(shards: Sequence[str], suffixes: set[str], label_key: str, classes: _Classes) -> Kind:
    folder = os.path.dirname(os.path.abspath(shards[0]))

    def check(index: Index) -> None:
        begins, offset, size = (index.arrays[name] for name in ("begins", "offset", "size"))
        count = len(index.labels)
        in_order = begins[0] == 0 and begins[-1] == count and (np.diff(begins) >= 0).all()
        if not (len(begins) == len(shards) + 1 and in_order and len(offset) == len(size) == count):
            raise ValueError("it is damaged: samples and shards differ")
        ends = np.repeat([os.stat(shard).st_size for shard in shards], np.diff(begins))
        if offset.min() < 0 or size.min() < 0 or (size > ends - offset).any():
            raise ValueError("it is damaged: a sample is outside its shard")

    names = [os.path.relpath(os.path.abspath(shard), folder) for shard in shards]
    return Kind(
        key=["tar", label_key, *sorted(suffixes), "", *names],
        make=lambda: _read(shards, suffixes, label_key, classes),
        full_names=lambda index: _Names(shards, index),
        folder=folder,
        check=check,
    )


def _read(shards: Sequence[str], suffixes: set[str], label_key: str, classes: _Classes) -> Index:
    members, begins, sources = PackedPaths(), array("q", [0]), [source_of(s) for s in shards]
    places = array("q")  # offset, size and label of each sample
    for path, samples in zip(shards, read_shards(shards, suffixes, label_key), strict=True):
        for member, *place in samples:
            if place[-1] >= len(classes[0]):
                raise _above(path, member, place[-1], classes)
            members.append(member)
            places.extend(place)
        begins.append(len(members))
    columns = np.array(places, dtype=np.int64).reshape(-1, 3).T.copy()
    content, ends = members.arrays
    arrays = {
        "names": content,
        "ends": ends,
        "begins": np.array(begins, np.int64),
        **dict(zip(("offset", "size", "labels"), columns, strict=True)),
    }
    return Index(arrays, {}, sources)


def _above(shard: str, member: str, label: int, classes: _Classes) -> ConfigError:
    return ConfigError(
        f"{shard}: {member}: label {label} is above the {len(classes[0])} classes of {classes[1]}, "
        "which are counted from 0"
    )


# --------------------------------------------------------------------------------------------------
# Which files
# --------------------------------------------------------------------------------------------------
def _ending_of(key: str) -> str:
    """Return the ending of a shard's members that a key stands for."""
    return key.lower().lstrip(".")


def _find_shards(pattern: str) -> list[str]:
    """Return the files of a path with braces and wildcards."""
    found: list[str] = []
    missing: list[str] = []
    for path in expand_braces(pattern):
        if os.path.isfile(path):
            found.append(path)
        else:  # glob also returns broken links
            for match in sorted(glob.glob(path)) or [path]:
                (found if os.path.isfile(match) else missing).append(match)
    if missing:
        more = f"; {len(missing) - 1} more are no files" if len(missing) > 1 else ""
        what = no_file(missing[0], "shard")
        raise ConfigError(f"{missing[0]}: {what}{more}; shards is {pattern!r}")
    return found


def expand_braces(pattern: str) -> list[str]:
    """Expand braces as bash does, in order: `a{08..10}` to a08, a09, a10, and `{a,b}.tar` to a.tar,
    b.tar.

    Raises:
        ConfigError: braces are neither, are nested, or expand to more than 100,000 texts.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    literals, braces = parts[::2], parts[1::2]
    if any("{" in literal for literal in literals):
        raise ConfigError(f"shards {pattern!r} has a brace that is nested or not closed")
    choices = [_choices(inside, pattern) for inside in braces]
    if math.prod(map(len, choices)) > _MAX_SHARDS:
        raise ConfigError(f"shards {pattern!r} expands to more than {_MAX_SHARDS} files")
    return [
        literals[0] + "".join(map("".join, zip(chosen, literals[1:], strict=True)))
        for chosen in itertools.product(*choices)
    ]


def _choices(inside: str, pattern: str) -> list[str]:
    if span := re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", inside):
        first, last = int(span[1]), int(span[2])
        if first <= last < first + _MAX_SHARDS:
            return [f"{number:0{len(span[1])}d}" for number in range(first, last + 1)]
    elif "," in inside:
        return inside.split(",")
    raise ConfigError(
        f"shards {pattern!r}: {{{inside}}} is neither FIRST..LAST, of at most {_MAX_SHARDS} files, "
        "nor A,B,C"
    )
