"""Files are read as images, or are a one-line error."""

from __future__ import annotations

import re
import struct
import tarfile
import threading
import warnings
import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from passl.data import DATASETS
from passl.data.build import dataset_arguments
from passl.data.datasets.image_folder import ImageFolder
from passl.data.datasets.images import read_image
from passl.errors import ConfigError, RunError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_path_and_content_give_the_same_image(tmp_path):
    content = encoded(Image.fromarray(PIXELS))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for source in (content, str(path)):
        image = read_image(source, "x")
        assert (image.mode, image.size) == ("RGB", (7, 5))
        np.testing.assert_array_equal(image, PIXELS)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 90, "progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
    ],
    ids=str,
)
def test_image_does_not_need_its_file_later(tmp_path, kind, options):
    """It is not copied, so nothing of it may still lie in the file."""
    content = encoded(Image.fromarray(PIXELS), kind, **options)
    with Image.open(BytesIO(content)) as file:
        expected = np.asarray(file)
    if kind != "JPEG":
        np.testing.assert_array_equal(expected, PIXELS)
    path = tmp_path / "a"
    path.write_bytes(content)
    for source in (str(path), content):
        image = read_image(source, "x")
        path.unlink(missing_ok=True)
        for _ in range(2):
            np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(image.crop((2, 1, 6, 4)), expected[1:4, 2:6])
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        np.testing.assert_array_equal(mirrored, expected[:, ::-1])
        np.testing.assert_array_equal(image.copy(), expected)


def test_content_determines_the_format(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("RGB", (16, 16), (200, 100, 50)), "JPEG"))
    pixels = np.asarray(read_image(str(path), "x"), dtype=int)
    assert np.abs(pixels - (200, 100, 50)).max() < 4


@pytest.mark.parametrize(
    ("min_side", "expected"),
    [
        (None, (96, 64)),
        (33, (96, 64)),
        (32, (48, 32)),
        (17, (48, 32)),
        (16, (24, 16)),
        (1, (12, 8)),
    ],
)
def test_min_side_halves_jpeg_files(min_side, expected):
    ramp = np.linspace(0, 255, 96)[None, :, None] * np.ones((64, 1, 3))
    content = encoded(Image.fromarray(ramp.round().astype(np.uint8)), "JPEG", quality=95)
    image = read_image(content, "x", min_side=min_side)
    assert (image.mode, image.size) == ("RGB", expected)
    means = ramp.reshape(expected[1], 64 // expected[1], expected[0], 96 // expected[0], 3)
    assert np.abs(np.asarray(image) - means.mean(axis=(1, 3))).max() < 3


def test_min_side_with_exif_turn():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (96, 64)), "JPEG", exif=exif)
    assert read_image(content, "x", exif_turn=True, min_side=20).size == (32, 48)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_min_side_does_not_change_other_formats(kind):
    content = encoded(Image.fromarray(PIXELS), kind)
    assert read_image(content, "x", min_side=1).tobytes() == read_image(content, "x").tobytes()


def test_min_side_is_an_option_of_file_datasets(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (96, 64)).save(tmp_path / "a" / "x.jpg")
    (tmp_path / "list").write_text("a/x.jpg 0\n")
    (tmp_path / "classes").write_text("a\n")
    with tarfile.open(tmp_path / "x.tar", "w") as shard:
        shard.add(tmp_path / "a" / "x.jpg", "x.jpg")
        (tmp_path / "x.cls").write_text("0")
        shard.add(tmp_path / "x.cls", "x.cls")
    for node in (
        {"name": "ImageFolder", "dataroot": f"{tmp_path}"},
        {"name": "ImageList", "dataroot": f"{tmp_path}", "list_file": f"{tmp_path / 'list'}"},
        {
            "name": "TarShards",
            "shards": f"{tmp_path / 'x.tar'}",
            "class_file": f"{tmp_path / 'classes'}",
        },
    ):
        # What finds the class names takes the same arguments.
        DATASETS.get(node["name"]).class_names(**dataset_arguments(node | {"min_side": 20}))
        assert DATASETS.build(node | {"min_side": 20}).load_image(0).size == (48, 32)
        assert DATASETS.build(node).load_image(0).size == (96, 64)
        with pytest.raises(ConfigError, match="min_side: must be a whole number of at least 1"):
            DATASETS.build(node | {"min_side": 0})


# The orientations of the EXIF standard: where row 0 and column 0 of the file lie in the image.
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_turn_applies_every_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(encoded(Image.fromarray(PIXELS), exif=exif))
    for exif_turn, expected in ((False, PIXELS), (True, TURNED[orientation](PIXELS))):
        dataset = ImageFolder(dataroot=str(tmp_path), exif_turn=exif_turn)
        np.testing.assert_array_equal(dataset[0][0], expected)


def test_damaged_or_missing_exif_is_ignored():
    content = encoded(Image.fromarray(PIXELS), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\0")
    for source in (content, encoded(Image.fromarray(PIXELS))):
        for exif_turn in (False, True):
            np.testing.assert_array_equal(read_image(source, "x", exif_turn), PIXELS)


def test_cmyk_becomes_rgb():
    """CMYK by the formula (255 - ink) (255 - black) / 255."""
    ink = np.zeros((1, 4, 4), dtype=np.uint8)
    ink[0] = [[0, 0, 0, 0], [255, 0, 0, 0], [0, 100, 200, 0], [10, 20, 30, 128]]
    image = Image.frombytes("CMYK", (4, 1), ink.tobytes())
    content = encoded(image, "TIFF")
    light = 255.0 - ink.astype(float)
    expected = light[..., :3] * light[..., 3:] / 255
    np.testing.assert_allclose(np.asarray(read_image(content, "x"), float), expected, atol=1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_become_their_upper_eight(kind):
    grey = np.arange(0, 65535, 1873, dtype=np.uint16).reshape(5, 7)
    if kind == "PPM":  # as netpbm describes it; not every Pillow writes it
        content = b"P5 7 5 65535\n" + grey.astype(">u2").tobytes()
    else:
        content = encoded(Image.fromarray(grey), kind)
    pixels = np.asarray(read_image(content, "x"), dtype=float)
    np.testing.assert_allclose(pixels, grey / 257, rtol=0, atol=1)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_modes_without_a_white_are_errors(dtype):
    content = encoded(Image.fromarray(np.arange(35, dtype=dtype).reshape(5, 7)), "TIFF")
    with pytest.raises(RunError, match=r"^x: cannot .*which value is white; use 8 or 16"):
        read_image(content, "x")


def paletted(colours: np.ndarray) -> Image.Image:
    """The 35 colours as indices into a palette of exactly these colours."""
    image = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7)).convert("P")
    image.putpalette(colours.reshape(35, 3).tobytes())
    return image


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_becomes_its_colours(kind):
    image = read_image(encoded(paletted(PIXELS), kind), "x")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(image, PIXELS)


def test_black_and_white_becomes_grey():
    bits = PIXELS[..., 0] > 127
    image = read_image(encoded(Image.fromarray(bits)), "x")
    assert image.mode == "L"
    np.testing.assert_array_equal(image, bits * np.uint8(255))


def test_animation_is_its_first_image():
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (np.asarray(read_image(content, "x")) == (255, 0, 0)).all()


def png(width: int, height: int) -> bytes:
    """The header of a PNG of that size, and no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


@pytest.mark.parametrize("side", [20_000, 2**31 - 1])
def test_decompression_bomb_is_an_error(side):
    with pytest.raises(RunError, match="^x: cannot be read as an image .*decompression bomb"):
        read_image(png(side, side), "x")


def test_large_image_is_read_without_a_warning(monkeypatch):
    content = encoded(Image.fromarray(PIXELS))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7 * 5 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_image(content, "x"), PIXELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(BytesIO(content))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP", "PPM"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_file_is_an_error(kind, part):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(pixels), kind)
    with pytest.raises(RunError, match=r"^x: cannot be read as an image \(.+\); convert") as caught:
        read_image(content[: int(len(content) * part)], "x")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP"])
def test_damaged_file_is_read_or_a_one_line_error(kind):
    """Any byte may be wrong; an image that can still be read is one."""
    whole = encoded(Image.fromarray(PIXELS), kind)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            content[place] = rng.integers(256)
        try:
            assert read_image(bytes(content), "x").mode in ("L", "LA", "RGB", "RGBA")
            outcomes.add("read")
        except RunError as error:
            assert re.fullmatch(r"x: cannot be read as an image \(.+\); convert .*", str(error))
            outcomes.add("refused")
    assert "refused" in outcomes


@pytest.mark.parametrize("content", [b"", b"\0", b"this is no image\n", b"\xff\xd8\xff\xe0"])
def test_file_that_is_not_an_image_is_an_error(content):
    with pytest.raises(RunError) as caught:
        read_image(content, "shard.tar: a.jpg")
    assert str(caught.value).startswith("shard.tar: a.jpg: cannot be read as an image (it is empty")


@pytest.mark.parametrize("kind", ["EPS", "JPEG2000", "TGA", "ICO", "PCX"])
def test_other_formats_are_errors_with_any_suffix(tmp_path, kind):
    """Pillow reads them; EPS by starting Ghostscript."""
    path = tmp_path / "cat.jpg"
    path.write_bytes(encoded(Image.new("RGB", (16, 16)), kind))
    Image.open(path).close()
    for source in (str(path), path.read_bytes()):
        with pytest.raises(RunError, match=r"cat\.jpg: .*none of BMP, .*; convert or") as caught:
            read_image(source, "cat.jpg")
        assert len(str(caught.value).splitlines()) == 1


def test_ghostscript_is_not_started(tmp_path, monkeypatch):
    started = tmp_path / "started"
    (tmp_path / "gs").write_text(f"#!/bin/sh\n: > {started}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    content = encoded(Image.new("RGB", (16, 16)), "EPS")
    with suppress(OSError), Image.open(BytesIO(content)) as image:
        image.load()
    assert started.exists()  # Pillow left alone does
    started.unlink()
    with pytest.raises(RunError):
        read_image(content, "cat.jpg")
    assert not started.exists()


def test_mpo_files_are_read(tmp_path):
    """MPO is JPEG with further images behind the first."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 100, 50), (0, 0, 0))]
    content = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    with Image.open(BytesIO(content)) as file:
        assert file.format == "MPO"
    assert np.abs(np.asarray(read_image(content, "x"), int) - (200, 100, 50)).max() < 4


def test_folder_instead_of_image_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"^x: cannot be read as an image \(Is a directory\)"):
        read_image(str(tmp_path), "x")


def test_threads_restore_the_warning_filters(tmp_path, monkeypatch):
    """Two that read at the same time, the first to begin being the first to end."""
    path = tmp_path / "x.png"
    Image.new("RGB", (2, 2)).save(path)
    begun, done, opened = threading.Event(), threading.Event(), Image.open

    def slow(file, **options):
        if threading.current_thread() is second:
            begun.set()
            assert done.wait(20)
        else:
            second.start()
            assert begun.wait(20)
        return opened(file, **options)

    second = threading.Thread(target=read_image, args=(str(path), "x"))
    monkeypatch.setattr(Image, "open", slow)
    before = list(warnings.filters)
    read_image(str(path), "x")
    done.set()
    second.join()
    assert warnings.filters == before
