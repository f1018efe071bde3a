"""Images with any number of labels each, in a list file or a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from passl.data import DATASETS
from passl.data.datasets.base import FileDataset
from passl.data.datasets.class_file import quoted, raise_first, read_class_file, split_lines
from passl.data.datasets.packed import PackedPaths
from passl.errors import ConfigError
from passl.io.files import open_regular
from passl.utils.config import closest
from passl.utils.types import PositiveInt

NONE = "-"
"""Instead of labels in a list file: the image has none."""
_MAX_CLASSES = 10_000
"""Without a class file every number up to the largest label is a class, and a number that is not a
label could use up all memory.
"""
_BITS = {"0": False, "1": True, "0.0": False, "1.0": True}
Row = tuple[str, str, list[int]]
"""The place of a sample in its file, FILE:LINE; the path of the image; and its labels."""


class MultilabelDataset(FileDataset):
    """A dataset of image files with sets of labels.

    Attributes:
        labels: bool [N, K], whether a sample has the label.
    """

    task = "multilabel"

    def _fill(self, dataroot: str, rows: Sequence[Row], classes: list[str]) -> None:
        """Set paths, labels and classes, and look for the first image."""
        self.classes, self.paths = classes, PackedPaths(dataroot)
        self.labels = np.zeros((len(rows), len(classes)), bool)
        for index, (_, path, labels) in enumerate(rows):
            self.paths.append(path)
            self.labels[index, labels] = True
        place, *_ = rows[0]
        if not os.path.isfile(self.paths[0]):
            raise ConfigError(
                f"{place}: image {self.paths[0]} does not exist; dataroot {dataroot!r} must be the "
                "folder that the paths of the file are relative to"
            )


@DATASETS.register
class MultilabelList(MultilabelDataset):
    """Images listed in a text file, one `PATH LABEL,LABEL,...` per line: the names or the numbers
    of all classes that the image shows. `PATH -` is an image of none of them.

    Only the first image is looked for when the dataset is built, because a list can have millions.

    Args:
        dataroot: folder that the paths are relative to.
        list_file: the list.
        class_file: class names in the order of their labels; see `read_class_file`. Null: the
            labels of the list are numbers, and the numbers up to the largest are the names.
        delimiter: text between path and labels; lines are split at the last one, so paths can
            contain it. Null: whitespace; for class names with spaces, use a tab.
        separator: text between two labels.
        binary: labels are a 0 or 1 for each class, as in PaddleClas's multi-label lists.
        exif_turn, min_side: as for ImageList.

    Raises:
        ConfigError: a file is missing, a line is wrong or names an unknown class, or the first
            image does not exist.

    Example:
        name: MultilabelList
        dataroot: data/scenes
        list_file: data/scenes/train.txt
        class_file: data/scenes/classes.txt
    """

    def __init__(
        self,
        *,
        dataroot: str,
        list_file: str,
        class_file: str | None = None,
        delimiter: str | None = None,
        separator: str = ",",
        binary: bool = False,
        exif_turn: bool = False,
        min_side: PositiveInt | None = None,
    ):
        self.exif_turn, self.min_side = exif_turn, min_side
        texts = _Labels(class_file, separator, binary)
        self._fill(dataroot, *texts.read(list_file, _list_rows(list_file, delimiter)))

    @classmethod
    def class_names(  # type: ignore[override]
        cls,
        *,
        list_file: str,
        class_file: str | None = None,
        delimiter: str | None = None,
        separator: str = ",",
        binary: bool = False,
        **_: Any,
    ) -> list[str]:
        """Return the names in the class file, or the numbers up to the largest label."""
        return _Labels(class_file, separator, binary).read(
            list_file, _list_rows(list_file, delimiter)
        )[1]


@DATASETS.register
class MultilabelCSV(MultilabelDataset):
    """Images listed in a CSV file with a header. Labels are in one column, or each class has a
    column of its own with 0 or 1.

    Only the first image is looked for when the dataset is built.

    Args:
        dataroot: folder that the paths are relative to.
        csv_file: the file.
        image_column: column of the paths; null for the first.
        image_suffix: text that is appended to each path, such as .jpg.
        label_column: column with all labels of an image, names or numbers of classes; empty for an
            image of none. Null: the other columns are the classes, each with 0 or 1.
        separator: text between two labels in that column.
        class_columns: the columns that are classes, if not all others are.
        class_file: class names in the order of their labels, for `label_column`; see
            `read_class_file`. Null: its labels are numbers, and the numbers up to the largest are
            the names.
        exif_turn, min_side: as for ImageList.

    Raises:
        ConfigError: a file or column is missing, a cell is wrong or names an unknown class, options
            do not go together, or the first image does not exist.

    Example:
        name: MultilabelCSV
        dataroot: data/planet/train-jpg
        csv_file: data/planet/train.csv
        image_suffix: .jpg
        label_column: tags
        separator: " "
        class_file: data/planet/classes.txt
    """

    def __init__(
        self,
        *,
        dataroot: str,
        csv_file: str,
        image_column: str | None = None,
        image_suffix: str = "",
        label_column: str | None = None,
        separator: str = ",",
        class_columns: Sequence[str] | None = None,
        class_file: str | None = None,
        exif_turn: bool = False,
        min_side: PositiveInt | None = None,
    ):
        self.exif_turn, self.min_side = exif_turn, min_side
        options = (image_column, image_suffix, label_column, separator, class_columns, class_file)
        self._fill(dataroot, *_read_csv(csv_file, *options))

    @staticmethod
    def check_options(
        *,
        label_column: str | None,
        class_columns: Sequence[str] | None,
        class_file: str | None,
        **_: Any,
    ) -> None:
        """Raise a ValueError for options that do not go together."""
        if label_column is not None and class_columns is not None:
            raise ValueError("label_column and class_columns exclude each other; leave one out")
        if class_file is not None and label_column is None:
            raise ValueError(
                "class_file is for label_column; without it the columns name the classes"
            )

    @classmethod
    def class_names(  # type: ignore[override]
        cls,
        *,
        csv_file: str,
        image_column: str | None = None,
        label_column: str | None = None,
        separator: str = ",",
        class_columns: Sequence[str] | None = None,
        class_file: str | None = None,
        **_: Any,
    ) -> list[str]:
        """Return the names in the class file, the columns, or the numbers up to the largest."""
        options = (image_column, "", label_column, separator, class_columns, class_file)
        return _read_csv(csv_file, *options)[1]


class _Labels:
    """Reads texts with labels.

    Args:
        class_file: see `read_class_file`; null for numbers.
        separator: between two labels.
        binary: whether a text has a 0 or 1 for each class.
    """

    def __init__(self, class_file: str | None, separator: str, binary: bool = False):
        self.classes = None if class_file is None else read_class_file(class_file)
        self.separator, self.binary = separator, binary
        if not separator:
            raise ConfigError("separator '' is empty; choose a text that no class name has")
        odd = [name for name in self.classes or () if separator in name or name == NONE]
        if odd:
            raise ConfigError(
                f"{class_file}: class {odd[0]!r} is {NONE!r} or has the separator {separator!r} in "
                "it; choose another separator"
            )
        self._numbers = {name: label for label, name in enumerate(self.classes or ())}
        self._width: int | None = None if self.classes is None else len(self.classes)

    def read(
        self, file: str, texts: Iterator[tuple[str, str, str | None]]
    ) -> tuple[list[Row], list[str]]:
        """Read the labels of all samples.

        Args:
            file: for messages.
            texts: place, path and text of the labels; null if the line is not of that form.

        Returns:
            The rows and the classes.

        Raises:
            ConfigError: everything that is wrong, up to five lines.
        """
        rows: list[Row] = []
        wrong: list[str] = []
        for place, path, text in texts:
            try:
                rows.append((place, path, self._labels(text)))
            except ValueError as error:
                wrong.append(f"{place}: {error}")
        raise_first(file, wrong)
        largest = max((label for *_, labels in rows for label in labels), default=-1)
        if self.classes is None and self._width is None and largest < 0:
            raise ConfigError(f"{file}: no image has a label; name the classes in a class_file")
        count = self._width or largest + 1
        return rows, self.classes or [str(label) for label in range(count)]

    def _labels(self, text: str | None) -> list[int]:
        if text is None:
            raise ValueError(f"is not PATH LABELS; an image without labels has {NONE}")
        if text.strip() in (NONE, ""):
            return []
        parts = [part.strip() for part in text.split(self.separator)]
        return self._of_bits(parts) if self.binary else [self._label(part) for part in parts]

    def _of_bits(self, parts: Sequence[str]) -> list[int]:
        self._width = self._width or len(parts)
        if len(parts) != self._width:
            raise ValueError(f"has {len(parts)} values, but there are {self._width} classes")
        return bits(parts, [f"value {number}" for number in range(1, len(parts) + 1)])

    def _label(self, text: str) -> int:
        if text in self._numbers:
            return self._numbers[text]
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            if self.classes is None:
                raise ValueError(
                    f"label {quoted(text)} is not a number of at least 0; names need a class_file"
                )
            raise ValueError(
                f"{quoted(text)} is not a class of the class_file{closest(text, self.classes)}"
            )
        limit = _MAX_CLASSES if self.classes is None else len(self.classes)
        if int(text) >= limit:
            way = "; name the classes in a class_file" if self.classes is None else ""
            raise ValueError(f"label {text} is above the {limit:,} classes, counted from 0{way}")
        return int(text)


def bits(values: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the places of the ones.

    Args:
        values: each 0 or 1, or 0.0 or 1.0.
        names: of the values, for messages.

    Raises:
        ValueError: a value is another one.
    """
    for name, value in zip(names, values, strict=True):
        if value.strip() not in _BITS:
            raise ValueError(f"{name} is {quoted(value)}; it must be 0 or 1")
    return [place for place, value in enumerate(values) if _BITS[value.strip()]]


def _list_rows(list_file: str, delimiter: str | None) -> Iterator[tuple[str, str, str | None]]:
    """Place, path and labels of each line."""
    for number, (_, path, text) in enumerate(split_lines(list_file, delimiter), 1):
        yield f"{list_file}:{number}", path, text if path and text else None


def _read_csv(
    csv_file: str,
    image_column: str | None,
    image_suffix: str,
    label_column: str | None,
    separator: str,
    class_columns: Sequence[str] | None,
    class_file: str | None,
) -> tuple[list[Row], list[str]]:
    """The rows and the classes of a CSV file."""
    head, lines = _csv_lines(csv_file)
    image_column = head[0] if image_column is None else image_column
    named = [
        image_column,
        *([] if label_column is None else [label_column]),
        *(class_columns or ()),
    ]
    for name in named:
        if name not in head:
            raise ConfigError(f"{csv_file}:1: has no column {name!r}{closest(name, head)}")
    place = head.index(image_column)
    texts = [(where, cells[place] + image_suffix, cells) for where, cells in lines]
    if label_column is not None:
        labels = head.index(label_column)
        of_labels = ((where, path, cells[labels]) for where, path, cells in texts)
        return _Labels(class_file, separator).read(csv_file, of_labels)
    classes = list(class_columns or (name for name in head if name != image_column))
    if not classes:
        raise ConfigError(f"{csv_file}:1: has no column of a class beside {image_column!r}")
    places = [head.index(name) for name in classes]
    rows: list[Row] = []
    wrong: list[str] = []
    for where, path, cells in texts:
        try:
            rows.append((where, path, bits([cells[p] for p in places], classes)))
        except ValueError as error:
            wrong.append(f"{where}: {error}")
    raise_first(csv_file, wrong)
    return rows, classes


def _csv_lines(csv_file: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The header, and place and cells of each line."""
    try:
        # File names can be invalid UTF-8.
        options = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
        with open_regular(csv_file, "r", **options) as file:
            reader = csv.reader(file, strict=True)
            rows = [(f"{csv_file}:{reader.line_num}", row) for row in reader if row]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{csv_file}: cannot be read: {reason}") from None
    if len(rows) < 2:
        raise ConfigError(f"{csv_file}: needs a header and at least one line")
    (_, head), *lines = rows
    twice = [name for name in head if head.count(name) > 1]
    if twice:
        raise ConfigError(f"{csv_file}:1: column {twice[0]!r} is there twice; rename one")
    raise_first(
        csv_file,
        [
            f"{place}: has {len(cells)} cells, but the header has {len(head)}"
            for place, cells in lines
            if len(cells) != len(head)
        ],
    )
    return head, lines
