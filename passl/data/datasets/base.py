"""What every dataset is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from passl.data.datasets.images import convert_image
from passl.errors import RunError

Size = tuple[int, int]
"""Height and width in pixels."""


class ImageDataset(ABC):
    """Images with labels.

    A subclass sets `classes` and `labels`, reads an image in `image` and names it in `name`; the
    rest has defaults. Its constructor takes plain keyword-only data. It raises ConfigError for what
    the user must correct, and RunError for an image that cannot be read.

    Data of each sample belongs in arrays, and paths in a `packed.PackedPaths`: every loader worker
    ends up with its own copy of a list of Python objects.

    Attributes:
        classes: names of the labels.
        labels: int64 [N], the class of each sample.
        valid_labels: the classes, in ascending order, that an evaluation shall compare only among;
            null for all.
        image_size: of every image, set by the class where they all have one; else null.
        mode: what the samples' images are converted to, one of `images.CHANNELS`.
        background: what lies behind transparent pixels, see `images.convert_image`.
    """

    image_size: Size | None = None
    classes: list[str]
    labels: np.ndarray
    valid_labels: list[int] | None = None
    mode: str = "RGB"
    background: Sequence[int] | None = None

    @classmethod
    def class_names(cls, **options: Any) -> list[str]:
        """What `classes` is with these arguments of the constructor, for the check of a config. A
        dataset that takes long to build finds them without.
        """
        return cls(**options).classes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        stored = self.load_image(index)
        try:
            image = convert_image(stored, self.mode, self.background)
        except ValueError as error:
            raise RunError(f"{self.name(index)}: {error}") from None
        return image, int(self.labels[index])

    @abstractmethod
    def load_image(self, index: int) -> Image.Image:
        """The image as it is stored, in any mode that `images.convert_image` knows.

        Raises:
            RunError: it cannot be read.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Which sample it is, for messages and tables of predictions."""

    def source(self, index: int) -> str | bytes | None:
        """The file of a sample, its path or its content; null where samples are not files.

        Raises:
            RunError: it cannot be read.
        """
        return None

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """A random order of the indices. A dataset that is read fastest in another order than any
        gives its own.
        """
        return rng.permutation(len(self))
