"""The last step from an image to the array that a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from passl.data import TRANSFORMS
from passl.data.transforms.evaluation import MEANS, mean_and_std, normalize
from passl.data.transforms.masks import KeepsPixels


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class Normalize(KeepsPixels):
    """Convert an image to the array that a network takes: float32 [channels, height, width],
    (pixel / 255 - mean) / std.

    Args:
        mean: mean of each channel, between 0 and 1: one number for mode L, three for RGB, four for
            RGBA. Null: ImageNet's.
        std: standard deviation of each channel, as for mean.

    Raises:
        ConfigError: the image has another number of channels than mean or std.

    Example:
        {name: Normalize, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self):
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in MEANS:
                raise ValueError(
                    f"{name} {list(values)} must be 1 number (for mode L), 3 (RGB) or 4 (RGBA)"
                )
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std {list(self.std)} must be above 0")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        return normalize(image, mean=self.mean, std=self.std)

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Return the pixels of an output [channels, height, width], to draw them: [height, width, 3
        or 4] from 0 to 1. Grey is repeated.
        """
        mean_C11, std_C11 = self.mean_and_std(len(array))
        pixels = np.clip(array * std_C11 + mean_C11, 0, 1).transpose(1, 2, 0)
        return np.repeat(pixels, 3, axis=2) if len(array) == 1 else pixels

    def mean_and_std(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation as float32 [channels, 1, 1]."""
        return mean_and_std(channels, self.mean, self.std)
