"""Images and labels in a text file."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from passl.data import DATASETS
from passl.data.datasets.base import FileDataset
from passl.data.datasets.class_file import quoted, raise_first, read_class_file, split_lines
from passl.data.datasets.packed import PackedPaths
from passl.errors import ConfigError
from passl.utils.types import PositiveInt

_MAX_CLASSES = 1_000_000
_MAX_GAPS = 10
"""Limits without a class file: labels up to the first, or up to this many times the number of
distinct labels. Every number up to the largest label gets a name, so a number that is not a label
could use up all memory.
"""


@DATASETS.register
class ImageList(FileDataset):
    """Images listed in a text file, one `PATH LABEL` per line, as in PaddleClas's `train_list.txt`.

    Only the first image is looked for when the dataset is built, because a list can have millions.

    Args:
        dataroot: folder that the paths are relative to.
        list_file: the list.
        class_file: class names in the order of their labels; see `read_class_file`. Null: the
            numbers up to the largest label of the list are the names; that label must be below
            1,000,000 or ten times the number of distinct labels.
        delimiter: text between path and label; lines are split at the last one, so paths can
            contain it. Null: whitespace.
        exif_turn: rotate and mirror images as their EXIF orientation says.
        min_side: decode large JPEG files at 1/2, 1/4 or 1/8 of their size while both sides keep
            this many pixels; null reads them whole. It is faster but changes pixels slightly, so
            leave it null to compare with published scores.

    Raises:
        ConfigError: the delimiter is empty, a file is missing, a line is wrong, or the first image
            does not exist.

    Example:
        name: ImageList
        dataroot: data/flowers102
        list_file: data/flowers102/train_list.txt
        class_file: data/flowers102/flowers102_label_list.txt
    """

    def __init__(
        self,
        *,
        dataroot: str,
        list_file: str,
        class_file: str | None = None,
        delimiter: str | None = None,
        exif_turn: bool = False,
        min_side: PositiveInt | None = None,
    ):
        self.exif_turn, self.min_side = exif_turn, min_side
        self.paths, labels, self.classes = _read(dataroot, list_file, class_file, delimiter)
        self.labels = np.array(labels, dtype=np.int64)

    @classmethod
    def class_names(  # type: ignore[override]
        cls,
        *,
        dataroot: str,
        list_file: str,
        class_file: str | None = None,
        delimiter: str | None = None,
        **_: Any,
    ) -> list[str]:
        """Return the names in the class file, or the numbers up to the largest label."""
        return _read(dataroot, list_file, class_file, delimiter)[2]


def _read(
    dataroot: str, list_file: str, class_file: str | None, delimiter: str | None
) -> tuple[PackedPaths, array[int], list[str]]:
    classes = None if class_file is None else read_class_file(class_file)
    paths, labels, wrong = PackedPaths(dataroot), array("q"), []
    for number, (line, path, label) in enumerate(split_lines(list_file, delimiter), 1):
        if not path or not label:
            rule = f"{quoted(line)} is not PATH{delimiter or ' '}LABEL"
        elif not (label.isascii() and label.isdecimal() and len(label) < 10):
            rule = f"label {quoted(label)} is not a number of at least 0"
        elif classes is not None and int(label) >= len(classes):
            rule = f"label {label} is above the {len(classes)} classes, which are counted from 0"
        else:
            paths.append(path)
            labels.append(int(label))
            continue
        wrong.append(f"{list_file}:{number}: {rule}")
    if classes is None and not wrong:
        wrong += _implausible_labels(list_file, labels)
    raise_first(list_file, wrong)
    if not os.path.isfile(paths[0]):
        raise ConfigError(
            f"{paths[0]}: the first image of {list_file} does not exist; dataroot {dataroot!r} "
            "must be the folder that the paths of the list are relative to"
        )
    return paths, labels, classes or [str(label) for label in range(max(labels) + 1)]


def _implausible_labels(list_file: str, labels: Sequence[int]) -> list[str]:
    """Return the problems of labels that are too far above the others to be labels."""
    distinct = len(set(labels))
    limit = max(_MAX_CLASSES, _MAX_GAPS * distinct)
    return [
        f"{list_file}:{number}: label {label} would make {label + 1:,} classes, but the list has "
        f"{distinct:,} distinct labels; correct it, or name the classes in a class_file"
        for number, label in enumerate(labels, 1)
        if label >= limit
    ]
