"""The corruptions of ImageNet-C, to measure how robust a network is (Hendrycks & Dietterich 2019,
arXiv 1903.12261; code and constants in github.com/hendrycks/robustness).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Literal, get_args

import numpy as np
from PIL import Image
from pydantic import Field

from passl.data import TRANSFORMS
from passl.data.transforms.color import on_colors
from passl.data.transforms.masks import KeepsPixels
from passl.utils.types import Probability

Kind = Literal[
    "gaussian_noise",
    "gaussian_blur",
    "contrast",
    "brightness",
    "jpeg_compression",
    "pixelate",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
SEVERITIES = (1, 2, 3, 4, 5)
PUBLISHED: Mapping[int, str] = {32: "CIFAR-10-C", 64: "Tiny ImageNet-C", 224: "ImageNet-C"}
"""The datasets with published constants, by the side of their images in pixels."""
CONSTANTS: Mapping[str, Mapping[int, tuple[float, float, float, float, float]]] = {
    # Standard deviation, for pixels from 0 to 1.
    "gaussian_noise": {
        32: (0.04, 0.06, 0.08, 0.09, 0.1),
        64: (0.04, 0.08, 0.12, 0.15, 0.18),
        224: (0.08, 0.12, 0.18, 0.26, 0.38),
    },
    # Standard deviation, in pixels.
    "gaussian_blur": {
        32: (0.4, 0.6, 0.7, 0.8, 1),
        64: (0.5, 0.75, 1, 1.25, 1.5),
        224: (1, 2, 3, 4, 6),
    },
    # Factor of the difference from the mean.
    "contrast": {
        32: (0.75, 0.5, 0.4, 0.3, 0.15),
        64: (0.4, 0.3, 0.2, 0.1, 0.05),
        224: (0.4, 0.3, 0.2, 0.1, 0.05),
    },
    # Added to the value of HSV, from 0 to 1.
    "brightness": {
        32: (0.05, 0.1, 0.15, 0.2, 0.3),
        64: (0.1, 0.2, 0.3, 0.4, 0.5),
        224: (0.1, 0.2, 0.3, 0.4, 0.5),
    },
    # Quality.
    "jpeg_compression": {
        32: (80, 65, 58, 50, 40),
        64: (65, 58, 50, 40, 25),
        224: (25, 18, 15, 10, 7),
    },
    # Width and height that are kept, as a fraction.
    "pixelate": {
        32: (0.95, 0.9, 0.85, 0.75, 0.65),
        64: (0.9, 0.8, 0.7, 0.6, 0.5),
        224: (0.6, 0.5, 0.4, 0.3, 0.25),
    },
}
"""The constants of severities 1 to 5: create_c/make_cifar_c.py, make_tinyimagenet_c.py and
make_imagenet_c.py of the authors.
"""


def nearest_side(height: int, width: int) -> int:
    """Return the key of `PUBLISHED` whose ratio to the shorter side is nearest to 1."""
    return min(PUBLISHED, key=lambda side: abs(math.log(min(height, width) / side)))


def definition(height: int, width: int) -> str:
    """Name the corruptions of images of that size, for tables and logs."""
    source = PUBLISHED[nearest_side(height, width)]
    constants = "" if source == "ImageNet-C" else f" with the severities of {source}"
    return f"ImageNet-C's definitions{constants}, for {height} x {width} pixels"


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class Corruption(KeepsPixels):
    """Corrupt an image by one of ImageNet-C's definitions. `passl eval --corruptions` measures the
    accuracy for each; put the transform before `Normalize`.

    Severities are the published ones of the nearest size: CIFAR-10-C's (32 pixels), Tiny
    ImageNet-C's (64) or ImageNet-C's (224), by the shorter side. The blur's standard deviation is
    scaled from that size to the image's.

    Args:
        kind: `gaussian_noise`, for each pixel and channel; `gaussian_blur`; `contrast`, by the
            difference from the image's mean; `brightness`, of the value in HSV; `jpeg_compression`;
            `pixelate`, by a smaller image.
        severity: from 1 to 5.
        p: probability.

    Example:
        {name: Corruption, kind: gaussian_noise, severity: 3, p: 0.1}
    """

    kind: Kind
    severity: Annotated[int, Field(ge=1, le=5)]
    p: Probability = 1.0

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() >= self.p:
            return image
        amount = self.amount(image.height, image.width)
        return on_colors(lambda colors: _CHANGES[self.kind](colors, amount, rng), image)

    def amount(self, height: int, width: int) -> float:
        """Return the constant of the definition for images of that size."""
        side = nearest_side(height, width)
        constant = CONSTANTS[self.kind][side][self.severity - 1]
        return constant * min(height, width) / side if self.kind == "gaussian_blur" else constant


def _gaussian_noise(image: Image.Image, std: float, rng: np.random.Generator) -> Image.Image:
    pixels_HWC = _pixels(image)
    return _image(pixels_HWC + rng.normal(scale=std, size=pixels_HWC.shape))


def _gaussian_blur(image: Image.Image, std: float, rng: np.random.Generator) -> Image.Image:
    return _image(_blurred(_blurred(_pixels(image), std, 0), std, 1))


def _blurred(pixels_HWC: np.ndarray, std: float, axis: int) -> np.ndarray:
    """Blur along one axis. The kernel ends at four standard deviations, and the border pixels
    continue outside the image, as in scikit-image's `gaussian`, which the authors use.
    """
    reach, length = int(4 * std + 0.5), pixels_HWC.shape[axis]
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / std) ** 2)
    outside = [(reach, reach) if each == axis else (0, 0) for each in range(3)]
    padded = np.moveaxis(np.pad(pixels_HWC, outside, mode="edge"), axis, 0)
    blurred = np.zeros((length, *padded.shape[1:]))
    for start, weight in enumerate(weights / weights.sum()):
        blurred += weight * padded[start : start + length]
    return np.moveaxis(blurred, 0, axis)


def _contrast(image: Image.Image, factor: float, rng: np.random.Generator) -> Image.Image:
    pixels_HWC = _pixels(image)
    means_11C = pixels_HWC.mean((0, 1), keepdims=True)
    return _image((pixels_HWC - means_11C) * factor + means_11C)


def _brightness(image: Image.Image, added: float, rng: np.random.Generator) -> Image.Image:
    pixels_HWC = _pixels(image)
    value_HW1 = pixels_HWC.max(2, keepdims=True)
    brighter_HW1 = np.minimum(value_HW1 + added, 1)
    # Hue and saturation stay, so all channels have one factor. Black becomes grey.
    factor_HW1 = brighter_HW1 / np.where(value_HW1 > 0, value_HW1, 1)
    return _image(np.where(value_HW1 > 0, pixels_HWC * factor_HW1, brighter_HW1))


def _jpeg_compression(image: Image.Image, quality: float, rng: np.random.Generator) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    with Image.open(file) as compressed:
        return compressed.copy()


def _pixelate(image: Image.Image, fraction: float, rng: np.random.Generator) -> Image.Image:
    smaller = (max(1, int(image.width * fraction)), max(1, int(image.height * fraction)))
    box = Image.Resampling.BOX
    return image.resize(smaller, box).resize(image.size, box)


_CHANGES: Mapping[str, Callable[[Image.Image, float, np.random.Generator], Image.Image]] = {
    "gaussian_noise": _gaussian_noise,
    "gaussian_blur": _gaussian_blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "jpeg_compression": _jpeg_compression,
    "pixelate": _pixelate,
}


def _pixels(image: Image.Image) -> np.ndarray:
    """Return an image in mode L or RGB as float64 [height, width, channels], from 0 to 1."""
    return np.atleast_3d(np.asarray(image)) / 255.0


def _image(pixels_HWC: np.ndarray) -> Image.Image:
    # The authors drop the fraction of a value from 0 to 255. The small number keeps whole values,
    # which float arithmetic may have made a little smaller, so that all processors agree.
    values_HWC = np.floor(np.clip(pixels_HWC, 0, 1) * 255 + 1e-9).astype(np.uint8)
    return Image.fromarray(values_HWC[..., 0] if values_HWC.shape[2] == 1 else values_HWC)
