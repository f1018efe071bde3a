"""Transforms of one picture, by timm's and torchvision's rules (`tests/golden/transforms` has their
outputs).

A size is one number, or [height, width]. Pixels run from 0 to 255 until `Normalize`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Scale the shorter side to `size` and keep the proportions; with [height, width], squash to
    exactly that. Antialiased.

    Args:
        size: in pixels.
        interpolation: Pillow's filter.
    """

    size: int | Sequence[int]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        width, height = picture.size
        if not isinstance(self.size, int):
            target = (self.size[1], self.size[0])
        elif width <= height:
            target = (self.size, int(self.size * height / width))
        else:
            target = (int(self.size * width / height), self.size)
        return (
            picture
            if target == picture.size
            else picture.resize(target, RESAMPLING[self.interpolation])
        )


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """Cut out the middle. A picture that is smaller gets a black border first.

    Args:
        size: in pixels.
    """

    size: int | Sequence[int]

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        height, width = pair(self.size)
        # Pillow fills what a box reaches beyond the picture with black. Halves round as
        # torchvision's do: to even for the crop, down for the border.
        left = _crop_start(picture.width, width)
        top = _crop_start(picture.height, height)
        return picture.crop((left, top, left + width, top + height))


def _crop_start(length: int, wanted: int) -> int:
    return round((length - wanted) / 2) if length >= wanted else -((wanted - length) // 2)


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """Cut out a random part and scale it to `size`: Inception's augmentation, as torchvision does
    it.

    Args:
        size: of the result, in pixels.
        scale: smallest and largest part of the picture's area.
        ratio: smallest and largest width over height; drawn evenly on a logarithmic scale.
        interpolation: Pillow's filter.
    """

    size: int | Sequence[int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"

    def __post_init__(self):
        _check_size(self.size)
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high:
                raise ValueError(f"{name} [{low}, {high}] must be above 0 and in ascending order")

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        left, top, width, height = self.box(picture.width, picture.height, rng)
        part = picture.crop((left, top, left + width, top + height))
        rows, columns = pair(self.size)
        return part.resize((columns, rows), RESAMPLING[self.interpolation])

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Left, top, width and height of a part. After ten draws that do not fit, the largest one
        in the middle.
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


@dataclass(frozen=True, kw_only=True)
class RandomHorizontalFlip:
    """Mirror left and right.

    Args:
        p: how often.
    """

    p: float = 0.5

    def __post_init__(self):
        if not 0 <= self.p <= 1:
            raise ValueError(f"p {self.p} must lie between 0 and 1")

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        return (
            picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < self.p else picture
        )


@dataclass(frozen=True, kw_only=True)
class Normalize:
    """A picture as the array that the network takes: float32 [3, height, width], (pixel / 255 -
    mean) / std.

    Args:
        mean: of the red, green and blue channel, between 0 and 1.
        std: their standard deviations.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self):
        if min(self.std) <= 0:
            raise ValueError(f"std {list(self.std)} must be above 0")

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
        array = np.asarray(picture, dtype=np.float32) / np.float32(255)
        array = (array - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(array.transpose(2, 0, 1))


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """A size as (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _check_size(size: int | Sequence[int]) -> None:
    sides = [size] if isinstance(size, int) else list(size)
    if len(sides) != (1 if isinstance(size, int) else 2) or min(sides) < 1:
        shown = size if isinstance(size, int) else sides
        raise ValueError(f"size {shown} must be one number of pixels, or [height, width]")
