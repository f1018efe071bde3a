"""What transforms make of images: a batch takes one size, and a network one number of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from passl.data.datasets.base import ImageDataset, Size
from passl.errors import ConfigError, RunError
from passl.io.limits import in_line

Shape = tuple[int, int, int]
"""Channels, height and width."""
_PROBES = ((48, 64), (80, 40))
"""Height and width of the made-up images: one is wide, the other tall."""
_SCALES = (1, 4, 16, 64)
"""What these are multiplied by, one after the other, for transforms that need larger images."""
_READ = 8
"""Samples that are read where the data decides."""


def fixed_size(transforms: Sequence[Any], mode: str) -> Size | None:
    """The size that the transforms make of every image of a mode; null if they do not fix it, or
    take no made-up image.

    Raises:
        ConfigError: they do not end in an array, or have a Normalize for other channels.
    """
    sizes = {shape[1:] for shape in _probed(transforms, mode)}
    return sizes.pop() if len(sizes) == 1 else None


def channels_made(transforms: Sequence[Any], mode: str) -> int | None:
    """How many channels the transforms make of images of a mode; null if they take no made-up
    image.

    Raises:
        ConfigError: they do not end in an array, or have a Normalize for other channels.
    """
    channels = {shape[0] for shape in _probed(transforms, mode)}
    return channels.pop() if len(channels) == 1 else None


def _probed(transforms: Sequence[Any], mode: str) -> set[Shape]:
    """The shapes that the transforms make of made-up images; none if they take none of them."""
    for scale in _SCALES:
        try:
            return {_shape_after(transforms, (scale * h, scale * w), mode) for h, w in _PROBES}
        except ConfigError:
            raise
        except Exception:  # a user's transform may fail in any way over an image it cannot take
            continue
    return set()


def sizes_made(
    transforms: Sequence[Any],
    known: Size | None,
    mode: str,
    dataset: Callable[[], ImageDataset],
) -> dict[Size, str]:
    """The sizes that the transforms make of a dataset's images, each with the name of a sample;
    one without a name, if that is known without reading.

    Args:
        known: `ImageDataset.image_size`.
        mode: `ImageDataset.mode`.
        dataset: called where the transforms keep the sizes that the images have. Then a few
            samples, spread over the dataset, are read; those that cannot be read are passed over.

    Raises:
        ConfigError: the transforms do not end in an array, or have a Normalize for other channels.
        RunError: a transform cannot take an image of the data.
    """
    if known is not None:
        return {_tried(transforms, known, mode, f"images of {known[0]} x {known[1]}"): ""}
    size = fixed_size(transforms, mode)
    if size is not None:
        return {size: ""}
    data, found = dataset(), dict[Size, str]()
    for index in np.unique(np.linspace(0, len(data) - 1, _READ).astype(int)).tolist():
        try:
            image, _ = data[index]
        except RunError:
            continue  # whether that is an error is the loader's matter
        found.setdefault(_tried(transforms, image, mode, data.name(index)), data.name(index))
    return found


def sizes_differ(
    train: tuple[Sequence[Any], ImageDataset], val: tuple[Sequence[Any], ImageDataset]
) -> str | None:
    """What a run should say of the sizes of its training and validation images; null where they
    are the same. They may differ on purpose (Touvron et al., FixRes, arXiv 1906.06423).

    Args:
        train, val: transforms and dataset of each part.
    """
    sizes = [
        sizes_made(transforms, dataset.image_size, dataset.mode, lambda dataset=dataset: dataset)
        for transforms, dataset in (train, val)
    ]
    if any(len(made) != 1 for made in sizes) or sizes[0].keys() == sizes[1].keys():
        return None
    (train_h, train_w), (val_h, val_w) = (next(iter(made)) for made in sizes)
    return (
        f"images are {train_h} x {train_w} in training and {val_h} x {val_w} in validation (height "
        "x width); if that is not meant, change dataloader.val.dataset.transforms"
    )


def _tried(transforms: Sequence[Any], image: Image.Image | Size, mode: str, name: str) -> Size:
    try:
        return _shape_after(transforms, image, mode)[1:]
    except ConfigError:
        raise
    except RunError as error:
        raise RunError(f"{name}: {error}") from None
    except Exception as error:
        raise RunError(f"{name}: a transform fails: {in_line(error)}") from error


def _shape_after(transforms: Sequence[Any], image: Any, mode: str) -> Shape:
    """The shape of the array that an image becomes, or a made-up one of that size and mode."""
    rng = np.random.default_rng(0)
    if isinstance(image, tuple):
        image = Image.new(mode, (image[1], image[0]))
    for transform in transforms:
        image = transform(image, rng)
    if not isinstance(image, np.ndarray):
        raise ConfigError("the transforms end in an image, not in an array; add Normalize")
    channels, height, width = image.shape
    return channels, height, width
