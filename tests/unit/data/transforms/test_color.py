"""Transforms of colours equal those of torchvision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from passl.data import TRANSFORMS
from passl.data.transforms.color import ColorJitter, GaussianBlur, RandomGrayscale
from passl.errors import ConfigError
from tests.images import noise


def hue(image: Image.Image, turns: float) -> Image.Image:
    """torchvision.transforms.functional.adjust_hue."""
    channels = np.asarray(image.convert("HSV")).copy()
    channels[..., 0] += np.int32(turns * 255).astype(np.uint8)
    return Image.frombytes("HSV", image.size, channels.tobytes()).convert("RGB")


@pytest.mark.parametrize(
    ("option", "change"),
    [
        ("brightness", lambda image, x: ImageEnhance.Brightness(image).enhance(x)),
        ("contrast", lambda image, x: ImageEnhance.Contrast(image).enhance(x)),
        ("saturation", lambda image, x: ImageEnhance.Color(image).enhance(x)),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.7])
def test_color_jitter_by_a_factor(rng, option, change, factor):
    image = noise(9, 7)
    jitter = ColorJitter(**{option: [factor, factor]})
    assert jitter(image, rng).tobytes() == change(image, factor).tobytes()


@pytest.mark.parametrize("turns", [-0.5, -0.2, -0.001, 0.1, 0.5])
def test_color_jitter_of_hue(rng, turns):
    image = noise(9, 7)
    jitter = ColorJitter(hue=[turns, turns])
    assert jitter(image, rng).tobytes() == hue(image, turns).tobytes()


@pytest.mark.parametrize(
    ("option", "amount", "expected"),
    [
        ("brightness", 0.4, (0.6, 1.4)),
        ("contrast", 1.5, (0, 2.5)),
        ("saturation", [0.2, 0.9], (0.2, 0.9)),
        ("hue", 0.1, (-0.1, 0.1)),
        ("hue", [0.1, 0.2], (0.1, 0.2)),
    ],
)
def test_color_jitter_draws_uniformly_from_its_range(option, amount, expected):
    drawn = []

    class Recorder:
        def random(self):
            return 0.0

        def permutation(self, count):
            return range(count)

        def uniform(self, low, high):
            drawn.append((low, high))
            return low

    ColorJitter(**{option: amount})(noise(3, 3), Recorder())
    assert drawn == [pytest.approx(expected)]


def test_color_jitter_changes_in_every_order():
    """Brightness 3 and contrast 0 do not commute."""
    image = noise(9, 7)
    bright, flat = ImageEnhance.Brightness, ImageEnhance.Contrast
    orders = {
        bright(flat(image).enhance(0)).enhance(3).tobytes(): 0,
        flat(bright(image).enhance(3)).enhance(0).tobytes(): 0,
    }
    jitter = ColorJitter(brightness=[3, 3], contrast=[0, 0])
    for seed in range(400):
        orders[jitter(image, np.random.default_rng(seed)).tobytes()] += 1
    assert len(orders) == 2
    assert all(abs(count - 200) < 4 * math.sqrt(400 / 4) for count in orders.values())


def test_color_jitter_without_amounts_changes_nothing(rng):
    image = noise(9, 7)
    assert ColorJitter()(image, rng) is image


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"brightness": -0.1}, "brightness -0.1 must be a number from 0 on"),
        ({"contrast": [1.2, 0.8]}, "contrast .* in ascending order from 0 on"),
        ({"saturation": [-1, 1]}, "saturation .* from 0 on"),
        ({"hue": 0.6}, "hue 0.6 .* 0.5 at most"),
        ({"hue": -0.1}, "hue -0.1 must"),
        ({"hue": [-0.6, 0]}, "hue .* from -0.5 on and 0.5 at most"),
        ({"brightness": float("inf")}, "brightness inf must"),
        ({"p": 2}, "p: must be a number"),
    ],
)
def test_wrong_color_jitter_amounts_are_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        TRANSFORMS.build({"name": "ColorJitter", **options})


def test_grayscale_has_three_equal_channels(rng):
    image = noise(9, 7)
    grey = np.asarray(RandomGrayscale(p=1)(image, rng)).astype(float)
    assert (grey == grey[..., :1]).all()
    luma = np.asarray(image) @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(grey[..., 0] - luma).max() < 1


def test_blur_radius_is_in_its_range(rng):
    image = noise(40, 40)
    blurred = GaussianBlur(p=1, radius=(1.5, 1.5))(image, rng)
    assert blurred.tobytes() == image.filter(ImageFilter.GaussianBlur(1.5)).tobytes()
    contrasts = [
        np.asarray(GaussianBlur(p=1, radius=(0.5, 2))(image, rng)).std() for _ in range(40)
    ]
    bounds = [np.asarray(image.filter(ImageFilter.GaussianBlur(r))).std() for r in (2, 0.5)]
    assert bounds[0] <= min(contrasts) < max(contrasts) <= bounds[1]


@pytest.mark.parametrize("radius", [[2, 1], [-1, 1], [1, float("inf")]])
def test_wrong_blur_radius_is_an_error(radius):
    with pytest.raises(ConfigError, match="radius"):
        TRANSFORMS.build({"name": "GaussianBlur", "radius": radius})


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(
    "transform",
    [
        lambda p: RandomGrayscale(p=p),
        lambda p: GaussianBlur(p=p, radius=(1, 2)),
        lambda p: ColorJitter(p=p, brightness=[0.1, 0.2]),
    ],
    ids=["RandomGrayscale", "GaussianBlur", "ColorJitter"],
)
def test_probability(rng, transform, p):
    image, transform = noise(4, 3), transform(p)
    changed = sum(transform(image, rng).tobytes() != image.tobytes() for _ in range(2000))
    assert abs(changed / 2000 - p) <= 4 * math.sqrt(p * (1 - p) / 2000)


@pytest.mark.parametrize("name", ["RandomGrayscale", "GaussianBlur", "RandomHorizontalFlip"])
@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_wrong_probability_is_an_error(name, p):
    with pytest.raises(ConfigError, match="p: must be a number from 0 to 1"):
        TRANSFORMS.build({"name": name, "p": p})
