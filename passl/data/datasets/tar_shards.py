"""Images in tar files, in the layout of WebDataset."""

from __future__ import annotations

import glob
import itertools
import json
import math
import os
import re
import tarfile
from array import array
from collections.abc import Collection, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from passl.data import DATASETS
from passl.data.datasets.base import FileDataset
from passl.data.datasets.class_file import read_class_file
from passl.data.datasets.packed import PackedPaths
from passl.errors import ConfigError, RunError, no_file
from passl.io.limits import in_line
from passl.utils.types import PositiveInt

_MAX_SHARDS = 100_000
_MAX_LABEL_BYTES = 1 << 20
# How compressed files begin.
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")


@DATASETS.register
class TarShards(FileDataset):
    """Images in tar files, in the layout of WebDataset: a sample is two members of one name,
    `KEY.jpg`, the image, and `KEY.cls`, its label as decimal text. Other members are ignored. The
    key ends at the first dot of the file name.

    The headers are read once, when the dataset is built, to find the place of each image. So the
    length is known, each sample comes exactly once per epoch with any number of processes, and a
    run can be resumed anywhere. Training still reads the shards nearly in order, a few at a time:
    see `shuffled`.

    Args:
        shards: path of the tar files, with braces (`train-{000000..000146}.tar`, `{train,extra}`)
            and the wildcards * ? [].
        class_file: class names in the order of their labels; see `read_class_file`.
        image_keys: suffixes of images.
        label_key: suffix of labels; with `json` they are objects with a number `label`.
        buffer_size: number of samples that are shuffled with each other.
        exif_turn: rotate and mirror images as their EXIF orientation says.
        min_side: decode large JPEG files at 1/2, 1/4 or 1/8 of their size while both sides keep
            this many pixels; null reads them whole. It is faster but changes pixels slightly, so
            leave it null to compare with published scores.

    Raises:
        ConfigError: image_keys and label_key are not different endings; `shards` has wrong braces;
            a shard is missing, compressed, truncated or damaged; a sample does not have exactly one
            image and one label of a class.

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
        image_keys: Sequence[str] = ("jpg", "jpeg", "png", "webp"),
        label_key: str = "cls",
        buffer_size: PositiveInt = 10_000,
        exif_turn: bool = False,
        min_side: PositiveInt | None = None,
    ):
        suffixes = {_ending_of(key) for key in image_keys}
        label_key = _ending_of(label_key)
        self.buffer_size, self.exif_turn, self.min_side = buffer_size, exif_turn, min_side
        self.classes = read_class_file(class_file)
        self.shards = _find_shards(shards)
        self.members = PackedPaths()
        places = array("q")  # shard, offset, size and label of each sample
        for shard, path in enumerate(self.shards):
            for member, offset, size, label in _read_index(path, suffixes, label_key):
                if label >= len(self.classes):
                    raise ConfigError(
                        f"{path}: {member}: label {label} is above the {len(self.classes)} classes "
                        f"of {class_file}, which are counted from 0"
                    )
                self.members.append(member)
                places.extend((shard, offset, size, label))
        if not places:
            raise ConfigError(
                f"{shards}: no sample; a shard has images with suffixes "
                f"{', '.join(sorted(suffixes))}, each with its label in {label_key}"
            )
        columns = np.array(places, dtype=np.int64).reshape(-1, 4)
        self.shard, self.offset, self.size, self.labels = columns.T.copy()

    def source(self, index: int) -> bytes:
        size = int(self.size[index])
        try:
            with open(self.shards[self.shard[index]], "rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, int(self.offset[index]))
        except OSError as error:
            raise RunError(f"{self.name(index)}: cannot be read: {error.strerror}") from None
        if len(content) < size:
            raise RunError(
                f"{self.name(index)}: the shard has become shorter; do not change data during a run"
            )
        return content

    def name(self, index: int) -> str:
        """Return the path of the shard and the member in it."""
        return f"{self.shards[self.shard[index]]}: {self.members[index]}"

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """Return the shards in a random order, with their samples shuffled in a buffer: a random
        sample of the buffer comes next, and the next sample of the shards replaces it. Shards are
        read in order, and a sample is at most about `buffer_size` places too early, and rarely much
        more than that too late.
        """
        begins = np.searchsorted(self.shard, np.arange(len(self.shards) + 1))
        order = np.concatenate(
            [np.arange(begins[s], begins[s + 1]) for s in rng.permutation(len(self.shards))]
        )
        size = min(self.buffer_size, len(order))
        buffer = order[:size].tolist()
        coming = order[size:].tolist()
        for position, place in enumerate(rng.integers(size, size=len(coming)).tolist()):
            buffer[place], coming[position] = coming[position], buffer[place]
        return np.concatenate([np.asarray(coming, dtype=np.int64), rng.permutation(buffer)])

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
        _find_shards(shards)
        return read_class_file(class_file)


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


# --------------------------------------------------------------------------------------------------
# Their members
# --------------------------------------------------------------------------------------------------
def _read_index(
    path: str, suffixes: Collection[str], label_key: str
) -> list[tuple[str, int, int, int]]:
    """Return the member name, offset, size and label of each image of a shard."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    for member, file in _members(path):
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
            labels[key] = _read_label(path, member, file, label_key)
    for key in sorted(images.keys() ^ labels.keys()):
        what, wanted = ("label", [label_key]) if key in images else ("image", sorted(suffixes))
        raise ConfigError(f"{path}: {key}: has no {what} ({', '.join(wanted)})")
    return [(m.name, m.offset_data, m.size, labels[key]) for key, m in images.items()]


def _members(path: str) -> Iterator[tuple[tarfile.TarInfo, BinaryIO]]:
    """Iterate over the members of a tar that are not folders, each with the file to read it from.

    Unlike the standard library, this raises at a header that is damaged or incomplete.
    """
    try:
        with open(path, "rb") as file:
            if file.read(8).startswith(_COMPRESSED):
                raise ConfigError(
                    f"{path}: is compressed, so that no image of it can be read alone; decompress "
                    "it to a plain tar file"
                )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if not member.isdir():
                        yield member, file
                end = os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset)
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


def _split(name: str) -> tuple[str, str]:
    """Return the key and suffix of a member: "a.b/c.seg.PNG" is "a.b/c" and "seg.png"."""
    folder, slash, file = name.rpartition("/")
    if file.startswith("."):  # hidden, such as macOS's ._c.png
        return name, ""
    key, _, suffix = file.partition(".")
    return f"{folder}{slash}{key}", suffix.lower()


def _read_label(path: str, member: tarfile.TarInfo, file: BinaryIO, label_key: str) -> int:
    size = min(member.size, _MAX_LABEL_BYTES)
    content = os.pread(file.fileno(), size, member.offset_data)
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
