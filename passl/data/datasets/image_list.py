"""Images and labels from a list."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence

import numpy as np
from PIL import Image

from passl.data.datasets.base import ImageDataset
from passl.data.datasets.class_file import iterate_lines, read_class_file
from passl.data.datasets.images import check_min_side, read_image
from passl.data.datasets.packed import PackedPaths
from passl.errors import ConfigError

_SHOWN = 5
_MOST_CLASSES = 1_000_000
_MOST_GAPS = 10
"""Without a class file there may be that many classes, or that many times the labels that occur.
Every number up to the largest label gets a name, so one that is no label could take all memory.
"""


class ImageList(ImageDataset):
    """Images anywhere below `dataroot`, listed as `PATH LABEL`, one a line: PaddleClas's
    `train_list.txt`.

    Images are not looked for until they are read, but for the first one: a list may have
    millions.

    Args:
        dataroot: the folder that the paths begin at.
        list_file: the list.
        class_file: names of the classes in the order of their labels; see `read_class_file`. Null:
            the classes are called by their numbers, up to the largest label of the list, which must
            be below 1,000,000 or ten times the number of different labels.
        delimiter: what stands between path and label, the last one of the line counts, so that
            paths may have it too. Null: blanks.
        exif_turn: turn images as their EXIF orientation says.
        min_side: read large JPEG files faster, at a half, a quarter or an eighth of their size,
            as long as both sides keep this many pixels; null reads them whole. Pixels change a
            little, so evaluations that are compared with published ones leave it null.

    Raises:
        ValueError: min_side is below 1.
        ConfigError: the delimiter is empty, a file is missing, a line is wrong, or the first
            image is not there.
    """

    def __init__(
        self,
        *,
        dataroot: str,
        list_file: str,
        class_file: str | None = None,
        delimiter: str | None = None,
        exif_turn: bool = False,
        min_side: int | None = None,
    ):
        check_min_side(min_side)
        names = None if class_file is None else read_class_file(class_file)
        count = None if names is None else len(names)
        self.paths, labels = _read(dataroot, list_file, delimiter, count)
        _check_first(self.paths[0], dataroot, list_file)
        self.labels = np.array(labels, dtype=np.int64)
        self.classes = _numbers(labels) if names is None else names
        self.exif_turn, self.min_side = exif_turn, min_side

    def load_image(self, index: int) -> Image.Image:
        path = self.paths[index]
        return read_image(path, path, self.exif_turn, self.min_side)

    def source(self, index: int) -> str:
        """The image's path."""
        return self.paths[index]

    def name(self, index: int) -> str:
        """The image's path."""
        return self.paths[index]

    @staticmethod
    def class_names(
        *,
        dataroot: str,
        list_file: str,
        class_file: str | None = None,
        delimiter: str | None = None,
        exif_turn: bool = False,
        min_side: int | None = None,
    ) -> list[str]:
        """What the class file lists, or the numbers up to the largest of the list."""
        names = None if class_file is None else read_class_file(class_file)
        count = None if names is None else len(names)
        paths, labels = _read(dataroot, list_file, delimiter, count)
        _check_first(paths[0], dataroot, list_file)
        return _numbers(labels) if names is None else names


def _read(
    dataroot: str, list_file: str, delimiter: str | None, classes: int | None
) -> tuple[PackedPaths, array[int]]:
    """Paths and labels of the list's lines.

    Args:
        classes: how many there are, if that is known.
    """
    if delimiter == "":
        raise ConfigError("delimiter '' is empty; leave it out for blanks")
    paths, labels, wrong = PackedPaths(dataroot), array("q"), []
    for number, line in enumerate(iterate_lines(list_file), 1):
        path, *rest = line.rsplit(delimiter, 1)
        label = rest[0].strip() if rest else ""
        if not path.strip() or not label:
            rule = f"{_short(line)} is not PATH{delimiter or ' '}LABEL"
        elif not (label.isascii() and label.isdecimal() and len(label) < 10):
            rule = f"label {_short(label)} is not a number of at least 0"
        elif classes is not None and int(label) >= classes:
            rule = f"label {label} is above the {classes} classes, which are counted from 0"
        else:
            paths.append(path.strip())
            labels.append(int(label))
            continue
        wrong.append(f"{list_file}:{number}: {rule}")
    if classes is None and not wrong:
        wrong += _far_labels(list_file, labels)
    if len(wrong) > _SHOWN:
        wrong = [*wrong[:_SHOWN], f"{list_file}: {len(wrong) - _SHOWN} more lines are wrong"]
    if wrong:
        raise ConfigError(*wrong)
    return paths, labels


def _far_labels(list_file: str, labels: Sequence[int]) -> list[str]:
    """Which lines have a label so far above the others that it can hardly be one."""
    distinct = len(set(labels))
    most = max(_MOST_CLASSES, _MOST_GAPS * distinct)
    return [
        f"{list_file}:{number}: label {label} would make {label + 1:,} classes, where the list has "
        f"{distinct:,} different labels; correct it, or name the classes in a class_file"
        for number, label in enumerate(labels, 1)
        if label >= most
    ]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _numbers(labels: Sequence[int]) -> list[str]:
    return [str(label) for label in range(max(labels) + 1)]


def _check_first(path: str, dataroot: str, list_file: str) -> None:
    if not os.path.isfile(path):
        raise ConfigError(
            f"{path}: the first image of {list_file} is not there; dataroot {dataroot!r} must be "
            "the folder that the paths of the list begin at"
        )
