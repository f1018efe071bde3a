"""Change the colours of one image, or blur it, as timm and torchvision do.

In RGBA, opacity does not change, and blur weighs colours by it. Changes of saturation and hue do
not change images in mode L.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from passl.data import TRANSFORMS
from passl.data.transforms.masks import KeepsPixels
from passl.utils.types import Probability


def on_colors(change: Callable[[Image.Image], Image.Image], image: Image.Image) -> Image.Image:
    """Apply a change to the colours of an image, or to its grey, and keep the opacity of RGBA."""
    if image.mode != "RGBA":
        return change(image)
    changed = change(image.convert("RGB"))
    changed.putalpha(image.getchannel("A"))
    return changed


def to_gray(image: Image.Image) -> Image.Image:
    """Return the image in grey, by the weights of ITU-R 601, in the same mode."""
    if image.mode == "L":
        return image
    return image.convert("LA" if image.mode == "RGBA" else "L").convert(image.mode)


def blur(image: Image.Image, radius: float) -> Image.Image:
    """Blur by a Gaussian with that standard deviation, in pixels."""
    gaussian = ImageFilter.GaussianBlur(radius)
    if image.mode != "RGBA":
        return image.filter(gaussian)
    # RGBa is premultiplied, so the colours of transparent pixels do not spread.
    return image.convert("RGBa").filter(gaussian).convert("RGBA")


def _shift_hue(image: Image.Image, turns: float) -> Image.Image:
    if image.mode == "L":
        return image
    return on_colors(lambda colors: _shift_hue_of_rgb(colors, turns), image)


def _shift_hue_of_rgb(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    # QUIRK: torchvision truncates to steps of 1/255, though a turn has 256 of them.
    steps = int(turns * 255) % 256
    hue = hue.point([(old + steps) % 256 for old in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


# For each option of ColorJitter: the change, its neutral amount, and the range of amounts.
_CHANGES: dict[str, tuple[Callable[[Image.Image, float], Image.Image], float, float, float]] = {
    "brightness": (lambda image, x: ImageEnhance.Brightness(image).enhance(x), 1, 0, math.inf),
    "contrast": (lambda image, x: ImageEnhance.Contrast(image).enhance(x), 1, 0, math.inf),
    "saturation": (lambda image, x: ImageEnhance.Color(image).enhance(x), 1, 0, math.inf),
    "hue": (_shift_hue, 0, -0.5, 0.5),
}


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class ColorJitter(KeepsPixels):
    """Change brightness, contrast, saturation and hue in a random order, as in torchvision.

    Args:
        brightness: range of the factor, as [0.6, 1.4], or its largest deviation from 1, as 0.4.
        contrast: as for brightness.
        saturation: as for brightness.
        hue: range of the shift in turns of the colour wheel, as [-0.1, 0.1], or its largest
            absolute value, as 0.1; at most 0.5.
        p: probability of any change.

    Example:
        {name: ColorJitter, brightness: 0.4, contrast: 0.4, saturation: 0.4}
    """

    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0
    p: Probability = 1.0

    def __post_init__(self):
        for name, (_, _, smallest, largest) in _CHANGES.items():
            low, high = self.range_of(name)
            if not (smallest <= low <= high <= largest and math.isfinite(high)):
                bound = f" and {largest} at most" if name == "hue" else ""
                raise ValueError(
                    f"{name} {getattr(self, name)} must be a number from 0 on{bound}, or a range "
                    f"in ascending order from {smallest} on{bound}"
                )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() >= self.p:
            return image
        active = [
            name
            for name, (_, neutral, _, _) in _CHANGES.items()
            if self.range_of(name) != (neutral, neutral)
        ]
        for index in rng.permutation(len(active)):
            name = active[index]
            image = _CHANGES[name][0](image, rng.uniform(*self.range_of(name)))
        return image

    def range_of(self, name: str) -> tuple[float, float]:
        """Return the range of the factor, or of the shift of hue, of an option."""
        amount = getattr(self, name)
        _, neutral, smallest, _ = _CHANGES[name]
        if isinstance(amount, int | float):
            return max(neutral - amount, smallest), neutral + amount
        return amount[0], amount[1]


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class RandomGrayscale(KeepsPixels):
    """Remove the colours, by the weights of ITU-R 601. Images in mode L do not change.

    Args:
        p: probability.

    Example:
        {name: RandomGrayscale, p: 0.2}
    """

    p: Probability = 0.1

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return to_gray(image) if rng.random() < self.p else image


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class GaussianBlur(KeepsPixels):
    """Blur by a Gaussian, as in DINO and DeiT III.

    Args:
        p: probability.
        radius: range of the standard deviation, in pixels.

    Example:
        {name: GaussianBlur, p: 0.1}
    """

    p: Probability = 0.5
    radius: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self):
        low, high = self.radius
        if not 0 <= low <= high < math.inf:
            raise ValueError(
                f"radius [{low}, {high}] must be at least 0, finite and in ascending order"
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return blur(image, rng.uniform(*self.radius)) if rng.random() < self.p else image
