"""Segmentation data that is part of the package: digits on a coloured background."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
from PIL import Image

from passl.data import DATASETS
from passl.data.datasets.base import ImageDataset
from passl.data.datasets.digits import Digits
from passl.utils.types import PositiveInt

_SPLITS = ("train", "val")
_SIDES = (28, 45)
"""Range of the sides of a digit, in pixels, without the end."""
_INK = 0.4
"""From this opacity on, a pixel has the digit's label."""


@DATASETS.register
class DigitScenes(ImageDataset):
    """Images of a bright digit on a darker background of random colours, 48x48 pixels. The mask has
    the digit's class where its ink is, else class 0, the background. The digits are those of
    `Digits`, so no digit is in both splits. An image depends on its split and index alone.

    Args:
        split: `train` or `val`.
        count: number of images.

    Example:
        {name: DigitScenes, split: train, count: 1000}
    """

    task = "segmentation"
    image_size = (48, 48)

    def __init__(self, *, split: Literal["train", "val"], count: PositiveInt = 1000):
        self.split, self.labels = split, np.zeros(count, np.int64)
        self._drawn: tuple[int, tuple[np.ndarray, np.ndarray]] | None = None
        self.classes = self.class_names()

    @cached_property
    def _digits(self) -> Digits:
        return Digits(split=self.split)

    def load_image(self, index: int) -> Image.Image:
        return Image.fromarray(self._scene(index)[0])

    def label(self, index: int) -> np.ndarray:
        return self._scene(index)[1]

    def name(self, index: int) -> str:
        return f"DigitScenes {self.split} {index}"

    @classmethod
    def class_names(cls, **_: Any) -> list[str]:
        return ["background", *Digits.class_names()]

    def _scene(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """An image, uint8 [48, 48, 3], and its mask, uint8 [48, 48]; they are asked for in turn."""
        if self._drawn is None or self._drawn[0] != index:
            self._drawn = index, self._draw(index)
        return self._drawn[1]

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((_SPLITS.index(self.split), index))
        height, width = self.image_size
        coarse = Image.fromarray(rng.integers(20, 141, (5, 5, 3), np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
        pixels = pixels + rng.normal(0, 10, pixels.shape)
        mask = np.zeros((height, width), np.uint8)
        self._paste(pixels, mask, rng)
        return pixels.clip(0, 255).astype(np.uint8), mask

    def _paste(self, pixels: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
        """Draw a digit into an image and its mask."""
        chosen, side = int(rng.integers(len(self._digits))), int(rng.integers(*_SIDES))
        digit = self._digits.load_image(chosen).resize((side, side), Image.Resampling.BICUBIC)
        ink = np.asarray(digit, np.float64) / 255
        top, left = (int(rng.integers(length - side + 1)) for length in mask.shape)
        box = np.s_[top : top + side, left : left + side]
        pixels[box] += ink[..., None] * (rng.uniform(170, 256, 3) - pixels[box])
        mask[box][ink >= _INK] = 1 + self._digits.labels[chosen]
