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
from passl.data.datasets.index import Index, Kind, Source, load_index, source_of
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
        index, self.classes = _indexed(dataroot, list_file, class_file, delimiter)
        self.paths, self.labels = index.names(dataroot), index.labels
        self.names_hash = index.names_hash

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
        return _indexed(dataroot, list_file, class_file, delimiter)[1]


def _indexed(
    dataroot: str, list_file: str, class_file: str | None, delimiter: str | None
) -> tuple[Index, list[str]]:
    """Return the samples and the classes of a list."""
    classes = None if class_file is None else read_class_file(class_file)
    kind = Kind(
        key=["list", os.path.abspath(list_file), repr(delimiter), dataroot],
        make=lambda: _read(list_file, delimiter, classes),
        full_names=lambda index: index.names(dataroot),
    )
    index = load_index(kind)
    # A kept index may have been made with another class file.
    raise_first(list_file, _wrong_labels(list_file, index.labels, classes))
    first = index.names(dataroot)[0]
    if not os.path.isfile(first):
        raise ConfigError(
            f"{first}: the first image of {list_file} does not exist; dataroot {dataroot!r} must "
            "be the folder that the paths of the list are relative to"
        )
    return index, classes or [str(label) for label in range(int(index.labels.max()) + 1)]


def _read(list_file: str, delimiter: str | None, classes: Sequence[str] | None) -> Index:
    try:
        source = source_of(list_file)
    except OSError:
        source = Source(list_file, 0, 0)  # `split_lines` says what is wrong
    paths, labels, wrong = PackedPaths(), array("q"), []
    for number, (line, path, label) in enumerate(split_lines(list_file, delimiter), 1):
        if not path or not label:
            rule = f"{quoted(line)} is not PATH{delimiter or ' '}LABEL"
        elif not (label.isascii() and label.isdecimal() and len(label) < 10):
            rule = f"label {quoted(label)} is not a number of at least 0"
        elif classes is not None and int(label) >= len(classes):
            rule = _above(label, classes)
        else:
            paths.append(path)
            labels.append(int(label))
            continue
        wrong.append(f"{list_file}:{number}: {rule}")
    raise_first(list_file, wrong)
    content, ends = paths.arrays
    columns = {"names": content, "ends": ends, "labels": np.frombuffer(labels, np.int64)}
    return Index(columns, {}, [source])


def _wrong_labels(list_file: str, labels: np.ndarray, classes: Sequence[str] | None) -> list[str]:
    """Return the problems of labels that are not classes, or too far above the others to be labels.

    Args:
        labels: of the lines of the list.
    """
    if classes is not None:
        rules = {int(i): _above(labels[i], classes) for i in np.flatnonzero(labels >= len(classes))}
    elif labels.max() < _MAX_CLASSES:
        return []
    else:
        distinct = 1 + int(np.count_nonzero(np.diff(np.sort(labels))))
        limit = max(_MAX_CLASSES, _MAX_GAPS * distinct)
        rules = {
            int(index): f"label {labels[index]} would make {labels[index] + 1:,} classes, but the "
            f"list has {distinct:,} distinct labels; correct it, or name the classes in a "
            "class_file"
            for index in np.flatnonzero(labels >= limit)
        }
    return [f"{list_file}:{index + 1}: {rule}" for index, rule in rules.items()]


def _above(label: object, classes: Sequence[str]) -> str:
    return f"label {label} is above the {len(classes)} classes, which are counted from 0"
