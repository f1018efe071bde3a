"""Images and masks in folders, for segmentation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from passl.data import DATASETS
from passl.data.datasets.base import FileDataset
from passl.data.datasets.class_file import read_class_file, read_lines
from passl.data.datasets.images import read_mask
from passl.data.datasets.packed import PackedPaths
from passl.data.datasets.walk import walk_images
from passl.errors import ConfigError, shortened
from passl.io.masks import IGNORED
from passl.utils.types import PositiveInt


@DATASETS.register
class MaskFolder(FileDataset):
    """Pairs of an image and a mask, whose values are the labels of the pixels; 255 is ignored.

    Masks are PNG or TIFF files of the size of their image, with a palette, whose indices are the
    labels, or with up to 8 bits of grey. An image and its mask have the same path below `images`
    and `masks`, but for the suffix.

    Args:
        images: folder of the images.
        masks: folder of the masks.
        list_file: one sample per line: NAME, which becomes images/NAME + image_suffix and
            masks/NAME + mask_suffix, as in PASCAL VOC's `ImageSets/Segmentation/train.txt`; or
            IMAGE MASK, paths below the two folders, as in PaddleSeg's `train.txt`. Null: every
            image below the folder `images`.
        image_suffix: what the path of an image has after its name.
        mask_suffix: what the path of a mask has after its name.
        delimiter: text between IMAGE and MASK. Null: whitespace.
        class_file: class names in the order of their labels; see `read_class_file`.
        num_classes: number of classes, whose names are then numbers. One of `class_file` and
            `num_classes` is needed.
        reduce_zero_label: whether labels begin at 1, and 0 is ignored too, as in ADE20K.

    Raises:
        ConfigError: the classes are not given once or are more than 255, a folder or file is
            missing, a line is wrong, or an image has no mask.

    Example:
        name: MaskFolder
        images: data/ADEChallengeData2016/images/training
        masks: data/ADEChallengeData2016/annotations/training
        num_classes: 150
        reduce_zero_label: true
    """

    task = "segmentation"
    exif_turn = False
    min_side = None

    def __init__(
        self,
        *,
        images: str,
        masks: str,
        list_file: str | None = None,
        image_suffix: str = ".jpg",
        mask_suffix: str = ".png",
        delimiter: str | None = None,
        class_file: str | None = None,
        num_classes: PositiveInt | None = None,
        reduce_zero_label: bool = False,
    ):
        self.classes = self.class_names(class_file=class_file, num_classes=num_classes)
        self.reduce_zero_label = reduce_zero_label
        if list_file is None:
            names = list(_names_below(images, image_suffix))
            pairs = [(name + image_suffix, name + mask_suffix) for name in names]
        else:
            pairs = list(_listed(list_file, image_suffix, mask_suffix, delimiter))
        self.paths = PackedPaths(images, (image for image, _ in pairs))
        self.masks = PackedPaths(masks, (mask for _, mask in pairs))
        self.labels = np.zeros(len(pairs), np.int64)
        # A list can have millions; a folder has been read anyway.
        checked = range(len(pairs) if list_file is None else 1)
        for paths in (self.paths, self.masks):
            missing = [paths[index] for index in checked if not os.path.isfile(paths[index])]
            if missing:
                raise ConfigError(
                    f"{len(missing)} files do not exist: {shortened(missing)}; every image needs a "
                    "mask of the same path but for image_suffix and mask_suffix, or a list_file"
                )

    @classmethod
    def class_names(  # type: ignore[override]
        cls, *, class_file: str | None = None, num_classes: int | None = None, **_: Any
    ) -> list[str]:
        """Return the names in the class file, or the numbers of the classes."""
        if (class_file is None) == (num_classes is None):
            raise ConfigError("set class_file or num_classes: which classes the masks have")
        if class_file is not None:
            names = read_class_file(class_file)
        else:
            names = [str(label) for label in range(num_classes or 0)]
        if len(names) > IGNORED:
            raise ConfigError(
                f"{class_file or 'num_classes'}: {len(names)} classes; masks of 8 bits have at "
                f"most {IGNORED}, since {IGNORED} is ignored"
            )
        return names

    def label(self, index: int) -> np.ndarray:
        mask = np.asarray(read_mask(self.masks[index], self.masks[index]))
        if self.reduce_zero_label:
            mask = np.where(mask == IGNORED, IGNORED, mask - np.uint8(1))  # 0 - 1 is 255
        return mask

    def label_name(self, index: int) -> str:
        return self.masks[index]


def _names_below(images: str, suffix: str) -> Iterator[str]:
    """The paths of the images below a folder, without the suffix, in order."""
    found = [path for folder in walk_images(images) for path in folder.images]
    names = sorted(os.path.relpath(path, images) for path in found if path.endswith(suffix))
    if not names:
        other = sorted({os.path.splitext(path)[1] for path in found})
        has = f"it has images that end in {shortened(other)}" if found else "it has no image"
        raise ConfigError(f"{images}: no image ends in {suffix!r}; {has}: set image_suffix")
    return (name[: len(name) - len(suffix)] for name in names)


def _listed(
    list_file: str, image_suffix: str, mask_suffix: str, delimiter: str | None
) -> Iterator[tuple[str, str]]:
    """The paths of image and mask of each line."""
    for number, line in enumerate(read_lines(list_file), 1):
        parts = [part.strip() for part in line.split(delimiter)]
        if len(parts) == 1:
            yield parts[0] + image_suffix, parts[0] + mask_suffix
        elif len(parts) == 2 and all(parts):
            yield parts[0], parts[1]
        else:
            raise ConfigError(f"{list_file}:{number}: {line!r} is not NAME or IMAGE MASK")
