"""Transforms do what timm's and torchvision's do."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from passl.data import TRANSFORMS
from passl.data.transforms.color import ColorJitter, GaussianBlur, RandomGrayscale
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

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "transforms"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "eval.npz") as file:
        return dict(file)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image without a black pixel."""
    pixels = np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


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


@pytest.mark.parametrize("image", ["china", "flower"])
def test_images_decode_to_the_pixels_that_timm_saw(golden, image):
    with Image.open(GOLDEN / f"{image}.jpg") as file:
        np.testing.assert_array_equal(np.asarray(file.convert("RGB")), golden[f"{image}/decoded"])


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
def test_resize_leaves_an_image_of_that_size_alone(rng, size):
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
def test_boxes_keep_their_bounds(rng, width, height, scale, ratio):
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


def distance_from_uniform(values: np.ndarray) -> float:
    """Kolmogorov and Smirnov's statistic for values between 0 and 1."""
    steps = np.arange(len(values) + 1) / len(values)
    values = np.sort(values)
    return max(np.abs(values - steps[:-1]).max(), np.abs(values - steps[1:]).max())


def test_area_log_ratio_and_place_are_drawn_evenly(rng):
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
    # 1.95 / sqrt(n) is passed by one sample of n evenly distributed values in a thousand.
    too_far = {
        name: distance
        for name, values in draws.items()
        if (distance := distance_from_uniform(values)) > 1.95 / 4000**0.5
    }
    assert too_far == {}
    correlations = np.corrcoef(list(draws.values())) - np.eye(4)
    assert np.abs(correlations).max() < 0.06


def test_every_place_is_drawn_to_the_very_edges(rng):
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
def test_after_ten_draws_that_do_not_fit(rng, width, height, scale, ratio):
    box = RandomResizedCrop(size=8, scale=scale, ratio=ratio).box(width, height, rng)
    assert box == torchvision_fallback(width, height, ratio)


def test_a_generator_decides_the_crop():
    crop = RandomResizedCrop(size=8)
    image = noise(60, 50)

    def first(seed):
        return crop(image, np.random.default_rng(seed)).tobytes()

    assert first(3) == first(3)
    assert len({first(seed) for seed in range(20)}) == 20


@pytest.mark.parametrize(("size", "expected"), [(16, (16, 16)), ([10, 20], (20, 10))])
def test_the_crop_is_the_box_resized(size, expected):
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
def test_a_named_interpolation_draws_nothing(interpolation):
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
def test_random_crop_of_a_smaller_image(rng, size, padding):
    with pytest.raises(RunError, match=f"6 x 5 with padding {padding}; put a Resize"):
        RandomCrop(size=size, padding=padding)(noise(6, 5), rng)


# -------------------------------------------------------------------------------------------------
# Colours
# -------------------------------------------------------------------------------------------------
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
def test_color_jitter_draws_evenly_from_its_range(option, amount, expected):
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
def test_wrong_amounts_of_color_jitter(options, message):
    with pytest.raises(ConfigError, match=message):
        TRANSFORMS.build({"name": "ColorJitter", **options})


def test_grayscale_has_three_equal_channels(rng):
    image = noise(9, 7)
    grey = np.asarray(RandomGrayscale(p=1)(image, rng)).astype(float)
    assert (grey == grey[..., :1]).all()
    luma = np.asarray(image) @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(grey[..., 0] - luma).max() < 1


def test_blur_has_a_radius_of_the_range(rng):
    image = noise(40, 40)
    blurred = GaussianBlur(p=1, radius=(1.5, 1.5))(image, rng)
    assert blurred.tobytes() == image.filter(ImageFilter.GaussianBlur(1.5)).tobytes()
    contrasts = [
        np.asarray(GaussianBlur(p=1, radius=(0.5, 2))(image, rng)).std() for _ in range(40)
    ]
    bounds = [np.asarray(image.filter(ImageFilter.GaussianBlur(r))).std() for r in (2, 0.5)]
    assert bounds[0] <= min(contrasts) < max(contrasts) <= bounds[1]


@pytest.mark.parametrize("radius", [[2, 1], [-1, 1], [1, float("inf")]])
def test_a_wrong_radius(radius):
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
def test_colours_change_as_often_as_p_says(rng, transform, p):
    image, transform = noise(4, 3), transform(p)
    changed = sum(transform(image, rng).tobytes() != image.tobytes() for _ in range(2000))
    assert abs(changed / 2000 - p) <= 4 * math.sqrt(p * (1 - p) / 2000)


@pytest.mark.parametrize("name", ["RandomGrayscale", "GaussianBlur", "RandomHorizontalFlip"])
@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_p_that_is_no_probability(name, p):
    with pytest.raises(ConfigError, match="p: must be a number from 0 to 1"):
        TRANSFORMS.build({"name": name, "p": p})


# -------------------------------------------------------------------------------------------------
# RandomHorizontalFlip and Normalize
# -------------------------------------------------------------------------------------------------
def test_flip_never_and_always(rng):
    image = noise(7, 5)
    pixels = np.asarray(image)
    for _ in range(50):
        np.testing.assert_array_equal(RandomHorizontalFlip(p=0)(image, rng), pixels)
        np.testing.assert_array_equal(RandomHorizontalFlip(p=1)(image, rng), pixels[:, ::-1])


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_flip_as_often_as_p_says(rng, p):
    image = noise(3, 2)
    flip = RandomHorizontalFlip(p=p)
    flipped = sum(flip(image, rng).tobytes() != image.tobytes() for _ in range(4000))
    assert abs(flipped / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_normalize_each_channel(rng):
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 1] = (255, 0, 51)
    normalize = Normalize(mean=(0.5, 0.25, 0.2), std=(0.5, 0.25, 1.0))
    array = normalize(Image.fromarray(pixels), rng)
    assert (array.dtype, array.shape) == (np.float32, (3, 2, 3))
    assert array.flags.c_contiguous
    np.testing.assert_allclose(array[:, 0, 1], [1.0, -1.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(array[:, 1, 2], [-1.0, -1.0, -0.2], atol=1e-7)


@pytest.mark.parametrize(("width", "height"), [(256, 3), (3, 257), (1, 1)])
def test_normalize_rounds_as_the_formula_does_step_by_step(rng, width, height):
    """torchvision's ToTensor and Normalize: three steps in float32 for each pixel."""
    pixels = np.arange(width * height * 3).astype(np.uint8).reshape(height, width, 3)
    array = Normalize()(Image.fromarray(pixels), rng)
    for channel, (mean, std) in enumerate(
        zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ):
        table = np.array(
            [
                (np.float32(level) / np.float32(255) - np.float32(mean)) / np.float32(std)
                for level in range(256)
            ]
        )
        assert table.dtype == np.float32
        np.testing.assert_array_equal(array[channel], table[pixels[..., channel]])


def test_normalize_takes_lists_as_configs_give_them(rng):
    image = noise(4, 4)
    lists = Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    np.testing.assert_array_equal(lists(image, rng), Normalize()(image, rng))


# -------------------------------------------------------------------------------------------------
# All of them
# -------------------------------------------------------------------------------------------------
NODES = [
    {"name": "Resize", "size": 10},
    {"name": "CenterCrop", "size": 10},
    {"name": "CenterCrop", "size": 40},
    {"name": "RandomResizedCrop", "size": 10},
    {"name": "RandomHorizontalFlip", "p": 0.5},
    {"name": "RandomCrop", "size": 10, "padding": 2},
    {"name": "ColorJitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    {"name": "RandomGrayscale", "p": 0.5},
    {"name": "GaussianBlur"},
    {"name": "RandAugment", "policy": "rand-m9-mstd0.5-inc1"},
    {"name": "AutoAugment", "policy": "original-mstd0.5"},
    {"name": "ThreeAugment"},
    {"name": "Normalize"},
    {"name": "RandomErasing", "mode": "pixel"},
]


@pytest.mark.parametrize("node", NODES, ids=lambda node: node["name"])
def test_a_transform_changes_neither_the_image_nor_a_global_generator(rng, node):
    transform = TRANSFORMS.build(node)
    given = (
        Normalize()(noise(30, 20), rng) if getattr(transform, "on_arrays", False) else noise(30, 20)
    )
    before = given.tobytes()
    states = np.random.get_state()[1].tobytes(), random.getstate()
    for _ in range(20):
        transform(given, rng)
    assert given.tobytes() == before
    assert (np.random.get_state()[1].tobytes(), random.getstate()) == states


def test_every_transform_is_tested_here():
    assert {node["name"] for node in NODES} == set(TRANSFORMS.names())


@pytest.mark.parametrize(
    ("size", "expected"), [(5, (5, 5)), ([3, 4], (3, 4)), ((3, 4), (3, 4))], ids=str
)
def test_pair_is_height_and_width(size, expected):
    assert pair(size) == expected


@pytest.mark.parametrize("name", ["Resize", "CenterCrop", "RandomCrop", "RandomResizedCrop"])
@pytest.mark.parametrize("size", [[256], [1, 2, 3], [], 0, -8], ids=str)
def test_a_size_that_is_no_size(name, size):
    with pytest.raises(ConfigError, match="size"):
        TRANSFORMS.build({"name": name, "size": size})
