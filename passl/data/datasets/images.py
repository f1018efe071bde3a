"""Files to images, and images to the mode that a network takes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from io import BytesIO
from threading import Lock

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from passl.errors import RunError
from passl.io.limits import in_line

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The only decoders that a file may reach, by its content. Pillow has dozens more, and that of EPS
starts Ghostscript. JPEG includes MPO, as phones write it.
"""
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
"""The modes that a dataset can give its images in, as Pillow calls them: grey, colour, and colour
with opacity.
"""
# Pillow's formats whose mode I holds 16 bits; elsewhere it holds 32.
_SIXTEEN_BITS = ("PNG", "PPM")


def read_image(
    source: str | bytes, name: str, exif_turn: bool = False, min_side: int | None = None
) -> Image.Image:
    """An image of mode L, LA, RGB or RGBA, whichever keeps what its file has: transparency becomes
    opacity, of an animation the first image is taken, and of 16 bits the upper half.

    The pixels are those of the file, as timm and torchvision take them, and with them every
    published score; the turn that a camera notes in EXIF is made only where it is asked for.

    Args:
        source: a path, or the content of a file.
        name: what messages call it.
        exif_turn: turn the image as its EXIF orientation says.
        min_side: let the decoder of JPEG halve an image, once to three times, as long as both
            sides keep this many pixels; other formats stay as they are. Null: never.

    Raises:
        RunError: it cannot be read.
    """
    is_path = isinstance(source, str) and os.path.exists(source) and not os.path.isdir(source)
    if is_path and not os.path.isfile(source):
        # Opening a pipe would wait for ever.
        raise RunError(f"{name}: is not a regular file; replace it, or take it out of the data")
    try:
        # Of a large image, a strange EXIF block, a palette: what it cannot read is an error.
        with _NO_WARNINGS:
            file = BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=FORMATS) as image:
                if min_side is not None:
                    image.draft(None, (min_side, min_side))
                turned = ImageOps.exif_transpose(image) if exif_turn else image
                return _plain(turned, image.format)
    except Exception as error:  # Pillow's readers fail in any way over a damaged file
        what = in_line(error)
        if isinstance(error, UnidentifiedImageError):  # whose text names the file, or an address
            what = f"it is empty, damaged, or none of {', '.join(FORMATS)}"
        elif isinstance(error, OSError) and error.errno is not None:
            what = os.strerror(error.errno)
        raise RunError(
            f"{name}: cannot be read as an image ({what}); convert or replace the file, or take "
            "it out of the data"
        ) from None


class _NoWarnings:
    """Python's warnings are off while any thread is inside. `warnings.catch_warnings` alone is not
    for threads: of two that overlap, the last to leave puts back what the first had set.
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
                self._before.__exit__()


_NO_WARNINGS = _NoWarnings()


def convert_image(
    image: Image.Image, mode: str, background: Sequence[int] | None = None
) -> Image.Image:
    """An image in another mode. What is in it already is not copied.

    Args:
        image: of any of Pillow's modes but those of `Raises`.
        mode: one of `CHANNELS`. Grey is made of colours by the weights of ITU-R 601.
        background: red, green and blue, from 0 to 255, of what lies behind transparent pixels.
            Null: their colours are taken as if they were opaque. Without effect in mode RGBA.

    Raises:
        ValueError: its numbers do not say what is white (I without 16 bits, F), or Pillow cannot
            convert it.
    """
    image = _plain(image, image.format)
    if image.mode in ("LA", "RGBA") and mode != "RGBA" and background is not None:
        behind = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def check_min_side(min_side: int | None) -> None:
    """Raise ValueError if it is none."""
    if min_side is not None and min_side < 1:
        raise ValueError(f"min_side {min_side} must be at least 1 pixel, or null")


def check_mode(mode: str, background: Sequence[int] | None) -> None:
    """Raise ValueError if the two are none, or do not go together."""
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


def _plain(image: Image.Image, kind: str | None) -> Image.Image:
    """An image of mode L, LA, RGB or RGBA, whole.

    Args:
        kind: the format of its file, if it has one.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in _SIXTEEN_BITS):
        # Pillow would cut 16 bits off at 255.
        pixels, clear = np.asarray(image), image.info.get("transparency")
        grey = Image.fromarray((pixels >> 8).astype(np.uint8))
        if clear is not None:  # the number that stands for transparency
            grey.putalpha(Image.fromarray(np.where(pixels == clear, 0, 255).astype(np.uint8)))
        return grey
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} does not say what is white; use 8 or 16 bits")
    # A palette, or one colour, may stand for transparency in other modes too.
    if image.mode not in ("LA", "RGBA") and image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        image.load()  # as it is; convert would copy it
        return image
    return image.convert("L" if image.mode == "1" else "RGB")
