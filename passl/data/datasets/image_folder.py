"""Images sorted into one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from passl.data.datasets.base import ImageDataset
from passl.data.datasets.class_file import read_class_file
from passl.data.datasets.images import check_min_side, read_image
from passl.data.datasets.packed import PackedPaths
from passl.errors import ConfigError
from passl.logging import get_logger

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageFolder(ImageDataset):
    """`dataroot/CLASS/**/IMAGE`, the layout of ImageNet's train and val folders.

    Args:
        dataroot: the folder of the class folders.
        class_file: the names of all classes in the order of their labels, where there may be
            folders of some of them only, as in ImageNet-A and -R; see `read_class_file`. Null: the
            folders in sorted order.
        exif_turn: turn images as their EXIF orientation says.
        min_side: read large JPEG files faster, at a half, a quarter or an eighth of their size,
            as long as both sides keep this many pixels; null reads them whole. Pixels change a
            little, so evaluations that are compared with published ones leave it null.

    Raises:
        ValueError: min_side is below 1.
        ConfigError: the folder is missing or has no class; a class has no image, is not in
            `class_file`, or reaches images of another one by a link.
    """

    def __init__(
        self,
        *,
        dataroot: str,
        class_file: str | None = None,
        exif_turn: bool = False,
        min_side: int | None = None,
    ):
        check_min_side(min_side)
        self.classes = self.class_names(dataroot=dataroot, class_file=class_file)
        self.exif_turn, self.min_side = exif_turn, min_side
        self.paths = PackedPaths(dataroot)
        within = len(os.path.join(dataroot, ""))
        labels: list[int] = []
        unusable: list[str] = []
        folders = {name: os.path.join(dataroot, name) for name in _folders(dataroot)}
        class_of = {os.path.realpath(folder): name for name, folder in folders.items()}
        label_of = {name: label for label, name in enumerate(self.classes)}
        for name, folder in folders.items():
            for found in walk_images(folder):
                _check_owner(found, name, class_of)
                self.paths.extend(path[within:] for path in found.images)
                labels += [label_of[name]] * len(found.images)
                unusable += found.unusable
        warn_unusable(dataroot, unusable)
        self.labels = np.asarray(labels, dtype=np.int64)

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
        class_file: str | None = None,
        exif_turn: bool = False,
        min_side: int | None = None,
    ) -> list[str]:
        """The class folders, sorted; or what the class file lists. Of each folder only one image
        is looked for.
        """
        folders = _folders(dataroot)
        names = folders if class_file is None else read_class_file(class_file)
        unknown = sorted(set(folders).difference(names))
        if unknown:
            raise ConfigError(
                f"{dataroot}: the class folder {_some(unknown)} is not in {class_file}, which must "
                "list every class folder by its name"
            )
        empty = [name for name in folders if not _has_image(os.path.join(dataroot, name))]
        if empty:
            raise ConfigError(
                f"{dataroot}: no image in {_some(empty)}; every class folder needs one with an "
                f"ending of {', '.join(SUFFIXES)}: add it, or remove the folder"
            )
        return names


def _folders(dataroot: str) -> list[str]:
    """The class folders, sorted."""
    root = Path(dataroot)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise ConfigError(
            f"{dataroot}: the data folder {what}; it must hold one folder of images for each class"
        )
    entries = [entry for entry in _listed(dataroot) if not entry.name.startswith(".")]
    for entry in entries:
        if entry.is_symlink() and not os.path.exists(entry.path):
            # Left out, it would shift the labels of the classes after it.
            raise ConfigError(
                f"{entry.path}: the link leads nowhere; mount what it leads to, or remove it"
            )
    names = [entry.name for entry in entries if entry.is_dir()]
    if not names:
        raise ConfigError(
            f"{dataroot}: the data folder has no class; it must hold one folder of images "
            "for each class"
        )
    return names


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more classes" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _check_owner(found: Folder, name: str, class_of: Mapping[str, str]) -> None:
    """Refuse a folder that was reached from class `name` and lies in another class's.

    Args:
        class_of: the class of each class folder's real path.
    """
    for place in (found.real, *map(str, Path(found.real).parents)):
        owner = class_of.get(place, name)
        if owner != name:
            raise ConfigError(
                f"{found.path}: belongs to class {name} and, as {found.real}, also to class "
                f"{owner}, so its images would have two labels; remove the link"
            )


# --------------------------------------------------------------------------------------------------
# Images below a folder
# --------------------------------------------------------------------------------------------------
class Folder(NamedTuple):
    """What lies directly in one folder.

    Args:
        path: the folder, as it was reached.
        real: its path without links.
        images: paths of the images, sorted.
        unusable: paths of links that lead nowhere, and of pipes and sockets with an image's ending.
    """

    path: str
    real: str
    images: list[str]
    unusable: list[str]


def walk_images(folder: str) -> Iterator[Folder]:
    """The folder and all below it, sorted. Links are followed, but no folder is entered twice.

    Raises:
        ConfigError: a folder cannot be listed.
    """
    waiting, seen = [folder], set()
    while waiting:
        path = waiting.pop()
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        found, folders = Folder(path, real, [], []), []
        for entry in _listed(path):
            if _is(entry.is_dir):
                folders.append(entry.path)
                continue
            is_image, is_file = entry.name.lower().endswith(SUFFIXES), _is(entry.is_file)
            if is_image and is_file:
                found.images.append(entry.path)
            elif not is_file and (is_image or entry.is_symlink()):
                found.unusable.append(entry.path)
        yield found
        waiting += reversed(folders)


def _listed(folder: str) -> list[os.DirEntry[str]]:
    """What is directly in the folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ConfigError(f"{folder}: the folder cannot be listed: {error.strerror}") from None


def warn_unusable(folder: str, unusable: Sequence[str]) -> None:
    """Say which `unusable` paths below a folder are left out."""
    if unusable:
        get_logger().warning(
            "%s: %d links that lead nowhere, or special files, are left out; the first is %s",
            folder,
            len(unusable),
            unusable[0],
        )


def _has_image(folder: str) -> bool:
    """Whether there is an image below the folder. In most cases the first entry tells."""
    with suppress(OSError), os.scandir(folder) as entries:
        if any(e.name.lower().endswith(SUFFIXES) and _is(e.is_file) for e in entries):
            return True
    return any(found.images for found in walk_images(folder))


def _is(kind: Callable[[], bool]) -> bool:
    """A test of a directory entry; false for a link that is a circle, or may not be followed."""
    try:
        return kind()
    except OSError:
        return False
