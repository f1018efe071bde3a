"""The dataset that is part of the package, so that a first training needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from passl.data import DATASETS
from passl.data.datasets.base import ImageDataset
from passl.utils.types import PositiveInt

FILE = Path(__file__).with_name("digits.npz")
SIDE = 32
_QUARTERS = 4


@DATASETS.register
class Digits(ImageDataset):
    """1,797 handwritten digits of 13 people, 8x8 pixels (the test set of UCI's optical recognition
    of handwritten digits; `digits.md` has the source), enlarged to 32x32. 1,437 are for training
    and 360 for validation, with equal proportions of each digit.

    Args:
        split: `train` or `val`.

    Example:
        {name: Digits, split: train}
    """

    image_size = (SIDE, SIDE)

    def __init__(self, *, split: Literal["train", "val"]):
        with np.load(FILE) as file:
            chosen = file["is_val"] == (split == "val")
            grey, self.labels = file["images"][chosen], file["labels"][chosen].astype(np.int64)
        # From 0, no ink, to 16. Bicubic, since each stored pixel is the mean of a 4x4 block.
        self.images = [
            Image.fromarray((image * (255 / 16)).astype(np.uint8)).resize(
                (SIDE, SIDE), Image.Resampling.BICUBIC
            )
            for image in grey
        ]
        self.split = split
        self.classes = self.class_names()

    def load_image(self, index: int) -> Image.Image:
        return self.images[index].copy()

    def name(self, index: int) -> str:
        """Return the split and the number of the sample in it."""
        return f"Digits {self.split} {index}"

    @classmethod
    def class_names(cls, **_: Any) -> list[str]:
        return [str(digit) for digit in range(10)]


@DATASETS.register
class DigitSets(Digits):
    """Multi-label images made of the digits: 32x32 pixels with up to four of them, each in a
    quarter of its own. The labels are the digits that can be seen; an image can have none.

    Args:
        split: `train` or `val`, whose digits are used.
        count: number of images; each is always the same.

    Example:
        {name: DigitSets, split: train, count: 2000}
    """

    task = "multilabel"

    def __init__(self, *, split: Literal["train", "val"], count: PositiveInt = 2000):
        super().__init__(split=split)
        digits, numbers = self.images, self.labels
        self.labels = np.zeros((count, 10), bool)
        self.images = []
        for index in range(count):
            rng = np.random.default_rng(index)
            chosen = rng.integers(len(digits), size=rng.integers(_QUARTERS + 1))
            image = Image.new("L", (SIDE, SIDE))
            for digit, quarter in zip(chosen, rng.permutation(_QUARTERS), strict=False):
                small = digits[digit].resize((SIDE // 2, SIDE // 2), Image.Resampling.BOX)
                image.paste(small, (SIDE // 2 * int(quarter % 2), SIDE // 2 * int(quarter // 2)))
            self.images.append(image)
            self.labels[index, numbers[chosen]] = True

    def name(self, index: int) -> str:
        return f"DigitSets {self.split} {index}"
