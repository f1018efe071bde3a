"""The operations of RandAugment and AutoAugment, as timm 1.0.31 defines them.

An operation gets its strength as a level from 0 to 1 and computes its own argument from it:
degrees, bits, a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from passl.data.transforms.color import on_colors
from passl.data.transforms.geometry import draw_filter


class Geometry(NamedTuple):
    """Options of the operations that move pixels.

    Args:
        fill: red, green and blue of the area outside the image; in mode L the same in grey, and in
            RGBA transparent.
        interpolation: Pillow's filter, or "random".
        translate_const: largest shift in pixels; None for 0.45 of the width or height.
    """

    fill: tuple[int, int, int]
    interpolation: str
    translate_const: int | None

    def affine(
        self, image: Image.Image, matrix: tuple[float, ...], rng: np.random.Generator
    ) -> Image.Image:
        """Move the pixel at (a x + b y + c, d x + e y + f) to (x, y), for the matrix a to f."""
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            matrix,
            resample=draw_filter(self.interpolation, rng),
            fillcolor=self.fill_of(image),
        )

    def fill_of(self, image: Image.Image) -> int | tuple[int, ...]:
        """Return `fill` in the mode of an image."""
        if image.mode == "L":
            return Image.new("RGB", (1, 1), self.fill).convert("L").tobytes()[0]
        return (*self.fill, 0) if image.mode == "RGBA" else self.fill

    def shift(self, level: float, side: int) -> float:
        """Return the shift in pixels along a side of that length."""
        if self.translate_const is None:
            return level * 0.45 * side  # in timm's order: another rounds to other pixels
        return level * self.translate_const


Op = Callable[[Image.Image, float, np.random.Generator, Geometry], Image.Image]
"""Image, level from 0 to 1 (more with `mmax`), generator and geometry -> a new image."""


def _signed(value: float, rng: np.random.Generator) -> float:
    return value if rng.random() < 0.5 else -value


def _without_level(function: Callable[[Image.Image], Image.Image]) -> Op:
    return lambda image, level, rng, geometry: on_colors(function, image)


def _enhance(enhancer: type) -> Op:
    """Use a factor from 0.1 to 1.9; level 0.5 changes nothing."""
    return lambda image, level, rng, geometry: enhancer(image).enhance(level * 1.8 + 0.1)


def _enhance_increasing(enhancer: type) -> Op:
    """Use a factor that is further from 1, up or down, at a higher level; at least 0.1."""
    return lambda image, level, rng, geometry: enhancer(image).enhance(
        max(0.1, 1 + _signed(level * 0.9, rng))
    )


def _posterize(bits_of: Callable[[float], int]) -> Op:
    # QUIRK: timm's levels can give 0 bits and fewer, for which Pillow returns a black image before
    # version 13 and raises from 13 on. We keep at least one bit.
    return lambda image, level, rng, geometry: on_colors(
        lambda colors: ImageOps.posterize(colors, min(max(bits_of(level), 1), 8)), image
    )


def _solarize(threshold_of: Callable[[float], int]) -> Op:
    return lambda image, level, rng, geometry: on_colors(
        lambda colors: ImageOps.solarize(colors, threshold_of(level)), image
    )


def _threshold(level: float) -> int:
    return min(256, int(level * 256))


def _solarize_add(image, level, rng, geometry):
    """Brighten values below 128."""
    added = min(128, int(level * 110))
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return on_colors(lambda colors: colors.point(table * len(colors.getbands())), image)


def _rotate(image, level, rng, geometry):
    angle = _signed(level * 30, rng)
    resample = draw_filter(geometry.interpolation, rng)
    return image.rotate(angle, resample=resample, fillcolor=geometry.fill_of(image))


def _shear_x(image, level, rng, geometry):
    return geometry.affine(image, (1, _signed(level * 0.3, rng), 0, 0, 1, 0), rng)


def _shear_y(image, level, rng, geometry):
    return geometry.affine(image, (1, 0, 0, _signed(level * 0.3, rng), 1, 0), rng)


def _translate_x(image, level, rng, geometry):
    shift = _signed(geometry.shift(level, image.width), rng)
    return geometry.affine(image, (1, 0, shift, 0, 1, 0), rng)


def _translate_y(image, level, rng, geometry):
    shift = _signed(geometry.shift(level, image.height), rng)
    return geometry.affine(image, (1, 0, 0, 0, 1, shift), rng)


OPS: Mapping[str, Op] = {
    "AutoContrast": _without_level(ImageOps.autocontrast),
    "Equalize": _without_level(ImageOps.equalize),
    "Invert": _without_level(ImageOps.invert),
    "Rotate": _rotate,
    "Posterize": _posterize(lambda level: int(level * 4)),
    "PosterizeIncreasing": _posterize(lambda level: 4 - int(level * 4)),
    "PosterizeOriginal": _posterize(lambda level: int(level * 4) + 4),
    "Solarize": _solarize(_threshold),
    "SolarizeIncreasing": _solarize(lambda level: 256 - _threshold(level)),
    "SolarizeAdd": _solarize_add,
    "Color": _enhance(ImageEnhance.Color),
    "ColorIncreasing": _enhance_increasing(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "ContrastIncreasing": _enhance_increasing(ImageEnhance.Contrast),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "BrightnessIncreasing": _enhance_increasing(ImageEnhance.Brightness),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "SharpnessIncreasing": _enhance_increasing(ImageEnhance.Sharpness),
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}
