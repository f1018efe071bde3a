"""Images in tar files, WebDataset's layout."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from array import array
from collections.abc import Sequence

import numpy as np
from PIL import Image

from passl.data import rules
from passl.data.datasets.base import ImageDataset
from passl.data.datasets.class_file import read_class_file
from passl.data.datasets.images import read_image
from passl.data.datasets.packed import PackedPaths
from passl.errors import ConfigError, RunError, no_file
from passl.io.limits import in_line

_MOST_SHARDS = 100_000
_OPEN = 32
"""Shards that a process keeps open."""
_LABEL_BYTES = 1 << 20
# How compressed files begin.
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")


class TarShards(ImageDataset):
    """Tar files whose members come in pairs of one name: `KEY.jpg`, an image, and `KEY.cls`, its
    label as decimal text. What else is in them is left out. As in WebDataset, the key ends at the
    first dot of the member's name.

    The headers are read once, to find where each image lies, and the labels with them; so the
    length is known, every sample comes exactly once an epoch however many processes share them, and
    a run can be resumed anywhere. Still, training reads the shards nearly in order, a few at a
    time: see `shuffled`.

    Args:
        shards: path of the tar files, with braces (`train-{000000..000146}.tar`, `{train,extra}`)
            and the wildcards * ? [].
        class_file: names of the classes in the order of their labels; see `read_class_file`.
        image_keys: endings of images.
        label_key: ending of labels; those in `json` are objects with a number `label`.
        buffer_size: samples that are shuffled with each other.
        exif_turn: turn images as their EXIF orientation says.
        min_side: read large JPEG files faster, at a half, a quarter or an eighth of their size,
            as long as both sides keep this many pixels; null reads them whole. Pixels change a
            little, so evaluations that are compared with published ones leave it null.

    Raises:
        ValueError: endings, a buffer or a `min_side` that make no sense.
        ConfigError: braces that make none; a shard that is missing, compressed, truncated or
            damaged; a sample that has not exactly one image and one label of a class.
    """

    def __init__(
        self,
        *,
        shards: str,
        class_file: str,
        image_keys: Sequence[str] = ("jpg", "jpeg", "png", "webp"),
        label_key: str = "cls",
        buffer_size: int = 10_000,
        exif_turn: bool = False,
        min_side: int | None = None,
    ):
        rules.tar_shards(
            image_keys=image_keys,
            label_key=label_key,
            buffer_size=buffer_size,
            min_side=min_side,
        )
        endings = {rules.ending_of(key) for key in image_keys}
        label_key = rules.ending_of(label_key)
        self.classes = read_class_file(class_file)
        self.paths = _shards(shards)
        self.buffer_size, self.exif_turn, self.min_side = buffer_size, exif_turn, min_side
        self.members = PackedPaths()
        places = array("q")  # of each sample its shard, offset, size and label
        for shard, path in enumerate(self.paths):
            for member, offset, size, label in _samples(path, endings, label_key):
                if label >= len(self.classes):
                    raise ConfigError(
                        f"{path}: {member}: label {label} is above the {len(self.classes)} classes "
                        f"of {class_file}, which are counted from 0"
                    )
                self.members.append(member)
                places.extend((shard, offset, size, label))
        if not places:
            raise ConfigError(
                f"{shards}: no sample; a shard has images ending in {', '.join(sorted(endings))} "
                f"and beside each its label in {label_key}"
            )
        columns = np.array(places, dtype=np.int64).reshape(-1, 4)
        self.shard, self.offset, self.size, self.labels = columns.T.copy()
        self._files = _Files(self.paths)

    def load_image(self, index: int) -> Image.Image:
        return read_image(self.source(index), self.name(index), self.exif_turn, self.min_side)

    def source(self, index: int) -> bytes:
        """The member's content."""
        size = int(self.size[index])
        try:
            content = self._files.read(int(self.shard[index]), int(self.offset[index]), size)
        except OSError as error:
            raise RunError(f"{self.name(index)}: cannot be read: {error.strerror}") from None
        if len(content) < size:
            raise RunError(f"{self.name(index)}: the shard has become shorter; leave the data be")
        return content

    def name(self, index: int) -> str:
        """The shard's path and the member in it."""
        return f"{self.paths[self.shard[index]]}: {self.members[index]}"

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """The shards in a random order, and their samples through a shuffle buffer: from it a
        random one is taken, and the next one of the shards put in its place. So reading goes
        through the shards in order, and a sample is at most about `buffer_size` places too early,
        and rarely much more than that too late.
        """
        begins = np.searchsorted(self.shard, np.arange(len(self.paths) + 1))
        order = np.concatenate(
            [np.arange(begins[s], begins[s + 1]) for s in rng.permutation(len(self.paths))]
        )
        size = min(self.buffer_size, len(order))
        buffer = order[:size].tolist()
        coming = order[size:].tolist()
        for position, place in enumerate(rng.integers(size, size=len(coming)).tolist()):
            buffer[place], coming[position] = coming[position], buffer[place]
        return np.concatenate([np.asarray(coming, dtype=np.int64), rng.permutation(buffer)])

    @staticmethod
    def class_names(
        *,
        shards: str,
        class_file: str,
        image_keys: Sequence[str] = ("jpg", "jpeg", "png", "webp"),
        label_key: str = "cls",
        buffer_size: int = 10_000,
        exif_turn: bool = False,
        min_side: int | None = None,
    ) -> list[str]:
        """What the class file lists, if the shards are there; they are not opened."""
        _shards(shards)
        return read_class_file(class_file)


class _Files:
    """Parts of files, of which the last few stay open. Every read names its place, so that a
    process that was forked can go on with the files that are open.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = paths
        self.open: dict[int, int] = {}  # the last one used comes last

    def read(self, file: int, offset: int, size: int) -> bytes:
        """That many bytes, or less if the file ends."""
        descriptor = self.open.pop(file, None)
        if descriptor is None:
            descriptor = os.open(self.paths[file], os.O_RDONLY)
        self.open[file] = descriptor
        if len(self.open) > _OPEN:
            os.close(self.open.pop(next(iter(self.open))))
        return os.pread(descriptor, size, offset)

    def __reduce__(self):
        return _Files, (self.paths,)

    def __del__(self):
        for descriptor in self.open.values():
            os.close(descriptor)


# --------------------------------------------------------------------------------------------------
# Which files
# --------------------------------------------------------------------------------------------------
def _shards(pattern: str) -> list[str]:
    """The files of a path with braces and wildcards."""
    found: list[str] = []
    missing: list[str] = []
    for path in expand_braces(pattern):
        if os.path.isfile(path):
            found.append(path)
        else:  # glob also finds links that lead nowhere
            for match in sorted(glob.glob(path)) or [path]:
                (found if os.path.isfile(match) else missing).append(match)
    if missing:
        more = f"; {len(missing) - 1} more are no files" if len(missing) > 1 else ""
        what = no_file(missing[0], "shard")
        raise ConfigError(f"{missing[0]}: {what}{more}; shards is {pattern!r}")
    return found


def expand_braces(pattern: str) -> list[str]:
    """What a text with braces stands for, in order: `a{08..10}` for a08, a09, a10, and `{a,b}.tar`
    for a.tar, b.tar.

    Raises:
        ConfigError: braces that are neither, or that stand for more than 100,000.
    """
    done, left = [""], pattern
    while left:
        literal, brace, left = left.partition("{")
        choices = [""]
        if brace:
            inside, end, left = left.partition("}")
            if not end:
                raise ConfigError(f"shards {pattern!r} has a brace that does not end")
            choices = _choices(inside, pattern)
        if len(done) * len(choices) > _MOST_SHARDS:
            raise ConfigError(f"shards {pattern!r} stands for more than {_MOST_SHARDS} files")
        done = [f"{begin}{literal}{choice}" for begin in done for choice in choices]
    return done


def _choices(inside: str, pattern: str) -> list[str]:
    if span := re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", inside):
        first, last = int(span[1]), int(span[2])
        if first <= last < first + _MOST_SHARDS:
            return [f"{number:0{len(span[1])}d}" for number in range(first, last + 1)]
    elif "," in inside and "{" not in inside:
        return inside.split(",")
    raise ConfigError(
        f"shards {pattern!r}: {{{inside}}} is neither FIRST..LAST, of at most {_MOST_SHARDS} "
        "files, nor A,B,C"
    )


# --------------------------------------------------------------------------------------------------
# What is in them
# --------------------------------------------------------------------------------------------------
def _samples(path: str, endings: set[str], label_key: str) -> list[tuple[str, int, int, int]]:
    """Of each image of a shard: its member's name, where it lies, its size and label."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    for member, file in _members(path):
        key, ending = _split(member.name)
        taken: dict = images if ending in endings else labels
        if ending not in (*endings, label_key):
            continue
        if not member.isreg() or member.issparse():
            raise ConfigError(
                f"{path}: {member.name}: is a link or sparse; make the shard of plain files"
            )
        if key in taken:
            what = "image" if ending in endings else "label"
            raise ConfigError(
                f"{path}: {member.name}: the second {what} of {key}; a sample has one image and "
                "one label"
            )
        if ending in endings:
            images[key] = member
        else:
            labels[key] = _label(path, member, file, label_key)
    for one, other, what in ((images, labels, "label"), (labels, images, "image")):
        for key in one:
            if key not in other:
                wanted = label_key if what == "label" else ", ".join(sorted(endings))
                raise ConfigError(f"{path}: {key}: has no {what} ({wanted})")
    return [(m.name, m.offset_data, m.size, labels[key]) for key, m in images.items()]


def _members(path: str):
    """The files of a tar, each with the file to read it from.

    The standard library ends in silence at a header that is damaged or incomplete, where we do not.
    """
    try:
        with open(path, "rb") as file:
            if file.read(8).startswith(_COMPRESSED):
                raise ConfigError(
                    f"{path}: is compressed, so that no image of it can be read alone; unpack it "
                    "to a plain tar file"
                )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if not member.isdir():
                        yield member, file
                end = os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset)
            if end.strip(b"\0") or len(end) < tarfile.BLOCKSIZE:
                what = "damaged" if len(end) == tarfile.BLOCKSIZE else "truncated"
                raise ConfigError(f"{path}: {what} at byte {archive.offset:,}; fetch it again")
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged header can fail in any way
        raise ConfigError(
            f"{path}: no tar file, or damaged: {in_line(error)}; fetch it again"
        ) from None


def _split(name: str) -> tuple[str, str]:
    """Key and ending of a member: "a.b/c.seg.PNG" is "a.b/c" and "seg.png"."""
    folder, slash, file = name.rpartition("/")
    if file.startswith("."):  # hidden, such as macOS's ._c.png
        return name, ""
    key, _, ending = file.partition(".")
    return f"{folder}{slash}{key}", ending.lower()


def _label(path: str, member: tarfile.TarInfo, file, label_key: str) -> int:
    size = min(member.size, _LABEL_BYTES)
    content = os.pread(file.fileno(), size, member.offset_data)
    if len(content) < size:
        raise ConfigError(f"{path}: truncated within {member.name}; fetch it again")
    text = content.decode("utf-8", "replace").strip()
    if label_key == "json":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        text = str(value.get("label")) if isinstance(value, dict) else "no object"
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ConfigError(
            f"{path}: {member.name}: the label {text[:40]!r} is not a number of at least 0"
        )
    return int(text)
