"""The contract of a dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from passl.data.datasets.images import convert_image, read_image
from passl.data.datasets.packed import PackedPaths
from passl.errors import RunError, shortened
from passl.io.masks import IGNORED

Size = tuple[int, int]
"""Height and width in pixels."""


class ImageDataset(ABC):
    """Images with labels.

    A subclass sets `classes` and `labels` and defines `load_image` and `name`; the rest has
    defaults. For another task than classification it also sets `task`; for segmentation it defines
    `label`. Its constructor takes plain keyword-only arguments. It raises ConfigError for mistakes
    that the user can correct, and RunError for images that cannot be read.

    Per-sample data belongs in NumPy arrays, and paths in a `packed.PackedPaths`, because every
    loader worker ends up with its own copy of a list of Python objects.

    Attributes:
        task: `classification`: a label is the number of a class. `multilabel`: a label is an array
            float32 [K] of 0 and 1, one for each class. `segmentation`: a label is an integer mask
            [height, width] of the size of its image, 255 for pixels that are ignored.
        classes: class names in the order of their labels.
        labels: of all samples: int64 [N] for classification, bool [N, K] for multi-label data, and
            zeros [N] for segmentation, whose images have no class.
        valid_labels: the labels that an evaluation compares, in ascending order; null for all.
        image_size: size of every image, set by classes whose images all have one size; else null.
        mode: the mode that images are converted to, one of `images.CHANNELS`.
        background: the colour behind transparent pixels, see `images.convert_image`.
        names_hash: `fingerprint.hash_of_names` of the samples' names, if it is known; else null.
    """

    task: str = "classification"
    image_size: Size | None = None
    classes: list[str]
    labels: np.ndarray
    valid_labels: list[int] | None = None
    mode: str = "RGB"
    background: Sequence[int] | None = None
    names_hash: str | None = None

    @classmethod
    def class_names(cls, **options: Any) -> list[str]:
        """Return `classes` for these arguments of the constructor, to check a config. A dataset
        that takes long to build overrides this.
        """
        return cls(**options).classes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int | np.ndarray]:
        stored = self.load_image(index)
        try:
            image = convert_image(stored, self.mode, self.background)
        except ValueError as error:
            raise RunError(f"{self.name(index)}: {error}") from None
        label = self.label(index)
        if self.task == "segmentation":
            label = _checked_mask(label, image.size, len(self.classes), self.label_name(index))
        return image, label

    def label(self, index: int) -> int | np.ndarray:
        """Return the label of a sample, in the form of the task.

        Raises:
            RunError: it cannot be read.
        """
        label = self.labels[index]
        return label.astype(np.float32) if self.task == "multilabel" else int(label)

    def label_name(self, index: int) -> str:
        """Return the name of a label, for messages: a mask's file."""
        return f"the mask of {self.name(index)}"

    @abstractmethod
    def load_image(self, index: int) -> Image.Image:
        """Return the image as it is stored, in any mode that `images.convert_image` accepts.

        Raises:
            RunError: it cannot be read.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of a sample, for messages and tables of predictions."""

    def source(self, index: int) -> str | bytes | None:
        """Return the file of a sample, as its path or its content; null if samples are not files.

        Raises:
            RunError: it cannot be read.
        """
        return None

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """Return a random order of the indices. Override it if some orders are faster to read."""
        return rng.permutation(len(self))


def _checked_mask(mask: Any, size: Size, classes: int, name: str) -> np.ndarray:
    """Return a mask as uint8 [height, width].

    Args:
        size: width and height of its image.

    Raises:
        RunError: it has another size, or labels outside the classes.
    """
    mask = np.asarray(mask)
    if mask.shape != size[::-1]:
        shown = " x ".join(str(side) for side in reversed(mask.shape))
        raise RunError(
            f"{name}: is {shown} pixels, but its image is {size[0]} x {size[1]} (width x height); "
            "a mask has the size of its image"
        )
    is_small = mask.dtype == np.uint8
    present = np.flatnonzero(np.bincount(mask.ravel())) if is_small else np.unique(mask)
    wrong = [str(label) for label in present if not 0 <= label < classes and label != IGNORED]
    if wrong:
        raise RunError(
            f"{name}: has label {shortened(wrong)}, but the data has {classes} classes, numbered "
            f"from 0 ({IGNORED} is ignored); correct the mask or the classes"
        )
    return mask.astype(np.uint8, copy=False)


class FileDataset(ImageDataset):
    """A dataset whose samples are image files.

    Attributes:
        paths: the file of each sample.
        exif_turn, min_side: see `images.read_image`.
    """

    paths: PackedPaths
    exif_turn: bool
    min_side: int | None

    def load_image(self, index: int) -> Image.Image:
        return read_image(self.source(index), self.name(index), self.exif_turn, self.min_side)

    def source(self, index: int) -> str | bytes:
        return self.paths[index]

    def name(self, index: int) -> str:
        return self.paths[index]
