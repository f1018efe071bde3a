"""What turns an image into a network's input, as functions: the transforms of an evaluation.

Exported networks run with these alone, so this module needs NumPy and Pillow only. The registered
transforms `Resize`, `CenterCrop` and `Normalize` call the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from passl.errors import ConfigError

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MEANS: Mapping[int, Sequence[float]] = {1: (0.459,), 3: IMAGENET_MEAN, 4: (*IMAGENET_MEAN, 0.5)}
STDS: Mapping[int, Sequence[float]] = {1: (0.226,), 3: IMAGENET_STD, 4: (*IMAGENET_STD, 0.5)}
"""`Normalize`'s defaults by the number of channels. Grey has ImageNet's values, weighted as in
Pillow's conversion to grey (0.299, 0.587, 0.114). Opacity is mapped to -1 to 1.
"""


def transformed(image: Image.Image, transforms: Sequence[Any]) -> np.ndarray:
    """Return an image as the transforms of an evaluation make it: float32 [channels, height,
    width].
    """
    rng = np.random.default_rng(0)  # transforms of an evaluation draw nothing
    prepared: Any = image
    for transform in transforms:
        prepared = transform(prepared, rng)
    return prepared


def resize(
    image: Image.Image, *, size: int | Sequence[int], interpolation: str = "bicubic"
) -> Image.Image:
    """Resize the shorter side to a size, or the image to [height, width]; see `Resize`."""
    width, height = image.size
    if not isinstance(size, int):
        target = (size[1], size[0])
    elif width <= height:
        target = (size, int(size * height / width))
    else:
        target = (int(size * width / height), size)
    return image if target == image.size else image.resize(target, RESAMPLING[interpolation])


def center_crop(image: Image.Image, *, size: int | Sequence[int]) -> Image.Image:
    """Crop the center; see `CenterCrop`."""
    height, width = pair(size)
    # Pillow fills the part of the box outside the image with black.
    left, top = _crop_start(image.width, width), _crop_start(image.height, height)
    return image.crop((left, top, left + width, top + height))


def _crop_start(length: int, wanted: int) -> int:
    # torchvision rounds halves to even for the crop, and down for the padding.
    return round((length - wanted) / 2) if length >= wanted else -((wanted - length) // 2)


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return a size as (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def normalize(
    image: Image.Image, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> np.ndarray:
    """Convert an image to float32 [channels, height, width]; see `Normalize`."""
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    mean_C11, std_C11 = mean_and_std(pixels.shape[2], mean, std)
    # Transpose bytes, which is faster, and compute in place. The rounding is timm's.
    array = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    array /= np.float32(255)
    array -= mean_C11
    array /= std_C11
    return array


def mean_and_std(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return `Normalize`'s mean and standard deviation as float32 [channels, 1, 1]."""
    if channels not in MEANS:
        raise ConfigError(
            f"Normalize: an image has {channels} channels; its mode must be L, RGB or RGBA"
        )
    mean = MEANS[channels] if mean is None else mean
    std = STDS[channels] if std is None else std
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ConfigError(
                f"Normalize: {name} {list(values)} is for {len(values)} channels, but an "
                f"image has {channels}; give {channels}, or leave it out for ImageNet's"
            )
    mean_C, std_C = (np.asarray(values, np.float32) for values in (mean, std))
    return mean_C[:, None, None], std_C[:, None, None]


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Resize": resize,
    "CenterCrop": center_crop,
    "Normalize": normalize,
}
"""The function of a registered transform, whose options are its keyword-only arguments."""
