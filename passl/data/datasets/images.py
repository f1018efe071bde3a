"""Read image files, and convert images to the mode that a network takes."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from threading import Lock

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from passl.errors import RunError
from passl.io.limits import in_line

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The only decoders that a file can reach; its content selects one. Pillow has dozens more, and its
EPS decoder starts Ghostscript. JPEG includes MPO, the format of some phones.
"""
for _format in ("Bmp", "Gif", "Jpeg", "Png", "Ppm", "Tiff", "WebP"):
    # Otherwise Pillow imports all of its decoders when the first file is opened.
    importlib.import_module(f"PIL.{_format}ImagePlugin")
MASK_FORMATS = ("PNG", "TIFF")
"""Those of masks: lossless, with the values or palette indices of the file."""
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
"""Pillow's names of the modes that a dataset can have, and their numbers of channels."""
# Pillow's formats whose mode I holds 16 bits; elsewhere it holds 32.
_SIXTEEN_BITS = ("PNG", "PPM")


def read_image(
    source: str | bytes, name: str, exif_turn: bool = False, min_side: int | None = None
) -> Image.Image:
    """Read an image in mode L, LA, RGB or RGBA, whichever keeps the content of its file:
    transparency becomes opacity, 16 bits become their upper 8, and an animation its first image.

    By default the pixels are those of the file, as in timm and torchvision and so in all published
    scores.

    Args:
        source: a path, or the content of a file.
        name: the name in error messages.
        exif_turn: rotate and mirror the image as its EXIF orientation says.
        min_side: let the JPEG decoder halve the image, up to three times, while both sides keep
            this many pixels; other formats are not changed. Null: never.

    Raises:
        RunError: the image cannot be read.
    """

    def decode(image: Image.Image) -> Image.Image:
        if min_side is not None:
            image.draft(None, (min_side, min_side))
        turned = ImageOps.exif_transpose(image) if exif_turn else image
        return _to_plain_mode(turned, image.format)

    return _decoded(source, name, FORMATS, decode)


def read_mask(source: str | bytes, name: str) -> Image.Image:
    """Read the labels of a mask, in mode L: the indices of a palette, or the values of a grey image
    as its file has them.

    Raises:
        RunError: the mask cannot be read, or has colours.
    """
    return _decoded(source, name, MASK_FORMATS, _labels_of)


def _labels_of(image: Image.Image) -> Image.Image:
    if image.mode not in ("1", "L", "P"):
        raise ValueError(
            f"mode {image.mode} has no labels; a mask has a palette or 8 bits of grey, whose "
            "values are the labels"
        )
    # Pillow spreads 2 and 4 bits of grey over the range up to 255.
    (tile,) = getattr(image, "tile", ())[:1] or [("", (), 0, "")]
    spread = {"L;2": 85, "L;4": 17}.get(str(tile[3]), 1)
    return Image.fromarray(np.asarray(image).astype(np.uint8) // spread)


def _decoded(
    source: str | bytes,
    name: str,
    formats: tuple[str, ...],
    decode: Callable[[Image.Image], Image.Image],
) -> Image.Image:
    """What a function makes of an opened file.

    Raises:
        RunError: the file cannot be read, or the function raises an exception.
    """
    is_path = isinstance(source, str) and os.path.exists(source) and not os.path.isdir(source)
    if is_path and not os.path.isfile(source):
        # Opening a pipe would block.
        raise RunError(f"{name}: is not a regular file; replace it, or remove it from the data")
    try:
        # Pillow warns of large images, unusual EXIF blocks and palettes. Real problems are errors.
        with _NO_WARNINGS:
            file = BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=formats) as image:
                return decode(image)
    except Exception as error:  # Pillow's decoders raise anything for a damaged file
        what = in_line(error)
        if isinstance(error, UnidentifiedImageError):  # its text is the file's name or an address
            what = f"it is empty, damaged, or none of {', '.join(formats)}"
        elif isinstance(error, OSError) and error.errno is not None:
            what = os.strerror(error.errno)
        raise RunError(
            f"{name}: cannot be read as an image ({what}); convert or replace the file, or remove "
            "it from the data"
        ) from None


class _NoWarnings:
    """Turns Python's warnings off while any thread is inside. `warnings.catch_warnings` alone is
    not thread-safe: if two overlap, the last to exit restores the filters of the first.
    """

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__(None, None, None)


_NO_WARNINGS = _NoWarnings()


def convert_image(
    image: Image.Image, mode: str, background: Sequence[int] | None = None
) -> Image.Image:
    """Convert an image to another mode. An image that is already in that mode is not copied.

    Args:
        image: in any of Pillow's modes but those under `Raises`.
        mode: one of `CHANNELS`. Colours become grey by the weights of ITU-R 601.
        background: red, green and blue, from 0 to 255, behind transparent pixels. Null: transparent
            pixels become opaque with the colour that they store. Ignored in mode RGBA.

    Raises:
        ValueError: the mode does not define which value is white (I without 16 bits, F), or Pillow
            cannot convert it.
    """
    image = _to_plain_mode(image, image.format)
    if image.mode in ("LA", "RGBA") and mode != "RGBA" and background is not None:
        behind = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def check_mode(mode: str, background: Sequence[int] | None) -> None:
    """Raise ValueError if the options are out of range or do not go together."""
    if mode not in CHANNELS:
        raise ValueError(f"mode {mode!r} is none of {', '.join(CHANNELS)}")
    if background is None:
        return
    if len(background) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in background):
        raise ValueError(
            f"background {list(background)} must be red, green and blue, each from 0 to 255, or "
            "null"
        )
    if mode == "RGBA":
        raise ValueError(
            "background: images of mode RGBA keep their transparency, so nothing shows through; "
            "leave it out, or set mode to RGB or L"
        )


def _to_plain_mode(image: Image.Image, kind: str | None) -> Image.Image:
    """Return an image, fully decoded, in mode L, LA, RGB or RGBA. `kind` is its file's format."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in _SIXTEEN_BITS):
        # Pillow's conversion would clip 16 bits at 255.
        pixels, transparent = np.asarray(image), image.info.get("transparency")
        grey = Image.fromarray((pixels >> 8).astype(np.uint8))
        if transparent is not None:  # the value of transparent pixels
            opacity = np.where(pixels == transparent, 0, 255)
            grey.putalpha(Image.fromarray(opacity.astype(np.uint8)))
        return grey
    if image.mode in ("I", "F"):
        raise ValueError(
            f"mode {image.mode} does not define which value is white; use 8 or 16 bits"
        )
    # In other modes too, palette entries or one colour can be transparent.
    if image.mode not in ("LA", "RGBA") and image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        image.load()  # convert would copy it
        return image
    return image.convert("L" if image.mode == "1" else "RGB")
