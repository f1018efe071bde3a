"""Images in mode L, RGB and RGBA: conversion, transforms, and the options of datasets."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from passl.data import TRANSFORMS
from passl.data.build import build_dataset
from passl.data.datasets.base import ImageDataset
from passl.data.datasets.images import convert_image, read_image
from passl.data.datasets.subset import Subset
from passl.data.transforms.augment_ops import OPS, Geometry
from passl.data.transforms.evaluation import IMAGENET_MEAN, IMAGENET_STD
from passl.data.transforms.normalize import Normalize
from passl.errors import ConfigError, RunError

SIZE = (24, 20)
COLOURS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (20, 24), dtype=np.uint8)
GREY = COLOURS[..., 0]


def saved(image: Image.Image, kind: str = "PNG", **options) -> Image.Image:
    """An image that went through a file."""
    file = BytesIO()
    image.save(file, kind, **options)
    return read_image(file.getvalue(), "x")


def rgba(colours: np.ndarray = COLOURS, alpha: np.ndarray = ALPHA) -> Image.Image:
    return Image.fromarray(np.dstack([colours, alpha]))


# --------------------------------------------------------------------------------------------------
# Conversion
# --------------------------------------------------------------------------------------------------
def paletted() -> Image.Image:
    """480 pixels of 240 colours."""
    image = Image.fromarray((np.arange(480) % 240).astype(np.uint8).reshape(20, 24)).convert("P")
    image.putpalette(COLOURS.reshape(-1, 3)[:240].tobytes())
    return image


def colours_of_palette() -> np.ndarray:
    return np.tile(COLOURS.reshape(-1, 3)[:240], (2, 1)).reshape(20, 24, 3)


# Each: an image read from a file, its colours, and its opacity.
def transparent_cases() -> dict[str, tuple[Image.Image, np.ndarray, np.ndarray]]:
    key = tuple(int(v) for v in COLOURS[3, 4])
    one_colour = np.where((key == COLOURS).all(axis=2), 0, 255)
    steps = bytes(range(240))
    by_palette = (np.arange(480) % 240).reshape(20, 24)
    grey = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
    sixteen = GREY.astype(np.uint16) * 256 + ALPHA
    grey_as_colours = np.repeat(GREY[..., None], 3, axis=2)
    return {
        "RGBA": (saved(rgba()), COLOURS, ALPHA),
        "RGBA of WebP": (saved(rgba(), "WEBP", lossless=True, exact=True), COLOURS, ALPHA),
        "LA": (saved(grey), grey_as_colours, ALPHA),
        "palette": (saved(paletted(), transparency=steps), colours_of_palette(), by_palette),
        "GIF": (
            saved(paletted(), "GIF", transparency=7),
            colours_of_palette(),
            np.where(by_palette == 7, 0, 255),
        ),
        "one colour of RGB": (
            saved(Image.fromarray(COLOURS), transparency=key),
            COLOURS,
            one_colour,
        ),
        "one grey": (
            saved(Image.fromarray(GREY), transparency=int(GREY[0, 0])),
            grey_as_colours,
            np.where(GREY[0, 0] == GREY, 0, 255),
        ),
        "one grey of 16 bits": (
            saved(Image.fromarray(sixteen), transparency=int(sixteen[0, 0])),
            grey_as_colours,
            np.where(sixteen == sixteen[0, 0], 0, 255),
        ),
    }


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("case", transparent_cases())
def test_background_behind_transparent_pixels(case):
    image, colours, alpha = transparent_cases()[case]
    behind, part = np.array([10, 200, 90]), alpha[..., None] / 255
    composed = colours * part + behind * (1 - part)
    found = convert_image(image, "RGB", (10, 200, 90))
    assert found.mode == "RGB"
    np.testing.assert_allclose(np.asarray(found, float), composed, rtol=0, atol=1)
    # ITU-R 601, as Pillow's documentation of convert has it.
    grey = composed @ np.array([299, 587, 114]) / 1000
    found = convert_image(image, "L", (10, 200, 90))
    assert found.mode == "L"
    np.testing.assert_allclose(np.asarray(found, float), grey, rtol=0, atol=2)
    # Without a background, as if opaque; in RGBA transparency stays.
    np.testing.assert_array_equal(convert_image(image, "RGB"), colours)
    np.testing.assert_array_equal(
        convert_image(image, "RGBA"), np.dstack([colours, alpha.astype(np.uint8)])
    )


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_background_does_not_change_opaque_images(mode):
    for image in (Image.fromarray(COLOURS), Image.fromarray(GREY)):
        without = convert_image(image, mode)
        assert without.mode == mode
        np.testing.assert_array_equal(convert_image(image, mode, (1, 2, 3)), without)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_grey(kind):
    sixteen = np.arange(480, dtype=np.uint16).reshape(20, 24) * 136
    image = saved(Image.fromarray(sixteen), kind)
    np.testing.assert_array_equal(convert_image(image, "L"), sixteen // 256)
    # As a user has opened it.
    np.testing.assert_array_equal(convert_image(Image.fromarray(sixteen), "L"), sixteen // 256)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_white_are_errors(mode):
    with pytest.raises(ValueError, match=f"mode {mode} does not define which value is white"):
        convert_image(Image.new(mode, (4, 4)), "L")


def test_image_in_its_mode_is_not_copied():
    for image in (Image.fromarray(GREY), Image.fromarray(COLOURS), rgba()):
        assert convert_image(image, image.mode) is image


# --------------------------------------------------------------------------------------------------
# Datasets
# --------------------------------------------------------------------------------------------------
class Stored(ImageDataset):
    """A user's dataset: images of any mode."""

    def __init__(self, *images: Image.Image):
        self.images, self.labels, self.classes = images, np.zeros(len(images), np.int64), ["a"]

    def load_image(self, index: int) -> Image.Image:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"image {index}"


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_mode_is_an_option_of_every_dataset(mode):
    stored = Stored(rgba(), Image.fromarray(GREY), Image.new("1", SIZE), Image.new("CMYK", SIZE))
    dataset = Subset(stored, mode=mode)
    assert [dataset[index][0].mode for index in range(4)] == [mode] * 4
    digits = build_dataset({"name": "Digits", "split": "val", "mode": mode})
    assert digits[0][0].mode == mode
    assert {stored[index][0].mode for index in range(4)} == {"RGB"}  # the default


def test_background_is_an_option_of_every_dataset():
    clear = Stored(rgba(alpha=np.zeros_like(ALPHA)))
    assert Subset(clear, background=(1, 2, 3))[0][0].getextrema() == ((1, 1), (2, 2), (3, 3))
    assert Subset(clear, mode="L", background=(9, 9, 9))[0][0].getextrema() == (9, 9)


def test_unconvertible_image_is_a_run_error():
    with pytest.raises(RunError, match="image 0: mode F does not define which value is white"):
        Stored(Image.new("F", SIZE))[0]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"mode": "HSV"}, "mode: must be one of RGB, L, RGBA, not 'HSV'"),
        ({"background": [0, 0]}, "background: must be a list of 3, each a whole number"),
        ({"background": [0, 0, 256]}, "background: .* from 0 to 255"),
        ({"background": [0, 0, 0], "mode": "RGBA"}, "background: .* set mode to RGB or L"),
    ],
)
def test_wrong_mode_or_background_is_an_error(options, rule):
    with pytest.raises(ConfigError, match=rule):
        build_dataset({"name": "Digits", "split": "val", **options})


# --------------------------------------------------------------------------------------------------
# Transforms
# --------------------------------------------------------------------------------------------------
FILL = {"fill": [90, 90, 90]}  # the same in grey
ON_IMAGES = [
    {"name": "Resize", "size": [13, 9]},
    {"name": "CenterCrop", "size": [30, 10]},
    {"name": "RandomResizedCrop", "size": 12, "interpolation": "random"},
    {"name": "RandomScale", "size": 12},
    {"name": "RandomHorizontalFlip"},
    {"name": "RandomCrop", "size": 16, "padding": 4},
    {"name": "ColorJitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.5},
    {"name": "RandomGrayscale", "p": 0.5},
    {"name": "GaussianBlur"},
    {"name": "Corruption", "kind": "contrast", "severity": 2},
    {"name": "ThreeAugment"},
    {"name": "RandAugment", "policy": "rand-m9-mstd0.5-inc1-n4", **FILL},
    {"name": "AutoAugment", "policy": "original-mstd0.5", **FILL},
]


def test_every_transform_of_images_is_tested():
    others = {"Normalize", "RandomErasing"}
    assert {node["name"] for node in ON_IMAGES} == set(TRANSFORMS.names()) - others


@pytest.mark.parametrize("node", ON_IMAGES, ids=str)
def test_transforms_of_mode_l_equal_those_of_grey_rgb(node):
    """Of three equal channels a transform makes three equal ones: those of mode L."""
    transform = TRANSFORMS.build(node)
    grey = Image.fromarray(GREY)
    changes = 0
    for seed in range(30):
        found = transform(grey, np.random.default_rng(seed))
        assert found.mode == "L"
        expected = np.asarray(transform(grey.convert("RGB"), np.random.default_rng(seed)))
        np.testing.assert_array_equal(found, expected[..., 0])
        changes += found.size != grey.size or found.tobytes() != grey.tobytes()
    assert changes or node["name"] == "RandomGrayscale"


@pytest.mark.parametrize("node", [n for n in ON_IMAGES if "policy" not in n], ids=str)
def test_transforms_of_opaque_rgba_equal_those_of_rgb(node):
    transform = TRANSFORMS.build(node)
    opaque = rgba(alpha=np.full_like(ALPHA, 255))
    for seed in range(30):
        found = np.asarray(transform(opaque, np.random.default_rng(seed)))
        expected = np.asarray(transform(Image.fromarray(COLOURS), np.random.default_rng(seed)))
        inside = found[..., 3] == 255
        np.testing.assert_array_equal(found[inside][:, :3], expected[inside])
        assert inside.all() or node["name"] in ("CenterCrop", "RandomCrop")
        assert not found[~inside].any()  # outside, where RGB has black
        assert not expected[~inside].any()


@pytest.mark.parametrize("name", OPS)
def test_ops_on_opaque_rgba_equal_those_on_rgb(name):
    geometry = Geometry((120, 40, 200), "bicubic", None)
    opaque = rgba(alpha=np.full_like(ALPHA, 255))
    for seed, level in enumerate((0.1, 0.3, 0.5, 0.9)):
        found, expected = (
            np.asarray(OPS[name](image, level, np.random.default_rng(seed), geometry))
            for image in (opaque, Image.fromarray(COLOURS))
        )
        inside = found[..., 3] == 255
        assert inside.any()
        np.testing.assert_array_equal(found[inside][:, :3], expected[inside])


MOVING = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "GaussianBlur")


@pytest.mark.parametrize("name", OPS)
def test_colour_ops_keep_the_opacity(name):
    geometry = Geometry((124, 116, 104), "bicubic", None)
    for level in (0.1, 0.5, 0.9):
        found = OPS[name](rgba(), level, np.random.default_rng(0), geometry)
        assert found.mode == "RGBA"
        if name not in MOVING:
            np.testing.assert_array_equal(found.getchannel("A"), ALPHA)


@pytest.mark.parametrize("name", MOVING[:-1])
@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_fill_of_every_mode(name, interpolation):
    geometry = Geometry((120, 40, 200), interpolation, None)
    white = Image.new("RGBA", SIZE, "white")

    def moved(mode: str) -> np.ndarray:
        image = white.convert(mode)
        return np.asarray(OPS[name](image, 0.9, np.random.default_rng(0), geometry), int)

    outside = (moved("RGB") == (120, 40, 200)).all(axis=2)
    assert 0 < outside.sum() < outside.size
    np.testing.assert_array_equal(moved("RGBA")[..., 3], np.where(outside, 0, 255))
    # 0.299 red + 0.587 green + 0.114 blue = 82.2
    np.testing.assert_array_equal(moved("L"), np.where(outside, 82, 255))


@pytest.mark.parametrize(
    "node",
    [
        {"name": "ColorJitter", "brightness": 0.5, "hue": 0.4, "saturation": 0.5, "contrast": 0.3},
        {"name": "RandomGrayscale", "p": 1.0},
    ],
    ids=str,
)
def test_colour_transforms_keep_the_opacity(node):
    found = TRANSFORMS.build(node)(rgba(), np.random.default_rng(0))
    np.testing.assert_array_equal(found.getchannel("A"), ALPHA)
    assert found.convert("RGB").tobytes() != rgba().convert("RGB").tobytes()


@pytest.mark.parametrize(
    "node",
    [
        {"name": "Resize", "size": 9},
        {"name": "RandomResizedCrop", "size": 9, "scale": [1.0, 1.0]},
        {"name": "GaussianBlur", "p": 1.0, "radius": [2.0, 2.0]},
    ],
    ids=str,
)
def test_colours_of_transparent_pixels_do_not_spread(node):
    left = Image.new("RGBA", SIZE, (200, 0, 0, 255))
    left.paste((0, 255, 0, 0), (12, 0, 24, 20))  # green that nobody sees
    found = np.asarray(TRANSFORMS.build(node)(left, np.random.default_rng(0)), int)
    seen = found[found[..., 3] > 0]
    assert set(np.unique(found[..., 3])) > {0, 255}
    assert (seen[:, 1] == 0).all()


# --------------------------------------------------------------------------------------------------
# Normalize
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mode", "mean", "std"),
    [
        # Grey is 0.299 red + 0.587 green + 0.114 blue.
        ("L", np.dot([0.299, 0.587, 0.114], IMAGENET_MEAN), 0.226),
        ("RGB", IMAGENET_MEAN, IMAGENET_STD),
        ("RGBA", (*IMAGENET_MEAN, 0.5), (*IMAGENET_STD, 0.5)),
    ],
)
def test_default_mean_and_std(mode, mean, std):
    image = rgba().convert(mode)
    array = Normalize()(image, np.random.default_rng(0))
    assert array.dtype == np.float32
    pixels = np.asarray(image, float).reshape(20, 24, -1) / 255
    expected = ((pixels - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(array, expected, rtol=0, atol=2e-3 if mode == "L" else 1e-5)


@pytest.mark.parametrize(
    ("mode", "values"), [("L", [0.25]), ("RGB", [0.1, 0.2, 0.3]), ("RGBA", [0.1, 0.2, 0.3, 0.4])]
)
def test_given_mean_and_std(mode, values):
    image = rgba().convert(mode)
    array = Normalize(mean=values, std=values)(image, np.random.default_rng(0))
    assert array.flags.c_contiguous
    pixels = np.asarray(image, float).reshape(20, 24, -1) / 255
    expected = (pixels / values - 1).transpose(2, 0, 1)
    np.testing.assert_allclose(array, expected, rtol=0, atol=1e-5)


def test_mean_for_other_channels_is_an_error():
    with pytest.raises(ValueError, match=r"std \[1, 1\] must be 1 number \(for mode L\), 3"):
        Normalize(std=[1, 1])
    grey = Image.fromarray(GREY)
    with pytest.raises(ConfigError, match=r"mean \[0, 0, 0\] is for 3 channels, .* has 1; give 1"):
        Normalize(mean=[0, 0, 0])(grey, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="has 2 channels; its mode must be L, RGB or RGBA"):
        Normalize()(Image.new("LA", SIZE), np.random.default_rng(0))
