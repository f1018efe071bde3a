"""The shapes of arrays that transforms make: a batch needs one size, and a network one number of
channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from passl.data.datasets.base import ImageDataset, Size
from passl.data.samples import Samples
from passl.errors import ConfigError, RunError
from passl.io.limits import in_line

Shape = tuple[int, int, int]
"""Channels, height and width."""
_PROBES = ((48, 64), (80, 40))
"""Height and width of the synthetic images: one is wide, the other tall."""
_SCALES = (1, 4, 16, 64)
"""Factors of these sizes that are tried in turn, for transforms that need larger images."""
_READ = 8
"""Samples that are read if the size depends on the data."""


def fixed_size(transforms: Sequence[Any], mode: str) -> Size | None:
    """Return the size that the transforms give every image of a mode; None if it varies, or if they
    fail on synthetic images.

    Raises:
        ConfigError: they do not end in an array, or have a Normalize for other channels.
    """
    sizes = {shape[1:] for shape in _probe(transforms, mode)}
    return sizes.pop() if len(sizes) == 1 else None


def channels_made(transforms: Sequence[Any], mode: str) -> int | None:
    """Return the number of channels that the transforms give images of a mode; None if they fail on
    synthetic images.

    Raises:
        ConfigError: they do not end in an array, or have a Normalize for other channels.
    """
    channels = {shape[0] for shape in _probe(transforms, mode)}
    return channels.pop() if len(channels) == 1 else None


def _probe(transforms: Sequence[Any], mode: str) -> set[Shape]:
    """Return the shapes of the transformed synthetic images; none if the transforms always fail."""
    for scale in _SCALES:
        try:
            return {_shape_after(transforms, (scale * h, scale * w), mode) for h, w in _PROBES}
        except ConfigError:
            raise
        except Exception:  # a user's transform may raise anything for an image it cannot take
            continue
    return set()


def sizes_made(
    transforms: Sequence[Any],
    known: Size | None,
    mode: str,
    dataset: Callable[[], ImageDataset],
) -> dict[Size, str]:
    """Return the sizes that the transforms give the images of a dataset, each with the name of a
    sample; the name is empty if no sample was read.

    Args:
        known: `ImageDataset.image_size`.
        mode: `ImageDataset.mode`.
        dataset: called if the size depends on the data. A few samples, spread over the dataset, are
            then read; those that cannot be read are skipped.

    Raises:
        ConfigError: the transforms do not end in an array, or have a Normalize for other channels.
        RunError: a transform fails on an image of the data.
    """
    if known is not None:
        return {_size_after(transforms, known, mode, f"images of {known[0]} x {known[1]}"): ""}
    size = fixed_size(transforms, mode)
    if size is not None:
        return {size: ""}
    data, found = dataset(), dict[Size, str]()
    for index in np.unique(np.linspace(0, len(data) - 1, _READ).astype(int)).tolist():
        try:
            image, _ = data[index]
        except RunError:
            continue  # the loader decides whether this is an error
        found.setdefault(_size_after(transforms, image, mode, data.name(index)), data.name(index))
    return found


def sizes_differ(train: Samples, val: Samples) -> str | None:
    """Return a remark if training and validation images have different sizes, else None. They may
    differ on purpose (Touvron et al., FixRes, arXiv 1906.06423).
    """

    def sizes_of(part: Samples) -> dict[Size, str]:
        data = part.dataset
        return sizes_made(part.transforms, data.image_size, data.mode, lambda: data)

    sizes = [sizes_of(train), sizes_of(val)]
    if any(len(made) != 1 for made in sizes) or sizes[0].keys() == sizes[1].keys():
        return None
    (train_h, train_w), (val_h, val_w) = (next(iter(made)) for made in sizes)
    return (
        f"images are {train_h} x {train_w} in training and {val_h} x {val_w} in validation (height "
        "x width); if this is not intended, change dataloader.val.dataset.transforms"
    )


def _size_after(transforms: Sequence[Any], image: Image.Image | Size, mode: str, name: str) -> Size:
    try:
        return _shape_after(transforms, image, mode)[1:]
    except ConfigError:
        raise
    except RunError as error:
        raise RunError(f"{name}: {error}") from None
    except Exception as error:
        raise RunError(f"{name}: a transform fails: {in_line(error)}") from error


def _shape_after(transforms: Sequence[Any], image: Any, mode: str) -> Shape:
    """Return the shape of a transformed image, or of a synthetic one of a size and mode."""
    rng = np.random.default_rng(0)
    if isinstance(image, tuple):
        image = Image.new(mode, (image[1], image[0]))
    for transform in transforms:
        image = transform(image, rng)
    if not isinstance(image, np.ndarray):
        raise ConfigError("the transforms end in an image, not in an array; add Normalize")
    channels, height, width = image.shape
    return channels, height, width
