"""Whatever a caller gives as an image, opened as a Pillow image in the network's mode."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL import Image

from passl.data.datasets.images import convert_image, read_image
from passl.deploy.exported import Description
from passl.errors import ConfigError, RunError

ImageInput = (
    str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
)
"""An image: the path of a file, the file's content, a file opened in binary mode, a Pillow image,
or pixels: uint8 [height, width], or [height, width, channels] with 1 channel (grey), 3 (colours) or
4 (with opacity). All are converted to the mode of the network.
"""
_KINDS = "paths, bytes, open files, PIL images or uint8 arrays"
_LONGEST_PATH = 4096  # bytes; Linux opens no longer one


def open_image(image: ImageInput, description: Description) -> Image.Image:
    """Open an image and convert it to the network's mode.

    Raises:
        ConfigError: it is no `ImageInput`, or its mode cannot be converted.
        RunError: the file cannot be read as an image.
    """
    if isinstance(image, np.ndarray):
        opened = _from_pixels(image)
    elif isinstance(image, Image.Image):
        opened = image
    else:
        source, name = _source_and_name(image)
        opened = read_image(source, name, description.exif_turn, description.min_side)
    try:
        return convert_image(opened, description.mode, description.background)
    except ValueError as error:
        raise ConfigError(f"the image cannot be converted: {error}") from None


def check_several(images: object) -> None:
    """Raise ConfigError for one image where several are wanted: iterating over it would give
    letters of a path or rows of pixels.
    """
    single = str | os.PathLike | bytes | bytearray | memoryview | Image.Image
    is_pixels = isinstance(images, np.ndarray) and images.ndim < 4
    kind = type(images).__name__
    if isinstance(images, single) or is_pixels or hasattr(images, "read"):
        raise ConfigError(f"one image ({kind}) where several are wanted; put it into a list")
    if not isinstance(images, Iterable):
        raise ConfigError(f"{kind} where images are wanted; give a list of {_KINDS}")


def _from_pixels(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ConfigError(
            f"pixels {pixels.dtype} {list(pixels.shape)} are no image; give uint8 "
            "[height, width, 3], or prepared images to run()"
        )
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4):
        raise ConfigError(
            f"pixels {list(pixels.shape)}: the last axis must have 1 channel (grey), 3 (colours) "
            "or 4 (with opacity)"
        )
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _source_and_name(image: object) -> tuple[str | bytes, str]:
    """The path or the content of a file, and its name in messages, which never show the content."""
    if isinstance(image, str | os.PathLike):
        path = os.fsdecode(image)
        if len(path) > _LONGEST_PATH:
            raise ConfigError(f"a path of {len(path)} characters; give a file's content as bytes")
        return path, path
    content, name = image, "a file's content"
    if hasattr(image, "read"):
        file_name = getattr(image, "name", None)
        name = file_name if isinstance(file_name, str) else "an open file"
        try:
            content = image.read()
        except OSError as error:
            raise RunError(f"{name}: cannot be read: {error.strerror}") from None
        if isinstance(content, str):
            raise ConfigError(f"{name}: opened as text; open it in binary mode, 'rb'")
    if not isinstance(content, bytes | bytearray | memoryview):
        raise ConfigError(f"{type(image).__name__} is no image; give {_KINDS}")
    return bytes(content), f"{name} ({len(content)} bytes)"
