"""Pictures sorted into one folder for each class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from passl.utils.errors import ConfigError, RunError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageFolder:
    """`dataroot/CLASS/**/PICTURE`, the layout of ImageNet's train and val folders. Classes are
    numbered in sorted order.

    Args:
        dataroot: the folder of the class folders.

    Raises:
        ConfigError: the folder is missing, has no class, or a class has no picture.
    """

    def __init__(self, *, dataroot: str):
        self.classes = self.class_names(dataroot=dataroot)
        self.samples: list[tuple[str, int]] = []
        empty = []
        for label, name in enumerate(self.classes):
            found = _pictures(os.path.join(dataroot, name))
            self.samples += [(path, label) for path in found]
            if not found:
                empty.append(name)
        if empty:
            more = f" and {len(empty) - 3} more classes" if len(empty) > 3 else ""
            raise ConfigError(
                f"{dataroot}: no picture in {', '.join(empty[:3])}{more}; "
                f"every class folder needs one with an ending of {', '.join(SUFFIXES)}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        try:
            with Image.open(path) as picture:
                return _rgb(picture), label
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise RunError(
                f"{path}: cannot be read as a picture ({error}); replace the file or take it out "
                "of the folder"
            ) from None

    def name(self, index: int) -> str:
        """The picture's path."""
        return self.samples[index][0]

    @staticmethod
    def class_names(*, dataroot: str) -> list[str]:
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


def _rgb(picture: Image.Image) -> Image.Image:
    """Any picture in RGB; a transparent one as if it were opaque."""
    if picture.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode == "P" and isinstance(picture.info.get("transparency"), bytes):
        picture = picture.convert("RGBA")  # Pillow warns about the direct way
    return picture.convert("RGB")


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
