"""Transforms do what timm's and torchvision's do."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl.data import TRANSFORMS
from passl.data.transforms.geometry import (
    CenterCrop,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    pair,
)
from passl.data.transforms.normalize import Normalize
from passl.errors import ConfigError, RunError
from tests.images import check_uniform, noise

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "transforms"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "eval.npz") as file:
        return dict(file)


# -------------------------------------------------------------------------------------------------
# timm's outputs
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("image", ["china", "flower"])
@pytest.mark.parametrize(
    ("case", "transforms"),
    [
        ("eval_224_crop875", [Resize(size=256), CenterCrop(size=224)]),
        ("eval_160_crop100", [Resize(size=160), CenterCrop(size=160)]),
        ("eval_192_squash", [Resize(size=[192, 192])]),
    ],
)
def test_evaluation_equals_timm_bit_for_bit(golden, rng, image, case, transforms):
    array = Image.fromarray(golden[f"{image}/decoded"])
    for transform in [*transforms, Normalize()]:
        array = transform(array, rng)
    expected = golden[f"{image}/{case}"]
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(array, expected)


# -------------------------------------------------------------------------------------------------
# Resize
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(320, 214, 256), (214, 320, 256), (7, 7, 5), (500, 375, 224), (333, 500, 32), (3, 100, 10)],
)
def test_resize_scales_the_shorter_side(rng, width, height, size):
    resized = Resize(size=size)(noise(width, height), rng)
    # torchvision's rule: the longer side is cut to whole pixels, not rounded.
    long = int(size * max(width, height) / min(width, height))
    assert resized.size == ((size, long) if width <= height else (long, size))


def test_resize_to_height_and_width(rng):
    assert Resize(size=[20, 30])(noise(50, 40), rng).size == (30, 20)
    assert Resize(size=(20, 30))(noise(5, 4), rng).size == (30, 20)


@pytest.mark.parametrize("size", [20, [20, 31]])
def test_resize_to_the_same_size_changes_nothing(rng, size):
    image = noise(31, 20)
    assert Resize(size=size)(image, rng).tobytes() == image.tobytes()


def test_interpolations(rng):
    image = noise(40, 40)
    results = {
        name: np.asarray(Resize(size=20, interpolation=name)(image, rng))
        for name in ("nearest", "bilinear", "bicubic", "lanczos")
    }
    assert len({array.tobytes() for array in results.values()}) == 4
    np.testing.assert_array_equal(results["nearest"], np.asarray(image)[1::2, 1::2])
    default = np.asarray(Resize(size=20)(image, rng))
    np.testing.assert_array_equal(default, results["bicubic"])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_resize_is_antialiased(rng, interpolation):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    resized = Resize(size=8, interpolation=interpolation)(Image.fromarray(stripes), rng)
    # What lies well inside is the mean of black and white; without antialiasing it is one of them.
    assert np.abs(np.asarray(resized)[:, 2:-2].astype(float) - 127.5).max() < 10


# -------------------------------------------------------------------------------------------------
# CenterCrop
# -------------------------------------------------------------------------------------------------
def torchvision_center_crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """torchvision.transforms.functional.center_crop."""
    h, w = pixels.shape[:2]
    if width > w or height > h:
        left = (width - w) // 2 if width > w else 0
        top = (height - h) // 2 if height > h else 0
        right = (width - w + 1) // 2 if width > w else 0
        bottom = (height - h + 1) // 2 if height > h else 0
        pixels = np.pad(pixels, ((top, bottom), (left, right), (0, 0)))
        h, w = pixels.shape[:2]
    top, left = int(round((h - height) / 2.0)), int(round((w - width) / 2.0))
    return pixels[top : top + height, left : left + width]


@pytest.mark.parametrize("height", [1, 4, 7, 8, 9, 10, 13, 16])
@pytest.mark.parametrize("width", [1, 4, 7, 8, 9, 10, 13, 16])
def test_center_crop_equals_torchvision(rng, height, width):
    for image in (noise(8, 9), noise(9, 8), noise(10, 7)):
        cropped = np.asarray(CenterCrop(size=[height, width])(image, rng))
        expected = torchvision_center_crop(np.asarray(image), height, width)
        np.testing.assert_array_equal(cropped, expected)


def test_center_crop_to_a_square(rng):
    image = noise(30, 20)
    square, rectangle = CenterCrop(size=12), CenterCrop(size=(12, 12))
    assert square(image, rng).size == (12, 12)
    assert square(image, rng).tobytes() == rectangle(image, rng).tobytes()


def test_center_crop_pads_a_smaller_image_with_black(rng):
    cropped = np.asarray(CenterCrop(size=8)(noise(5, 5), rng))
    inside = np.zeros((8, 8), bool)
    inside[1:6, 1:6] = True  # left = (8 - 5) // 2
    assert (cropped[~inside] == 0).all()
    assert (cropped[inside] > 0).all()


# -------------------------------------------------------------------------------------------------
# RandomResizedCrop
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("width", "height"), [(320, 214), (214, 320), (100, 100), (33, 20)])
@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.3, 0.5), (0.5, 1.0))]
)
def test_random_resized_crop_boxes_are_within_bounds(rng, width, height, scale, ratio):
    crop = RandomResizedCrop(size=8, scale=scale, ratio=ratio)
    boxes = np.array([crop.box(width, height, rng) for _ in range(1500)])
    left, top, w, h = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (w >= 1).all()
    assert (h >= 1).all()
    assert (left + w <= width).all()
    assert (top + h <= height).all()
    # Sides are rounded to whole pixels: half a pixel each way is allowed.
    area = width * height
    assert ((w + 0.5) * (h + 0.5) >= scale[0] * area).all()
    assert ((w - 0.5) * (h - 0.5) <= scale[1] * area).all()
    assert ((w + 0.5) / (h - 0.5) >= ratio[0]).all()
    assert ((w - 0.5) / (h + 0.5) <= ratio[1]).all()
    assert len({tuple(box) for box in boxes}) > 500


def test_area_log_ratio_and_place_are_uniform(rng):
    """Of an image so large that every draw fits and rounding does not count."""
    side, scale, ratio = 4000, (0.1, 0.4), (0.5, 2.0)
    crop = RandomResizedCrop(size=8, scale=scale, ratio=ratio)
    left, top, w, h = np.array([crop.box(side, side, rng) for _ in range(4000)]).T
    draws = {
        "area": (w * h / side**2 - scale[0]) / (scale[1] - scale[0]),
        "log ratio": np.log(w / h * 2) / math.log(4),
        "left": left / (side - w),
        "top": top / (side - h),
    }
    check_uniform(draws)


def test_every_place_is_drawn(rng):
    crop = RandomResizedCrop(size=8, scale=(0.25, 0.25), ratio=(1, 1))
    boxes = [crop.box(4, 6, rng) for _ in range(900)]
    assert {(w, h) for _, _, w, h in boxes} == {(2, 2)}
    places, counts = np.unique([box[:2] for box in boxes], axis=0, return_counts=True)
    assert places.tolist() == [[left, top] for left in range(3) for top in range(5)]
    assert counts.min() > 30  # 60 are expected


def torchvision_fallback(width: int, height: int, ratio) -> tuple[int, int, int, int]:
    """The end of torchvision.transforms.RandomResizedCrop.get_params."""
    in_ratio = float(width) / float(height)
    if in_ratio < min(ratio):
        w = width
        h = int(round(w / min(ratio)))
    elif in_ratio > max(ratio):
        h = height
        w = int(round(h * max(ratio)))
    else:
        w, h = width, height
    return (width - w) // 2, (height - h) // 2, w, h


@pytest.mark.parametrize(
    ("width", "height", "scale", "ratio"),
    [
        (1000, 100, (1.0, 1.0), (3 / 4, 4 / 3)),
        (100, 1000, (1.0, 1.0), (3 / 4, 4 / 3)),
        (1001, 7, (0.9, 1.0), (0.5, 2.0)),
        (7, 1001, (0.9, 1.0), (0.5, 2.0)),
        (1, 500, (0.5, 1.0), (3 / 4, 4 / 3)),
        (500, 1, (0.5, 1.0), (3 / 4, 4 / 3)),
        (30, 20, (2.0, 2.0), (0.5, 2.0)),  # in range, but never small enough
    ],
)
def test_fallback_after_ten_draws_equals_torchvision(rng, width, height, scale, ratio):
    box = RandomResizedCrop(size=8, scale=scale, ratio=ratio).box(width, height, rng)
    assert box == torchvision_fallback(width, height, ratio)


def test_crop_depends_on_the_generator_only():
    crop = RandomResizedCrop(size=8)
    image = noise(60, 50)

    def first(seed):
        return crop(image, np.random.default_rng(seed)).tobytes()

    assert first(3) == first(3)
    assert len({first(seed) for seed in range(20)}) == 20


@pytest.mark.parametrize(("size", "expected"), [(16, (16, 16)), ([10, 20], (20, 10))])
def test_crop_is_the_box_resized(size, expected):
    crop = RandomResizedCrop(size=size, interpolation="bilinear")
    image = noise(60, 50)
    left, top, w, h = crop.box(60, 50, np.random.default_rng(5))
    pixels = np.asarray(image)[top : top + h, left : left + w]
    resized = Image.fromarray(pixels).resize(expected, Image.Resampling.BILINEAR)
    cropped = crop(image, np.random.default_rng(5))
    assert cropped.size == expected
    assert cropped.tobytes() == resized.tobytes()


def test_random_interpolation_is_bilinear_or_bicubic_of_the_same_box():
    def crop(interpolation, seed):
        transform = RandomResizedCrop(size=70, interpolation=interpolation)
        return transform(noise(60, 50), np.random.default_rng(seed)).tobytes()

    drawn = []
    for seed in range(400):
        results = {crop(kind, seed): kind for kind in ("bilinear", "bicubic")}
        assert len(results) == 2
        drawn.append(results[crop("random", seed)])
    assert abs(drawn.count("bilinear") - 200) < 4 * math.sqrt(400 / 4)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_named_interpolation_draws_nothing(interpolation):
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    crop = RandomResizedCrop(size=16, interpolation=interpolation)
    crop(noise(60, 50), one)
    crop.box(60, 50, other)
    assert one.random() == other.random()


# -------------------------------------------------------------------------------------------------
# RandomCrop
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("padding", [0, 2])
def test_random_crop_is_a_window_of_the_padded_image(rng, padding):
    image = noise(6, 5)
    padded = np.pad(np.asarray(image), ((padding, padding), (padding, padding), (0, 0)))
    crop = RandomCrop(size=[3, 4], padding=padding)
    windows = [
        padded[top : top + 3, left : left + 4].tobytes()
        for top in range(padded.shape[0] - 2)
        for left in range(padded.shape[1] - 3)
    ]
    total = 100 * len(windows)
    drawn = [crop(image, rng).tobytes() for _ in range(total)]
    counts = [drawn.count(window) for window in windows]
    assert sum(counts) == total
    assert min(counts) > 55  # 100 are expected, with a standard deviation of 10
    assert max(counts) < 145


def test_random_crop_of_the_whole_image(rng):
    image = noise(6, 5)
    assert RandomCrop(size=[5, 6])(image, rng).tobytes() == image.tobytes()


@pytest.mark.parametrize(("size", "padding"), [(6, 0), ([5, 7], 0), (8, 1)])
def test_random_crop_of_a_smaller_image_is_an_error(rng, size, padding):
    with pytest.raises(RunError, match=f"6 x 5 with padding {padding}; put a Resize"):
        RandomCrop(size=size, padding=padding)(noise(6, 5), rng)


# -------------------------------------------------------------------------------------------------
# RandomHorizontalFlip
# -------------------------------------------------------------------------------------------------
def test_flip_with_p_0_and_1(rng):
    image = noise(7, 5)
    pixels = np.asarray(image)
    for _ in range(50):
        np.testing.assert_array_equal(RandomHorizontalFlip(p=0)(image, rng), pixels)
        np.testing.assert_array_equal(RandomHorizontalFlip(p=1)(image, rng), pixels[:, ::-1])


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_flip_probability(rng, p):
    image = noise(3, 2)
    flip = RandomHorizontalFlip(p=p)
    flipped = sum(flip(image, rng).tobytes() != image.tobytes() for _ in range(4000))
    assert abs(flipped / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


# -------------------------------------------------------------------------------------------------
# Sizes
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "expected"), [(5, (5, 5)), ([3, 4], (3, 4)), ((3, 4), (3, 4))], ids=str
)
def test_pair_is_height_and_width(size, expected):
    assert pair(size) == expected


@pytest.mark.parametrize("name", ["Resize", "CenterCrop", "RandomCrop", "RandomResizedCrop"])
@pytest.mark.parametrize("size", [[256], [1, 2, 3], [], 0, -8], ids=str)
def test_wrong_size_is_an_error(name, size):
    with pytest.raises(ConfigError, match="size"):
        TRANSFORMS.build({"name": name, "size": size})
