"""Transforms of one picture, by timm's and torchvision's rules (`tests/golden/transforms` has their
outputs).

A size is one number, or [height, width]. Pixels run from 0 to 255 until `Normalize`.

Pictures are of mode RGB, L or RGBA. Of RGBA, geometry and blur weigh colours by their opacity, what
lies outside is transparent, and changes of colours leave the opacity as it is. Of L, changes of
saturation and hue leave the picture as it is, since grey has neither.
`on_arrays` says whether a transform takes what `Normalize` makes instead of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from passl.errors import ConfigError, RunError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MEANS: Mapping[int, Sequence[float]] = {
    1: (0.459,),
    3: IMAGENET_MEAN,
    4: (*IMAGENET_MEAN, 0.5),
}
STDS: Mapping[int, Sequence[float]] = {1: (0.226,), 3: IMAGENET_STD, 4: (*IMAGENET_STD, 0.5)}
"""`Normalize`'s defaults by the number of channels. Those of grey are ImageNet's, weighted as
Pillow makes grey of colours (0.299, 0.587, 0.114). Opacity becomes -1 to 1.
"""
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
    """Cut out the middle. A picture that is smaller gets a black border first (in RGBA a
    transparent one).

    Args:
        size: in pixels.
    """

    on_arrays: ClassVar[bool] = False
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
        interpolation: Pillow's filter; random is bilinear or bicubic, drawn for each picture.
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

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        left, top, width, height = self.box(picture.width, picture.height, rng)
        part = picture.crop((left, top, left + width, top + height))
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
        RunError: a picture is smaller than that.
    """

    on_arrays: ClassVar[bool] = False
    size: int | Sequence[int]
    padding: int = 0

    def __post_init__(self):
        _check_size(self.size)
        if self.padding < 0:
            raise ValueError(f"padding {self.padding} must be at least 0")

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        height, width = pair(self.size)
        free_height = picture.height + 2 * self.padding - height
        free_width = picture.width + 2 * self.padding - width
        if min(free_height, free_width) < 0:
            raise RunError(
                f"RandomCrop: {width} x {height} pixels do not fit into a picture of "
                f"{picture.width} x {picture.height} with padding {self.padding}; put a Resize "
                "before it, or give more padding"
            )
        # Pillow fills what a box reaches beyond the picture with black.
        left = int(rng.integers(free_width + 1)) - self.padding
        top = int(rng.integers(free_height + 1)) - self.padding
        return picture.crop((left, top, left + width, top + height))


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

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        return (
            picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < self.p else picture
        )


def on_colours(change: Callable[[Image.Image], Image.Image], picture: Image.Image) -> Image.Image:
    """Change the colours of a picture, or its grey. The opacity of RGBA stays as it is."""
    if picture.mode != "RGBA":
        return change(picture)
    changed = change(picture.convert("RGB"))
    changed.putalpha(picture.getchannel("A"))
    return changed


def without_colour(picture: Image.Image) -> Image.Image:
    """In grey, by the weights of ITU-R 601, and in the same mode."""
    if picture.mode == "L":
        return picture
    return picture.convert("LA" if picture.mode == "RGBA" else "L").convert(picture.mode)


def blurred(picture: Image.Image, radius: float) -> Image.Image:
    """By a Gaussian with that standard deviation, in pixels."""
    blur = ImageFilter.GaussianBlur(radius)
    if picture.mode != "RGBA":
        return picture.filter(blur)
    # RGBa has colours times opacity, so that the colours of transparent pixels do not spread.
    return picture.convert("RGBa").filter(blur).convert("RGBA")


def _shift_hue(picture: Image.Image, turns: float) -> Image.Image:
    if picture.mode == "L":
        return picture
    return on_colours(lambda colours: _shift_hue_of_rgb(colours, turns), picture)


def _shift_hue_of_rgb(picture: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    # QUIRK: torchvision cuts to whole steps of 1/255 towards 0, though a turn has 256 of them.
    steps = int(turns * 255) % 256
    hue = hue.point([(old + steps) % 256 for old in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


# For each option of ColorJitter: what makes the change, the amount that changes nothing, the
# smallest amount and the largest.
_CHANGES: dict[str, tuple[Callable[[Image.Image, float], Image.Image], float, float, float]] = {
    "brightness": (lambda picture, x: ImageEnhance.Brightness(picture).enhance(x), 1, 0, math.inf),
    "contrast": (lambda picture, x: ImageEnhance.Contrast(picture).enhance(x), 1, 0, math.inf),
    "saturation": (lambda picture, x: ImageEnhance.Color(picture).enhance(x), 1, 0, math.inf),
    "hue": (_shift_hue, 0, -0.5, 0.5),
}


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue, in a random order, as torchvision does it.
    Saturation and hue change nothing in mode L.

    Args:
        brightness: 0.4 draws the factor from 0.6 to 1.4, [0.6, 1.4] does the same.
        contrast: likewise.
        saturation: likewise.
        hue: 0.1 draws the shift from -0.1 to 0.1 turns of the colour wheel, [-0.1, 0.1] does the
            same; at most 0.5.
        p: how often anything is changed.
    """

    on_arrays: ClassVar[bool] = False
    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0
    p: float = 1.0

    def __post_init__(self):
        check_probability(self.p)
        for name, (_, _, smallest, largest) in _CHANGES.items():
            low, high = self.range_of(name)
            if not (smallest <= low <= high <= largest and math.isfinite(high)):
                bound = f" and {largest} at most" if name == "hue" else ""
                raise ValueError(
                    f"{name} {getattr(self, name)} must be a number from 0 on{bound}, or a range "
                    f"in ascending order from {smallest} on{bound}"
                )

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() >= self.p:
            return picture
        changed = [
            name
            for name, (_, neutral, _, _) in _CHANGES.items()
            if self.range_of(name) != (neutral, neutral)
        ]
        for index in rng.permutation(len(changed)):
            name = changed[index]
            picture = _CHANGES[name][0](picture, rng.uniform(*self.range_of(name)))
        return picture

    def range_of(self, name: str) -> tuple[float, float]:
        """Smallest and largest factor, or shift, of one of the four."""
        amount = getattr(self, name)
        _, neutral, smallest, _ = _CHANGES[name]
        if isinstance(amount, int | float):
            return max(neutral - amount, smallest), neutral + amount
        return amount[0], amount[1]


@dataclass(frozen=True, kw_only=True)
class RandomGrayscale:
    """Take the colour out, by the weights of ITU-R 601. Pictures of mode L stay as they are.

    Args:
        p: how often.
    """

    on_arrays: ClassVar[bool] = False
    p: float = 0.1

    def __post_init__(self):
        check_probability(self.p)

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        return without_colour(picture) if rng.random() < self.p else picture


@dataclass(frozen=True, kw_only=True)
class GaussianBlur:
    """Blur, as DINO and DeiT III do it.

    Args:
        p: how often.
        radius: smallest and largest standard deviation, in pixels.
    """

    on_arrays: ClassVar[bool] = False
    p: float = 0.5
    radius: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self):
        check_probability(self.p)
        low, high = self.radius
        if not 0 <= low <= high < math.inf:
            raise ValueError(
                f"radius [{low}, {high}] must be at least 0, finite and in ascending order"
            )

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() >= self.p:
            return picture
        return blurred(picture, rng.uniform(*self.radius))


@dataclass(frozen=True, kw_only=True)
class Normalize:
    """A picture as the array that the network takes: float32 [channels, height, width], (pixel /
    255 - mean) / std.

    Args:
        mean: of each channel, between 0 and 1: one number for pictures of mode L, three for RGB,
            four for RGBA. Null: ImageNet's, see `MEANS`.
        std: their standard deviations, likewise.

    Raises:
        ConfigError: a picture has not as many channels as mean or std have numbers.
    """

    on_arrays: ClassVar[bool] = False
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

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
        pixels = np.asarray(picture)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        mean, std = self.numbers(pixels.shape[2])
        # The pixels move while they are bytes, and the arithmetic, which is timm's to the last bit,
        # needs no array but the result.
        array = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
        array /= np.float32(255)
        array -= mean
        array /= std
        return array

    def numbers(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, float32 [channels, 1, 1], for pictures of that many."""
        if channels not in MEANS:
            raise ConfigError(
                f"Normalize: a picture has {channels} channels; it must be of mode L, RGB or RGBA"
            )
        mean = MEANS[channels] if self.mean is None else self.mean
        std = STDS[channels] if self.std is None else self.std
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != channels:
                raise ConfigError(
                    f"Normalize: {name} {list(values)} is for {len(values)} channels, but a "
                    f"picture has {channels}; give {channels}, or leave it out for ImageNet's"
                )
        mean_C, std_C = (np.asarray(values, np.float32) for values in (mean, std))
        return mean_C[:, None, None], std_C[:, None, None]


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
