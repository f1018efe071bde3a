"""RandAugment, AutoAugment and 3-Augment, with the operations, levels and policy strings of timm
1.0.31.

RandAugment: Cubuk et al. 2019, https://arxiv.org/abs/1909.13719. AutoAugment: Cubuk et al. 2018,
https://arxiv.org/abs/1805.09501. 3-Augment: Touvron et al. 2022 (DeiT III),
https://arxiv.org/abs/2204.07118.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from passl.data import TRANSFORMS
from passl.data.transforms.augment_ops import OPS, Geometry
from passl.data.transforms.color import blur, on_colors, to_gray
from passl.data.transforms.masks import KeepsPixels
from passl.utils.types import Color, NonNegativeInt

MAX_MAGNITUDE = 10  # which is level 1


# --------------------------------------------------------------------------------------------------
# Policies
# --------------------------------------------------------------------------------------------------
class Layer(NamedTuple):
    """One operation of a policy.

    Args:
        op: its name in OPS.
        p: probability of applying it.
        magnitude: from 0 to 10.
    """

    op: str
    p: float
    magnitude: float


class Noise(NamedTuple):
    """Random variation of the magnitudes of a policy.

    Args:
        std: standard deviation of a normal distribution around the magnitude; infinity for a
            uniform distribution from 0 to the magnitude.
        largest: upper limit of the result.
    """

    std: float
    largest: float

    def draw(self, magnitude: float, rng: np.random.Generator) -> float:
        if self.std == float("inf"):
            magnitude = rng.uniform(0, magnitude)
        elif self.std > 0:
            magnitude = rng.normal(magnitude, self.std)
        return min(max(magnitude, 0.0), self.largest)


class RandPolicy(NamedTuple):
    """A parsed policy of RandAugment.

    Args:
        layers: the layers to draw from, uniformly and with replacement.
        draws: number of draws for each image.
        noise: of the magnitudes.
    """

    layers: Sequence[Layer]
    draws: int
    noise: Noise


# Operations that RandAugment draws from. `inc1` replaces those whose strength does not always
# increase with the magnitude.
_STANDARD = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY"),
    *("TranslateX", "TranslateY"),
)
_INCREASING = [f"{op}Increasing" if f"{op}Increasing" in OPS else op for op in _STANDARD]

# Table 9 of the AutoAugment paper: the policies found on ImageNet. A line has the op, p and
# magnitude of two layers.
_ORIGINAL = """
Posterize  0.4 8  Rotate       0.6 9
Solarize   0.6 5  AutoContrast 0.6 5
Equalize   0.8 8  Equalize     0.6 3
Posterize  0.6 7  Posterize    0.6 6
Equalize   0.4 7  Solarize     0.2 4
Equalize   0.4 4  Rotate       0.8 8
Solarize   0.6 3  Equalize     0.6 7
Posterize  0.8 5  Equalize     1.0 2
Rotate     0.2 3  Solarize     0.6 8
Equalize   0.6 8  Posterize    0.4 6
Rotate     0.8 8  Color        0.4 0
Rotate     0.4 9  Equalize     0.6 2
Equalize   0.0 7  Equalize     0.8 8
Invert     0.6 4  Equalize     1.0 8
Color      0.6 4  Contrast     1.0 8
Rotate     0.8 8  Color        1.0 2
Color      0.8 8  Solarize     0.8 7
Sharpness  0.4 7  Invert       0.6 8
ShearX     0.6 5  Equalize     1.0 9
Color      0.4 0  Equalize     0.6 3
Equalize   0.4 7  Solarize     0.2 4
Solarize   0.6 5  AutoContrast 0.6 5
Invert     0.6 4  Equalize     1.0 8
Color      0.6 4  Contrast     1.0 8
Equalize   0.8 8  Equalize     0.6 3
"""


def _layer(op: str, p: str, magnitude: str) -> Layer:
    return Layer(op.replace("Posterize", "PosterizeOriginal"), float(p), float(magnitude))


ORIGINAL = [
    [_layer(*line.split()[:3]), _layer(*line.split()[3:])]
    for line in _ORIGINAL.strip().splitlines()
]


# --------------------------------------------------------------------------------------------------
# Policy strings
# --------------------------------------------------------------------------------------------------
_PATTERNS = {int: ("[0-9]+", "a whole number"), float: (r"[0-9]+(\.[0-9]*)?", "a number")}
_RAND_KEYS = {"m": int, "n": int, "p": float, "mstd": float, "mmax": int, "inc": int}


@cache
def read_rand_policy(policy: str) -> RandPolicy:
    """Parse a string such as rand-m9-mstd0.5-inc1; see `RandAugment`.

    Raises:
        ValueError: a part of it is wrong.
    """
    head, *parts = policy.split("-")
    if head != "rand":
        raise ValueError(f"policy {policy} must begin with rand, as in rand-m9-mstd0.5-inc1")
    numbers = _read_numbers(policy, parts, _RAND_KEYS)
    p, count = numbers.get("p", 0.5), int(numbers.get("n", 2))
    std, largest = numbers.get("mstd", 0.0), numbers.get("mmax", MAX_MAGNITUDE)
    if p > 1 or count < 1 or largest < 1:
        raise ValueError(f"policy {policy}: p must be at most 1, n and mmax at least 1")
    ops = _INCREASING if numbers.get("inc") else _STANDARD
    layers = [Layer(op, p, numbers.get("m", MAX_MAGNITUDE)) for op in ops]
    return RandPolicy(layers, count, Noise(float("inf") if std > 100 else std, largest))


@cache
def read_auto_policy(policy: str) -> Noise:
    """Parse a string such as original-mstd0.5; see `AutoAugment`.

    Raises:
        ValueError: a part of it is wrong.
    """
    name, *parts = policy.split("-")
    if name not in ("original", "autoaug"):
        raise ValueError(f"policy {policy} must begin with original or autoaug")
    return Noise(_read_numbers(policy, parts, {"mstd": float}).get("mstd", 0.0), MAX_MAGNITUDE)


def _read_numbers(policy: str, parts: Sequence[str], keys: Mapping[str, type]) -> dict[str, float]:
    """Parse `m9`, `mstd0.5` and the like."""
    numbers: dict[str, float] = {}
    for part in parts:
        key = "".join(itertools.takewhile(str.islower, part))
        if key not in keys:
            raise ValueError(
                f"policy {policy}: {part!r} is none of its parts, which are {', '.join(keys)}, "
                "each with a number, as in mstd0.5"
            )
        if key in numbers:
            raise ValueError(f"policy {policy}: {part!r} sets {key} twice; keep one")
        value = part.removeprefix(key)
        pattern, described = _PATTERNS[keys[key]]
        if not re.fullmatch(pattern, value):
            raise ValueError(f"policy {policy}: {part!r}: {key} needs {described}, not {value!r}")
        numbers[key] = keys[key](value)
    return numbers


# --------------------------------------------------------------------------------------------------
# Transforms
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Augment:
    """The options of RandAugment and AutoAugment."""

    policy: str
    fill: Color = (124, 116, 104)
    interpolation: Literal["nearest", "bilinear", "bicubic", "random"] = "bicubic"
    translate_const: NonNegativeInt | None = None

    def apply(
        self, layers: Sequence[Layer], noise: Noise, image: Image.Image, rng: np.random.Generator
    ) -> Image.Image:
        """Apply layers, each with its probability and a varied magnitude."""
        red, green, blue = self.fill  # Pillow takes no list
        geometry = Geometry((red, green, blue), self.interpolation, self.translate_const)
        for layer in layers:
            if layer.p < 1 and rng.random() >= layer.p:  # like timm, draw nothing for p 1
                continue
            level = noise.draw(layer.magnitude, rng) / MAX_MAGNITUDE
            image = OPS[layer.op](image, level, rng, geometry)
        return image


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class RandAugment(_Augment):
    """Apply a few randomly drawn operations, all with one magnitude.

    A policy is `rand` followed by any of these parts, joined by dashes:

    * `m9`: the magnitude, by default 10.
    * `n3`: number of operations that are drawn, by default 2.
    * `p0.5`: probability of applying each of them, by default 0.5.
    * `mstd0.5`: standard deviation of the magnitude, by default 0; above 100 the magnitude is drawn
      uniformly from 0 to `m`.
    * `mmax20`: upper limit of the magnitude, by default 10.
    * `inc1`: every operation is stronger at a larger magnitude. Without it, Posterize and Solarize
      are weaker, and the colour operations change nothing at 5.

    Args:
        policy: the policy string; ConViT and CvT were trained with rand-m9-mstd0.5-inc1.
        fill: red, green and blue, from 0 to 255, of the area outside the image; in mode L the same
            in grey, and in RGBA transparent.
        interpolation: Pillow's filter for operations that move pixels; `random` draws bilinear or
            bicubic.
        translate_const: largest shift in pixels, at magnitude 10; null for 0.45 of the width or
            height, as in timm.

    Example:
        {name: RandAugment, policy: rand-m9-mstd0.5-inc1}
    """

    def __post_init__(self):
        read_rand_policy(self.policy)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        layers, draws, noise = read_rand_policy(self.policy)
        chosen = rng.choice(len(layers), draws)
        return self.apply([layers[index] for index in chosen], noise, image, rng)


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class AutoAugment(_Augment):
    """Apply one of 25 pairs of operations, drawn for each image, with searched magnitudes.

    Args:
        policy: `original`, the paper's for ImageNet, or MindCV's name of it, `autoaug`. Append
            `-mstd0.5` for a standard deviation of the magnitudes.
        fill: red, green and blue, from 0 to 255, of the area outside the image; in mode L the same
            in grey, and in RGBA transparent.
        interpolation: Pillow's filter for operations that move pixels; `random` draws bilinear or
            bicubic.
        translate_const: largest shift in pixels, at magnitude 10; null for 0.45 of the width or
            height, as in timm.

    Example:
        {name: AutoAugment, policy: original-mstd0.5}
    """

    def __post_init__(self):
        read_auto_policy(self.policy)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        pair = ORIGINAL[int(rng.integers(len(ORIGINAL)))]
        return self.apply(pair, read_auto_policy(self.policy), image, rng)


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class ThreeAugment(KeepsPixels):
    """Apply one of three operations, drawn uniformly: invert values of 128 and above, remove the
    colours, or blur by a Gaussian with a radius from 0.1 to 2 pixels. DeiT III uses a ColorJitter
    of 0.3 after it.

    Example:
        {name: ThreeAugment}
    """

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        which = rng.integers(3)
        if which == 0:
            return on_colors(lambda colors: ImageOps.solarize(colors, 128), image)
        if which == 1:
            return to_gray(image)
        return blur(image, rng.uniform(0.1, 2))
