"""Change the colours of one image, or blur it, by the rules of timm and torchvision.

In mode RGBA, opacity does not change, and blur weighs colours by it. Saturation and hue do not
change images of mode L.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from passl.data.transforms.geometry import check_probability


def on_colours(change: Callable[[Image.Image], Image.Image], image: Image.Image) -> Image.Image:
    """Change the colours of an image, or its grey. The opacity of RGBA stays as it is."""
    if image.mode != "RGBA":
        return change(image)
    changed = change(image.convert("RGB"))
    changed.putalpha(image.getchannel("A"))
    return changed


def without_colour(image: Image.Image) -> Image.Image:
    """In grey, by the weights of ITU-R 601, and in the same mode."""
    if image.mode == "L":
        return image
    return image.convert("LA" if image.mode == "RGBA" else "L").convert(image.mode)


def blurred(image: Image.Image, radius: float) -> Image.Image:
    """By a Gaussian with that standard deviation, in pixels."""
    blur = ImageFilter.GaussianBlur(radius)
    if image.mode != "RGBA":
        return image.filter(blur)
    # RGBa has colours times opacity, so that the colours of transparent pixels do not spread.
    return image.convert("RGBa").filter(blur).convert("RGBA")


def _shift_hue(image: Image.Image, turns: float) -> Image.Image:
    if image.mode == "L":
        return image
    return on_colours(lambda colours: _shift_hue_of_rgb(colours, turns), image)


def _shift_hue_of_rgb(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    # QUIRK: torchvision cuts to whole steps of 1/255 towards 0, though a turn has 256 of them.
    steps = int(turns * 255) % 256
    hue = hue.point([(old + steps) % 256 for old in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


# For each option of ColorJitter: what makes the change, the amount that changes nothing, the
# smallest amount and the largest.
_CHANGES: dict[str, tuple[Callable[[Image.Image, float], Image.Image], float, float, float]] = {
    "brightness": (lambda image, x: ImageEnhance.Brightness(image).enhance(x), 1, 0, math.inf),
    "contrast": (lambda image, x: ImageEnhance.Contrast(image).enhance(x), 1, 0, math.inf),
    "saturation": (lambda image, x: ImageEnhance.Color(image).enhance(x), 1, 0, math.inf),
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

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() >= self.p:
            return image
        changed = [
            name
            for name, (_, neutral, _, _) in _CHANGES.items()
            if self.range_of(name) != (neutral, neutral)
        ]
        for index in rng.permutation(len(changed)):
            name = changed[index]
            image = _CHANGES[name][0](image, rng.uniform(*self.range_of(name)))
        return image

    def range_of(self, name: str) -> tuple[float, float]:
        """Smallest and largest factor, or shift, of one of the four."""
        amount = getattr(self, name)
        _, neutral, smallest, _ = _CHANGES[name]
        if isinstance(amount, int | float):
            return max(neutral - amount, smallest), neutral + amount
        return amount[0], amount[1]


@dataclass(frozen=True, kw_only=True)
class RandomGrayscale:
    """Take the colour out, by the weights of ITU-R 601. Images of mode L stay as they are.

    Args:
        p: how often.
    """

    on_arrays: ClassVar[bool] = False
    p: float = 0.1

    def __post_init__(self):
        check_probability(self.p)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return without_colour(image) if rng.random() < self.p else image


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

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() >= self.p:
            return image
        return blurred(image, rng.uniform(*self.radius))
