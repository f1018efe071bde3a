"""Resize, crop and flip one image, by the rules of timm and torchvision (`tests/golden/transforms`
has their outputs).

A size is one number, or [height, width], in pixels. Images are of mode RGB, L or RGBA. In RGBA,
colours are weighted by their opacity, and the area outside the image is transparent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from passl.errors import RunError

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

    on_arrays: ClassVar[bool] = False
    size: int | Sequence[int]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        width, height = image.size
        if not isinstance(self.size, int):
            target = (self.size[1], self.size[0])
        elif width <= height:
            target = (self.size, int(self.size * height / width))
        else:
            target = (int(self.size * width / height), self.size)
        return (
            image if target == image.size else image.resize(target, RESAMPLING[self.interpolation])
        )


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """Cut out the middle. An image that is smaller gets a black border first (in RGBA a
    transparent one).

    Args:
        size: in pixels.
    """

    on_arrays: ClassVar[bool] = False
    size: int | Sequence[int]

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        height, width = pair(self.size)
        # Pillow fills what a box reaches beyond the image with black. Halves round as
        # torchvision's do: to even for the crop, down for the border.
        left = _crop_start(image.width, width)
        top = _crop_start(image.height, height)
        return image.crop((left, top, left + width, top + height))


def _crop_start(length: int, wanted: int) -> int:
    return round((length - wanted) / 2) if length >= wanted else -((wanted - length) // 2)


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """Cut out a random part and scale it to `size`: Inception's augmentation, as torchvision does
    it.

    Args:
        size: of the result, in pixels.
        scale: smallest and largest part of the image's area.
        ratio: smallest and largest width over height; drawn evenly on a logarithmic scale.
        interpolation: Pillow's filter; random is bilinear or bicubic, drawn for each image.
    """

    on_arrays: ClassVar[bool] = False
    size: int | Sequence[int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "random"] = "bicubic"

    def __post_init__(self):
        _check_size(self.size)
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high:
                raise ValueError(f"{name} [{low}, {high}] must be above 0 and in ascending order")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        left, top, width, height = self.box(image.width, image.height, rng)
        part = image.crop((left, top, left + width, top + height))
        rows, columns = pair(self.size)
        return part.resize((columns, rows), draw_filter(self.interpolation, rng))

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
class RandomCrop:
    """Cut out a part at a random place.

    Args:
        size: of the result, in pixels.
        padding: of black on each side (in RGBA transparent), before the crop, in pixels.

    Raises:
        RunError: an image is smaller than that.
    """

    on_arrays: ClassVar[bool] = False
    size: int | Sequence[int]
    padding: int = 0

    def __post_init__(self):
        _check_size(self.size)
        if self.padding < 0:
            raise ValueError(f"padding {self.padding} must be at least 0")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        height, width = pair(self.size)
        free_height = image.height + 2 * self.padding - height
        free_width = image.width + 2 * self.padding - width
        if min(free_height, free_width) < 0:
            raise RunError(
                f"RandomCrop: {width} x {height} pixels do not fit into an image of "
                f"{image.width} x {image.height} with padding {self.padding}; put a Resize "
                "before it, or give more padding"
            )
        # Pillow fills what a box reaches beyond the image with black.
        left = int(rng.integers(free_width + 1)) - self.padding
        top = int(rng.integers(free_height + 1)) - self.padding
        return image.crop((left, top, left + width, top + height))


@dataclass(frozen=True, kw_only=True)
class RandomHorizontalFlip:
    """Mirror left and right.

    Args:
        p: how often.
    """

    on_arrays: ClassVar[bool] = False
    p: float = 0.5

    def __post_init__(self):
        check_probability(self.p)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < self.p else image


def draw_filter(interpolation: str, rng: np.random.Generator) -> Image.Resampling:
    """Pillow's filter of that name; for "random", which draws, bilinear or bicubic."""
    if interpolation == "random":
        interpolation = ("bilinear", "bicubic")[rng.integers(2)]
    return RESAMPLING[interpolation]


def check_probability(p: float, name: str = "p") -> None:
    """Raise ValueError if the option of that name is no probability."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name} {p} must lie between 0 and 1")


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """A size as (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _check_size(size: int | Sequence[int]) -> None:
    sides = [size] if isinstance(size, int) else list(size)
    if len(sides) != (1 if isinstance(size, int) else 2) or min(sides) < 1:
        shown = size if isinstance(size, int) else sides
        raise ValueError(f"size {shown} must be one number of pixels, or [height, width]")
