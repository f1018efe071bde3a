"""Images in one folder per class."""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from passl.data import DATASETS
from passl.data.datasets.base import FileDataset
from passl.data.datasets.class_file import read_class_file
from passl.data.datasets.index import (
    Index,
    Kind,
    Source,
    current_index,
    load_index,
    source_of,
)
from passl.data.datasets.packed import PackedPaths
from passl.data.datasets.walk import (
    SUFFIXES,
    Folder,
    has_image,
    list_folder,
    walk_images,
    warn_unusable,
)
from passl.errors import ConfigError, shortened
from passl.utils.types import PositiveInt


@DATASETS.register
class ImageFolder(FileDataset):
    """Images in one folder per class, `dataroot/CLASS/**/IMAGE`, as in ImageNet's train and val.

    Args:
        dataroot: folder of the class folders.
        class_file: names of all classes in the order of their labels, for data with folders of
            some classes only, such as ImageNet-A and -R; see `read_class_file`. Null: the class
            folders in sorted order.
        exif_turn: rotate and mirror images as their EXIF orientation says.
        min_side: decode large JPEG files at 1/2, 1/4 or 1/8 of their size while both sides keep
            this many pixels; null reads them whole. It is faster but changes pixels slightly, so
            leave it null to compare with published scores.

    Raises:
        ConfigError: the folder is missing or has no class; a class has no image, is not in
            `class_file`, or contains a link to images of another class.

    Example:
        {name: ImageFolder, dataroot: data/ILSVRC2012/train}
    """

    def __init__(
        self,
        *,
        dataroot: str,
        class_file: str | None = None,
        exif_turn: bool = False,
        min_side: PositiveInt | None = None,
    ):
        self.exif_turn, self.min_side = exif_turn, min_side
        folders = _class_folders(dataroot)
        self.classes = _classes(dataroot, class_file, folders)
        index = load_index(_kind(dataroot, folders))
        warn_unusable(dataroot, index.facts["unusable"])
        self.paths, self.names_hash = index.names(dataroot), index.names_hash
        self.labels = index.labels
        if self.classes != folders:
            label_of = {name: label for label, name in enumerate(self.classes)}
            self.labels = np.array([label_of[name] for name in folders], np.int64)[index.labels]

    @classmethod
    def class_names(  # type: ignore[override]
        cls, *, dataroot: str, class_file: str | None = None, **_: Any
    ) -> list[str]:
        """Return the sorted class folders, or the names in the class file. Only one image of each
        folder is looked for.
        """
        folders = _class_folders(dataroot)
        names = _classes(dataroot, class_file, folders)
        if current_index(_kind(dataroot, folders)) is None:
            _check_not_empty(dataroot, folders)
        return names


def _kind(dataroot: str, folders: Sequence[str]) -> Kind:
    """Return how the index of a folder is made. Its labels are the numbers of the class folders."""

    def check(index: Index) -> None:
        if index.facts["folders"] != folders or index.labels.max() >= len(folders):
            raise ValueError("it is damaged: its classes are not the folders")

    return Kind(
        key=["folder", os.path.abspath(dataroot)],
        make=lambda: _read(dataroot, folders),
        full_names=lambda index: index.names(dataroot),
        check=check,
    )


def _read(dataroot: str, folders: Sequence[str]) -> Index:
    """Find all images.

    Raises:
        ConfigError: a class has no image, or has a link to another class.
    """
    root = source_of(dataroot)
    _check_not_empty(dataroot, folders)
    paths, labels, unusable, sources = PackedPaths(), array("q"), [], [root]
    within = len(os.path.join(dataroot, ""))
    class_of = {os.path.realpath(os.path.join(dataroot, name)): name for name in folders}
    for label, name in enumerate(folders):
        for found in walk_images(os.path.join(dataroot, name)):
            _check_class(found, name, class_of)
            sources.append(Source(os.path.abspath(found.path), 0, found.modified))
            paths.extend(path[within:] for path in found.images)
            labels.extend([label] * len(found.images))
            unusable += found.unusable
    content, ends = paths.arrays
    return Index(
        {"names": content, "ends": ends, "labels": np.frombuffer(labels, np.int64)},
        {"folders": list(folders), "unusable": unusable},
        sources,
    )


def _classes(dataroot: str, class_file: str | None, folders: list[str]) -> list[str]:
    """Return the names of all classes.

    Raises:
        ConfigError: a folder is not in the class file.
    """
    names = folders if class_file is None else read_class_file(class_file)
    unknown = sorted(set(folders).difference(names))
    if unknown:
        raise ConfigError(
            f"{dataroot}: class folder {shortened(unknown)} is not in {class_file}, which must "
            "list every class folder by its name"
        )
    return names


def _check_not_empty(dataroot: str, folders: Sequence[str]) -> None:
    empty = [name for name in folders if not has_image(os.path.join(dataroot, name))]
    if empty:
        raise ConfigError(
            f"{dataroot}: no image in {shortened(empty)}; every class folder needs one with a "
            f"suffix of {', '.join(SUFFIXES)}: add it, or remove the folder"
        )


def _class_folders(dataroot: str) -> list[str]:
    root = Path(dataroot)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise ConfigError(
            f"{dataroot}: the data folder {what}; it must contain one folder of images per class"
        )
    entries = [entry for entry in list_folder(dataroot) if not entry.name.startswith(".")]
    for entry in entries:
        if entry.is_symlink() and not os.path.exists(entry.path):
            # Leaving it out would shift the labels of the classes after it.
            raise ConfigError(f"{entry.path}: broken link; mount its target, or remove it")
    names = [entry.name for entry in entries if entry.is_dir()]
    if not names:
        raise ConfigError(
            f"{dataroot}: the data folder has no class; it must contain one folder of images per "
            "class"
        )
    return names


def _check_class(found: Folder, name: str, class_of: Mapping[str, str]) -> None:
    """Raise ConfigError for a folder that is reached from class `name` but belongs to another.
    `class_of` has the class of each class folder's real path.
    """
    for place in (found.real, *map(str, Path(found.real).parents)):
        owner = class_of.get(place, name)
        if owner != name:
            raise ConfigError(
                f"{found.path}: belongs to class {name} and, as {found.real}, also to class "
                f"{owner}, so its images would have two labels; remove the link"
            )
