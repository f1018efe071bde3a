"""Resize, crop and flip one image, as timm and torchvision do (`tests/golden/transforms` has their
outputs).

A size is one number, or [height, width], in pixels. Images are in mode RGB, L or RGBA. In RGBA,
colours are weighted by their opacity, and the area outside the image is transparent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from passl.data import TRANSFORMS
from passl.data.transforms.evaluation import RESAMPLING, center_crop, pair, resize
from passl.data.transforms.masks import MovesPixels
from passl.errors import RunError
from passl.utils.types import ImageSize, NonNegativeInt, PositiveInt, Probability


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class Resize(MovesPixels):
    """Resize the shorter side to `size` and keep the aspect ratio, or resize to exactly
    [height, width]. Antialiased.

    Args:
        size: in pixels.
        interpolation: Pillow's filter.

    Example:
        {name: Resize, size: 256}
    """

    keeps_view: ClassVar[bool] = True
    size: ImageSize
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return resize(image, size=self.size, interpolation=self.interpolation)


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class RandomScale(MovesPixels):
    """Resize the shorter side to `size` times a random factor, and keep the aspect ratio: the
    augmentation of most segmentation networks, before a `RandomCrop`.

    Args:
        size: in pixels.
        scale: range of the factor, drawn uniformly.
        interpolation: Pillow's filter.

    Example:
        {name: RandomScale, size: 512, scale: [0.5, 2.0], interpolation: bilinear}
    """

    size: PositiveInt
    scale: tuple[float, float] = (0.5, 2.0)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"

    def __post_init__(self):
        _check_range("scale", self.scale)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        size = max(1, round(self.size * rng.uniform(*self.scale)))
        return Resize(size=size, interpolation=self.interpolation)(image, rng)


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class CenterCrop(MovesPixels):
    """Crop the centre. Smaller images are first padded with black (RGBA: transparent).

    Args:
        size: in pixels.

    Example:
        {name: CenterCrop, size: 224}
    """

    size: ImageSize

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return center_crop(image, size=self.size)


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(MovesPixels):
    """Crop a random part and resize it to `size`: Inception's augmentation, as in torchvision.

    Args:
        size: of the result, in pixels.
        scale: range of the part's area, as a fraction of the image's.
        ratio: range of the part's width over height, drawn uniformly on a logarithmic scale.
        interpolation: Pillow's filter; `random` draws bilinear or bicubic for each image.

    Example:
        {name: RandomResizedCrop, size: 224, interpolation: random}
    """

    size: ImageSize
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "random"] = "bicubic"

    def __post_init__(self):
        _check_range("scale", self.scale)
        _check_range("ratio", self.ratio)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        left, top, width, height = self.box(image.width, image.height, rng)
        part = image.crop((left, top, left + width, top + height))
        rows, columns = pair(self.size)
        return part.resize((columns, rows), draw_filter(self.interpolation, rng))

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw the left, top, width and height of a part. After ten draws that do not fit, return
        the largest centred one.
        """
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        return (width - w) // 2, (height - h) // 2, w, h


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class RandomCrop(MovesPixels):
    """Crop a part at a random place.

    Args:
        size: of the result, in pixels.
        padding: black pixels (RGBA: transparent) added on each side before the crop.
        pad_if_needed: add more of them on both sides of an image that is still smaller than `size`.

    Raises:
        RunError: the padded image is smaller than `size`, without `pad_if_needed`.

    Example:
        {name: RandomCrop, size: 32, padding: 4}
    """

    size: ImageSize
    padding: NonNegativeInt = 0
    pad_if_needed: bool = False

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        height, width = pair(self.size)
        free_height = image.height + 2 * self.padding - height
        free_width = image.width + 2 * self.padding - width
        if min(free_height, free_width) < 0 and not self.pad_if_needed:
            raise RunError(
                f"RandomCrop: {width} x {height} pixels do not fit into an image of "
                f"{image.width} x {image.height} with padding {self.padding}; put a Resize before "
                "it, set pad_if_needed: true, or increase padding"
            )
        # Pillow fills the part of the box outside the image with black.
        left = _random_start(free_width, self.padding, rng)
        top = _random_start(free_height, self.padding, rng)
        return image.crop((left, top, left + width, top + height))


def _random_start(free: int, padding: int, rng: np.random.Generator) -> int:
    """Draw where a crop starts; a side that is too short is in the middle of the crop."""
    return (int(rng.integers(free + 1)) if free >= 0 else free // 2) - padding


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class RandomHorizontalFlip(MovesPixels):
    """Mirror left and right.

    Args:
        p: probability.

    Example:
        {name: RandomHorizontalFlip}
    """

    p: Probability = 0.5

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < self.p else image


def draw_filter(interpolation: str, rng: np.random.Generator) -> Image.Resampling:
    """Return Pillow's filter of that name; for "random", draw bilinear or bicubic."""
    if interpolation == "random":
        interpolation = ("bilinear", "bicubic")[rng.integers(2)]
    return RESAMPLING[interpolation]


def _check_range(name: str, limits: tuple[float, float]) -> None:
    low, high = limits
    if not 0 < low <= high:
        raise ValueError(f"{name} [{low}, {high}] must be above 0 and in ascending order")
