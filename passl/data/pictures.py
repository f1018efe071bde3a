"""Files to pictures."""

from __future__ import annotations

import os
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from passl.utils.errors import RunError
from passl.utils.limits import in_line

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The only decoders that a file may reach, by its content. Pillow has dozens more, and that of EPS
starts Ghostscript. JPEG includes MPO, as phones write it.
"""
# Pillow's formats whose mode I holds 16 bits; elsewhere it holds 32.
_SIXTEEN_BITS = ("PNG", "PPM")


def read_picture(
    source: str | bytes, name: str, exif_turn: bool = False, min_side: int | None = None
) -> Image.Image:
    """A picture in RGB, whatever its file has: of an animation the first picture, a transparent one
    as if it were opaque, 16 bits by their upper half.

    The pixels are those of the file, as timm and torchvision take them, and with them every
    published score; the turn that a camera notes in EXIF is made only where it is asked for.

    Args:
        source: a path, or the content of a file.
        name: what messages call it.
        exif_turn: turn the picture as its EXIF orientation says.
        min_side: let the decoder of JPEG halve a picture, once to three times, as long as both
            sides keep this many pixels; other formats stay as they are. Null: never.

    Raises:
        RunError: it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            # Of a large picture, a strange EXIF block, a palette: what it cannot read is an error.
            warnings.simplefilter("ignore")
            file = BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=FORMATS) as picture:
                if min_side is not None:
                    picture.draft(None, (min_side, min_side))
                turned = ImageOps.exif_transpose(picture) if exif_turn else picture
                return _rgb(turned, picture.format)
    except Exception as error:  # Pillow's readers fail in any way over a damaged file
        what = in_line(error)
        if isinstance(error, UnidentifiedImageError):  # whose text names the file, or an address
            what = f"it is empty, damaged, or none of {', '.join(FORMATS)}"
        elif isinstance(error, OSError) and error.errno is not None:
            what = os.strerror(error.errno)
        raise RunError(
            f"{name}: cannot be read as a picture ({what}); convert or replace the file, or take "
            "it out of the data"
        ) from None


def check_min_side(min_side: int | None) -> None:
    """Raise ValueError if it is none."""
    if min_side is not None and min_side < 1:
        raise ValueError(f"min_side {min_side} must be at least 1 pixel, or null")


def _rgb(picture: Image.Image, kind: str | None) -> Image.Image:
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind in _SIXTEEN_BITS):
        # Pillow would cut 16 bits off at 255.
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError(f"mode {picture.mode} does not say what is white; use 8 or 16 bits")
    if picture.mode == "RGB":
        picture.load()  # as it is; convert would copy it
        return picture
    return picture.convert("RGB")
