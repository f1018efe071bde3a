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
        layers: the layers to draw from.
        weights: their probabilities, for draws without replacement; None for uniform draws with
            replacement.
        draws: number of draws for each image.
        noise: of the magnitudes.
    """

    layers: Sequence[Layer]
    weights: np.ndarray | None
    draws: int
    noise: Noise


def _weighted(groups: Mapping[float, str]) -> Mapping[str, float]:
    """Return the weight of each operation, from the operations of each weight."""
    return {op: weight for weight, ops in groups.items() for op in ops.split()}


# Operations that RandAugment draws from. `inc1` replaces those whose strength does not always
# increase with the magnitude.
_STANDARD = _weighted(
    {
        1: "AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast "
        "Brightness Sharpness ShearX ShearY TranslateX TranslateY"
    }
)
_INCREASING = {
    f"{op}Increasing" if f"{op}Increasing" in OPS else op: weight
    for op, weight in _STANDARD.items()
}
_NAMED_SETS = {
    "3a": _weighted({1: "SolarizeIncreasing Desaturate GaussianBlur"}),
    "3aw": _weighted(
        {
            6: "SolarizeIncreasing Desaturate GaussianBlur",
            3: "Rotate",
            2: "ShearX ShearY",
            1: "PosterizeIncreasing AutoContrast ColorIncreasing SharpnessIncreasing "
            "ContrastIncreasing BrightnessIncreasing Equalize Invert",
        }
    ),
    "weights": _weighted(
        {
            3: "Rotate",
            2: "ShearX ShearY",
            1: "TranslateX TranslateY",
            0.25: "ColorIncreasing SharpnessIncreasing AutoContrast",
            0.05: "SolarizeIncreasing SolarizeAdd ContrastIncreasing BrightnessIncreasing Equalize "
            "PosterizeIncreasing Invert",
        }
    ),
}

Pairs = Sequence[Sequence[Layer]]


def _pairs(table: str, posterize: str) -> Pairs:
    """Parse a table. A line has the op, p and magnitude of two layers."""
    pairs = []
    for line in table.replace("Posterize", posterize).strip().splitlines():
        op, p, magnitude, op_2, p_2, magnitude_2 = line.split()
        pairs.append(
            [Layer(op, float(p), float(magnitude)), Layer(op_2, float(p_2), float(magnitude_2))]
        )
    return pairs


# Table 9 of the AutoAugment paper: the policies found on ImageNet.
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
# "v0" of Google's EfficientNet code for TPUs; it is in no paper.
_V0 = """
Equalize   0.8 1  ShearY       0.8 4
Color      0.4 9  Equalize     0.6 3
Color      0.4 1  Rotate       0.6 8
Solarize   0.8 3  Equalize     0.4 7
Solarize   0.4 2  Solarize     0.6 2
Color      0.2 0  Equalize     0.8 8
Equalize   0.4 8  SolarizeAdd  0.8 3
ShearX     0.2 9  Rotate       0.6 8
Color      0.6 1  Equalize     1.0 2
Invert     0.4 9  Rotate       0.6 0
Equalize   1.0 9  ShearY       0.6 3
Color      0.4 7  Equalize     0.6 0
Posterize  0.4 6  AutoContrast 0.4 7
Solarize   0.6 8  Color        0.6 9
Solarize   0.2 4  Rotate       0.8 9
Rotate     1.0 7  TranslateY   0.8 9
ShearX     0.0 0  Solarize     0.8 4
ShearY     0.8 0  Color        0.6 4
Color      1.0 0  Rotate       0.6 2
Equalize   0.8 4  Equalize     0.0 8
Equalize   1.0 4  AutoContrast 0.6 2
ShearY     0.4 7  SolarizeAdd  0.6 7
Posterize  0.8 2  Solarize     0.6 10
Solarize   0.6 8  Equalize     0.6 1
Color      0.8 6  Rotate       0.4 5
"""
# Names that end in r use Google's later Posterize: fewer bits at a larger magnitude.
_POLICIES: Mapping[str, Pairs] = {
    "original": _pairs(_ORIGINAL, "PosterizeOriginal"),
    "originalr": _pairs(_ORIGINAL, "PosterizeIncreasing"),
    "v0": _pairs(_V0, "Posterize"),
    "v0r": _pairs(_V0, "PosterizeIncreasing"),
}
_MINDCV_NAMES = {"autoaug": "original", "autoaugr": "originalr"}


# --------------------------------------------------------------------------------------------------
# Policy strings
# --------------------------------------------------------------------------------------------------
_PATTERNS = {int: ("[0-9]+", "a whole number"), float: (r"[0-9]+(\.[0-9]*)?", "a number")}
_RAND_KEYS = {"m": int, "n": int, "p": float, "mstd": float, "mmax": int, "inc": int}
_AUTO_KEYS = {"mstd": float}


@cache
def read_rand_policy(policy: str) -> RandPolicy:
    """Parse a string such as rand-m9-mstd0.5-inc1; see `RandAugment`.

    Raises:
        ValueError: a part of it is wrong.
    """
    head, *parts = policy.split("-")
    if head != "rand":
        raise ValueError(f"policy {policy} must begin with rand, as in rand-m9-mstd0.5-inc1")
    sets = [part.removeprefix("t") for part in parts if part.startswith("t")]
    if len(sets) > 1 or not set(sets) <= set(_NAMED_SETS):
        raise ValueError(
            f"policy {policy}: t{sets[-1]} must be one of "
            f"{', '.join(f't{name}' for name in _NAMED_SETS)}, once; without it the standard "
            "operations are used"
        )
    numbers = _read_numbers(policy, [p for p in parts if not p.startswith("t")], _RAND_KEYS)
    p, count = numbers.get("p", 0.5), int(numbers.get("n", 2))
    std, largest = numbers.get("mstd", 0.0), numbers.get("mmax", MAX_MAGNITUDE)
    if p > 1 or count < 1 or largest < 1:
        raise ValueError(f"policy {policy}: p must be at most 1, n and mmax at least 1")
    standard = _INCREASING if numbers.get("inc") else _STANDARD
    ops = _NAMED_SETS[sets[0]] if sets else standard
    weights = None
    if len(set(ops.values())) > 1:
        weights = np.array(list(ops.values())) / sum(ops.values())
        if count > len(ops):
            raise ValueError(
                f"policy {policy}: n{count} is more than the {len(ops)} ops of its set"
            )
    layers = [Layer(op, p, numbers.get("m", MAX_MAGNITUDE)) for op in ops]
    return RandPolicy(layers, weights, count, Noise(float("inf") if std > 100 else std, largest))


@cache
def read_auto_policy(policy: str) -> tuple[Pairs, Noise]:
    """Parse a string such as original-mstd0.5; see `AutoAugment`.

    Raises:
        ValueError: a part of it is wrong.
    """
    name, *parts = policy.split("-")
    name = _MINDCV_NAMES.get(name, name)
    if name not in _POLICIES:
        raise ValueError(
            f"policy {policy} must begin with one of {', '.join([*_POLICIES, *_MINDCV_NAMES])}"
        )
    numbers = _read_numbers(policy, parts, _AUTO_KEYS)
    return _POLICIES[name], Noise(numbers.get("mstd", 0.0), MAX_MAGNITUDE)


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
    * `tweights`, `t3a`, `t3aw`: other operations to draw from: the standard ones weighted by their
      benefit, the three of DeiT III, or these and others with weights.

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
        layers, weights, draws, noise = read_rand_policy(self.policy)
        chosen = rng.choice(len(layers), draws, replace=weights is None, p=weights)
        return self.apply([layers[index] for index in chosen], noise, image, rng)


@TRANSFORMS.register
@dataclass(frozen=True, kw_only=True)
class AutoAugment(_Augment):
    """Apply one of 25 pairs of operations, drawn for each image, with searched magnitudes.

    Args:
        policy: `original` (the paper's for ImageNet) or `v0` (of Google's EfficientNet);
            `originalr` and `v0r` have a Posterize that keeps fewer bits at a larger magnitude.
            `autoaug` and `autoaugr` are MindCV's names of the first and third. Append `-mstd0.5`
            for a standard deviation of the magnitudes.
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
        pairs, noise = read_auto_policy(self.policy)
        return self.apply(pairs[int(rng.integers(len(pairs)))], noise, image, rng)


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
