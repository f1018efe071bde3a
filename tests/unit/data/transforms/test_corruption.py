"""Corruptions equal brute-force implementations of ImageNet-C's definitions."""

from __future__ import annotations

import colorsys
import math
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from passl.data import TRANSFORMS
from passl.data.transforms.corruption import CONSTANTS, SEVERITIES, Corruption, definition
from passl.errors import ConfigError
from tests.images import noise

# Height and width, and the published size whose constants they have.
SIZES = [((28, 28), 32), ((48, 40), 32), ((64, 64), 64), ((168, 224), 224)]


def exact(value: float) -> Fraction:
    return Fraction(str(value))


def to_bytes(values) -> np.ndarray:
    """From 0 to 1 to whole numbers from 0 to 255, without the fraction."""
    return np.floor(np.clip(values, 0, 1) * 255).astype(int)


def photo(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """A smooth image with some black, some white and some noise, as photographs have."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(6 * x + k) * np.cos(5 * y - k) for k in range(3)]
    pixels = 128 + 150 * np.stack(waves, -1)
    pixels += np.random.default_rng(1).normal(0, 8, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)


def corrupted(kind: str, severity: int, image: Image.Image, seed: int = 0) -> np.ndarray:
    before = image.tobytes()
    found = Corruption(kind=kind, severity=severity)(image, np.random.default_rng(seed))
    assert (found.mode, found.size) == (image.mode, image.size)
    assert image.tobytes() == before
    return np.asarray(found).astype(int)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("size", "side"), SIZES)
def test_gaussian_noise(size, side, mode):
    image = photo(*size, mode)
    for severity in (1, 5):
        rng = np.random.default_rng(7)
        rng.random()  # whether the image is corrupted at all
        std = CONSTANTS["gaussian_noise"][side][severity - 1]
        noisy = np.asarray(image) / 255 + std * rng.standard_normal(np.shape(image))
        found = corrupted("gaussian_noise", severity, image, seed=7)
        assert (found == to_bytes(noisy)).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("size", "side"), SIZES)
def test_gaussian_blur(size, side, mode):
    image = photo(*size, mode)
    for severity in (1, 5):
        std = CONSTANTS["gaussian_blur"][side][severity - 1] * min(size) / side
        deviations = (std, std, 0)[: np.ndim(image)]
        blurred = ndimage.gaussian_filter(np.asarray(image) / 255, deviations, mode="nearest")
        found = corrupted("gaussian_blur", severity, image)
        # A value that is whole may come out a little smaller.
        assert (found == to_bytes(blurred + 1e-9 / 255)).all()


@pytest.mark.parametrize(("size", "side"), SIZES[:2])
def test_contrast(size, side):
    image = photo(*size)
    for severity in (1, 5):
        factor = exact(CONSTANTS["contrast"][side][severity - 1])
        found = corrupted("contrast", severity, image)
        for channel, values in zip(found.transpose(2, 0, 1), image.split(), strict=True):
            grey = values.tobytes()
            mean = Fraction(sum(grey), len(grey))
            bytes_of = [math.floor((value - mean) * factor + mean) for value in range(256)]
            assert channel.ravel().tolist() == [bytes_of[value] for value in grey]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness(severity):
    """Through HSV with Python's own functions; black, white and pure colours among the pixels."""
    pixels = np.array(noise(6, 5))
    pixels[0, :4] = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 3, 9]]
    added = CONSTANTS["brightness"][32][severity - 1]
    found = corrupted("brightness", severity, Image.fromarray(pixels))
    for got, (red, green, blue) in zip(found.reshape(-1, 3), pixels.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + added, 1))
        assert got.tolist() == [math.floor(255 * part + 1e-9) for part in expected]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_of_grey(severity):
    """A constant is added; exactly, although 255 times some of them are whole numbers."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    added = exact(CONSTANTS["brightness"][32][severity - 1])
    expected = [min(math.floor(value + 255 * added), 255) for value in range(256)]
    grey = corrupted("brightness", severity, Image.fromarray(values))
    assert grey.ravel().tolist() == expected
    three = corrupted("brightness", severity, Image.fromarray(np.stack([values] * 3, -1)))
    assert (three == grey[..., None]).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("size", "side"), SIZES)
def test_jpeg_compression(size, side, mode, tmp_path):
    image = photo(*size, mode)
    for severity in (1, 5):
        quality = CONSTANTS["jpeg_compression"][side][severity - 1]
        image.save(tmp_path / "image.jpg", quality=quality)
        with Image.open(tmp_path / "image.jpg") as saved:
            expected = np.asarray(saved).astype(int)
        assert (corrupted("jpeg_compression", severity, image) == expected).all()


def averages(pixels: np.ndarray, count: int) -> np.ndarray:
    """`count` means over equal parts of the first axis; a part has the pixels whose centres lie in
    it. Where there are more parts than pixels, a part is the pixel that its centre lies in.
    """
    step = Fraction(len(pixels), count)
    if step < 1:
        return np.stack([pixels[int((part + Fraction(1, 2)) * step)] for part in range(count)])
    centres = [index + Fraction(1, 2) for index in range(len(pixels))]
    parts = [
        pixels[[part * step < centre <= (part + 1) * step for centre in centres]]
        for part in range(count)
    ]
    return np.floor(np.stack([part.mean(0) for part in parts]) + 0.5)


@pytest.mark.parametrize(("size", "side"), SIZES)
def test_pixelate(size, side):
    image = photo(*size)
    for severity in SEVERITIES:
        fraction = exact(CONSTANTS["pixelate"][side][severity - 1])
        expected = np.asarray(image).astype(float)
        height, width = (int(length * fraction) for length in size)
        for h, w in ((height, width), size):
            expected = averages(expected.swapaxes(0, 1), w).swapaxes(0, 1)
            expected = averages(expected, h)
        # Pillow rounds its weights to 22 bits, so a mean of a half may go either way; in both
        # directions at most one level each.
        assert np.abs(corrupted("pixelate", severity, image) - expected).max() <= 2


def test_published_sizes_have_their_own_constants():
    """At 224 pixels exactly ImageNet-C's, at 32 CIFAR-10-C's; the log names them."""
    amounts = {side: Corruption(kind="gaussian_blur", severity=5).amount(side, side + 3)
               for side in (32, 64, 224)}  # fmt: skip
    assert amounts == {32: 1, 64: 1.5, 224: 6}
    assert Corruption(kind="gaussian_blur", severity=5).amount(28, 28) == 28 / 32
    assert Corruption(kind="jpeg_compression", severity=5).amount(28, 28) == 40
    assert definition(224, 224) == "ImageNet-C's definitions, for 224 x 224 pixels"
    assert "severities of CIFAR-10-C, for 28 x 28 pixels" in definition(28, 28)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", CONSTANTS)
def test_a_higher_severity_changes_more(kind, mode):
    for size, _ in SIZES:
        image = photo(*size, mode)
        pixels = np.asarray(image).astype(int)
        changes = [np.abs(corrupted(kind, s, image) - pixels).mean() for s in SEVERITIES]
        assert changes == sorted(changes)
        assert 0 < changes[0] < changes[-1]


@pytest.mark.parametrize("kind", CONSTANTS)
def test_small_and_transparent_images(kind):
    """Of one pixel too. Opacity stays as it is."""
    for size in ((1, 1), (3, 2)):
        corrupted(kind, 5, photo(*size, "L"))
    image = photo(9, 12, "RGBA")
    image.putalpha(photo(9, 12, "L"))
    found = corrupted(kind, 5, image)
    assert (found[..., 3] == np.asarray(image)[..., 3]).all()
    assert (found[..., :3] == corrupted(kind, 5, image.convert("RGB"))).all()


def test_probability():
    image = photo(20, 20)
    corruption = TRANSFORMS.build(
        {"name": "Corruption", "kind": "contrast", "severity": 1, "p": 0.25}
    )
    seen = [corruption(image, np.random.default_rng(seed)) is image for seed in range(400)]
    assert 300 - 4 * math.sqrt(75) < sum(seen) < 300 + 4 * math.sqrt(75)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "fog", "severity": 1}, "kind"),
        ({"kind": "contrast", "severity": 6}, "severity"),
        ({"kind": "contrast", "severity": 0}, "severity"),
        ({"kind": "contrast"}, "severity"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        TRANSFORMS.build({"name": "Corruption", **options})
