"""The last step from an image to the array that a network takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from passl.data import TRANSFORMS
from passl.data.transforms.masks import KeepsPixels
from passl.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MEANS: Mapping[int, Sequence[float]] = {1: (0.459,), 3: IMAGENET_MEAN, 4: (*IMAGENET_MEAN, 0.5)}
STDS: Mapping[int, Sequence[float]] = {1: (0.226,), 3: IMAGENET_STD, 4: (*IMAGENET_STD, 0.5)}
"""`Normalize`'s defaults by the number of channels. Grey has ImageNet's values, weighted as in
Pillow's conversion to grey (0.299, 0.587, 0.114). Opacity is mapped to -1 to 1.
"""


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
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        mean_C11, std_C11 = self.mean_and_std(pixels.shape[2])
        # Transpose bytes, which is faster, and compute in place. The rounding is timm's.
        array = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
        array /= np.float32(255)
        array -= mean_C11
        array /= std_C11
        return array

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Return the pixels of an output [channels, height, width], to draw them: [height, width, 3
        or 4] from 0 to 1. Grey is repeated.
        """
        mean_C11, std_C11 = self.mean_and_std(len(array))
        pixels = np.clip(array * std_C11 + mean_C11, 0, 1).transpose(1, 2, 0)
        return np.repeat(pixels, 3, axis=2) if len(array) == 1 else pixels

    def mean_and_std(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation as float32 [channels, 1, 1]."""
        if channels not in MEANS:
            raise ConfigError(
                f"Normalize: an image has {channels} channels; its mode must be L, RGB or RGBA"
            )
        mean = MEANS[channels] if self.mean is None else self.mean
        std = STDS[channels] if self.std is None else self.std
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != channels:
                raise ConfigError(
                    f"Normalize: {name} {list(values)} is for {len(values)} channels, but an "
                    f"image has {channels}; give {channels}, or leave it out for ImageNet's"
                )
        mean_C, std_C = (np.asarray(values, np.float32) for values in (mean, std))
        return mean_C[:, None, None], std_C[:, None, None]
