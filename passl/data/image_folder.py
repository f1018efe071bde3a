"""Pictures sorted into one folder for each class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from passl.data.class_file import read_class_file
from passl.data.dataset import ImageDataset
from passl.data.pictures import check_min_side, read_picture
from passl.utils.errors import ConfigError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageFolder(ImageDataset):
    """`dataroot/CLASS/**/PICTURE`, the layout of ImageNet's train and val folders.

    Args:
        dataroot: the folder of the class folders.
        class_file: the names of all classes in the order of their labels, where there may be
            folders of some of them only, as in ImageNet-A and -R; see `read_class_file`. Null: the
            folders in sorted order.
        exif_turn: turn pictures as their EXIF orientation says.
        min_side: read large JPEG files faster, at a half, a quarter or an eighth of their size,
            as long as both sides keep this many pixels; null reads them whole. Pixels change a
            little, so evaluations that are compared with published ones leave it null.

    Raises:
        ValueError: min_side is below 1.
        ConfigError: the folder is missing, has no class, a class has no picture, or is not in
            `class_file`.
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
        label_of = {name: label for label, name in enumerate(self.classes)}
        self.paths: list[str] = []
        labels: list[int] = []
        empty = []
        for name in _folders(dataroot):
            found = _pictures(os.path.join(dataroot, name))
            self.paths += found
            labels += [label_of[name]] * len(found)
            if not found:
                empty.append(name)
        if empty:
            raise ConfigError(
                f"{dataroot}: no picture in {_some(empty)}; every class folder needs one with an "
                f"ending of {', '.join(SUFFIXES)}"
            )
        self.labels = np.asarray(labels, dtype=np.int64)

    def picture(self, index: int) -> Image.Image:
        return read_picture(self.paths[index], self.paths[index], self.exif_turn, self.min_side)

    def name(self, index: int) -> str:
        """The picture's path."""
        return self.paths[index]

    @staticmethod
    def class_names(
        *,
        dataroot: str,
        class_file: str | None = None,
        exif_turn: bool = False,
        min_side: int | None = None,
    ) -> list[str]:
        """The class folders, sorted; or what the class file lists."""
        folders = _folders(dataroot)
        if class_file is None:
            return folders
        names = read_class_file(class_file)
        unknown = sorted(set(folders).difference(names))
        if unknown:
            raise ConfigError(
                f"{dataroot}: the class folder {_some(unknown)} is not in {class_file}, which must "
                "list every class folder by its name"
            )
        return names


def _folders(dataroot: str) -> list[str]:
    """The class folders, sorted."""
    root = Path(dataroot)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise ConfigError(
            f"{dataroot}: the data folder {what}; it must hold one folder of pictures for each "
            "class"
        )
    names = sorted(
        entry.name
        for entry in os.scandir(root)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise ConfigError(
            f"{dataroot}: the data folder has no class; it must hold one folder of pictures "
            "for each class"
        )
    return names


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more classes" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _pictures(folder: str) -> list[str]:
    """The pictures below a folder, sorted; links are followed, but no folder is entered twice."""
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found += [os.path.join(parent, f) for f in sorted(files) if f.lower().endswith(SUFFIXES)]
    return found
