"""Digits in clutter: small images of a digit among fragments of other digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

from passl.data import DATASETS
from passl.data.datasets.base import ImageDataset
from passl.data.datasets.digits import Digits
from passl.utils.types import NonNegativeInt, PositiveInt

SIDE = 64
_SPLITS = ("train", "val")
_DIGIT = (24, 33)
"""Range of the side of the digit, without the end; whole digits have 32."""


@DATASETS.register
class ClutteredDigits(ImageDataset):
    """64x64 images of one digit at a random place among fragments of other digits, as Mnih et al.
    (arXiv 1406.6247) made them of MNIST. An image depends on its split and index alone.

    Args:
        split: `train` or `val`, whose digits are used.
        count: number of images.
        fragments: of other digits in each image.
        side: of a fragment, in pixels.

    Example:
        {name: ClutteredDigits, split: train, count: 4000}
    """

    image_size = (SIDE, SIDE)

    def __init__(
        self,
        *,
        split: Literal["train", "val"],
        count: PositiveInt = 4000,
        fragments: NonNegativeInt = 10,
        side: PositiveInt = 10,
    ):
        self._fragments, self._side = fragments, side
        self._digits, self.split = Digits(split=split), split
        self.classes = self._digits.classes
        self._chosen = np.array([self._rng(i).integers(len(self._digits)) for i in range(count)])
        self.labels = self._digits.labels[self._chosen]

    @classmethod
    def class_names(cls, **_: object) -> list[str]:
        return Digits.class_names()

    def load_image(self, index: int) -> Image.Image:
        return Image.fromarray(self.draw(index)[0])

    def name(self, index: int) -> str:
        return f"ClutteredDigits {self.split} {index}"

    def draw(self, index: int) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Draw an image, uint8 [64, 64]; and top, left and side of the square with its digit."""
        rng = self._rng(index)
        rng.integers(len(self._digits))  # the digit
        pixels = np.zeros((SIDE, SIDE), np.uint8)
        for _ in range(self._fragments):
            other = np.asarray(self._digits.load_image(int(rng.integers(len(self._digits)))))
            row, column = rng.integers(len(other) - self._side + 1, size=2)
            fragment = other[row : row + self._side, column : column + self._side]
            _paste(pixels, fragment, rng, np.maximum)
        side = int(rng.integers(*_DIGIT))
        digit = self._digits.load_image(int(self._chosen[index])).resize((side, side))
        top, left = _paste(pixels, np.asarray(digit), rng, lambda _, part: part)
        return pixels, (top, left, side)

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng((_SPLITS.index(self.split), index))


def _paste(
    pixels: np.ndarray,
    part: np.ndarray,
    rng: np.random.Generator,
    join: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[int, int]:
    """Draw a part at a random place, joined with what is there; return its top left corner."""
    rows, columns = part.shape
    top, left = (int(rng.integers(SIDE - length + 1)) for length in (rows, columns))
    box = np.s_[top : top + rows, left : left + columns]
    pixels[box] = join(pixels[box], part)
    return top, left
