"""What augmentation makes of the images of a config's training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from passl.analysis.figures import Group, Panel, draw_panels, pixels_of
from passl.data.balance import class_text
from passl.data.loader import Loader
from passl.data.samplers import Key
from passl.data.samples import Sample
from passl.io.masks import COLORS


@dataclass(frozen=True)
class Augmented:
    """An image and its augmentations.

    Args:
        label: its classes; nothing for a mask.
        image: as the dataset has it.
        seen: what the network gets of it in successive epochs, as pixels [height, width, 3 or 4]
            from 0 to 1. Masks are drawn over them.
    """

    label: str
    image: Image.Image
    seen: list[np.ndarray]


def augmented(loader: Loader, images: int, epochs: int) -> list[Augmented]:
    """Augment the first samples of the first epoch, with the random numbers of the run: as the
    network gets them in the first epoch, and what it gets at the same position in the following
    ones. Mixup comes later and is not there.

    Args:
        loader: of the training data.
        images: how many samples, at most.

    Raises:
        RunError: an image cannot be read, as in the run.
    """
    loader.sampler.set_epoch(0)
    places: dict[int, int] = {}
    for batch in loader.sampler:
        for _, position, index in batch:
            places.setdefault(index, position)  # repeated augmentation has a sample several times
        if len(places) >= images:
            break
    return [_augmented(loader, index, place, epochs) for index, place in [*places.items()][:images]]


def _augmented(loader: Loader, index: int, position: int, epochs: int) -> Augmented:
    index = _sample(loader, (0, position, index)).index  # the replacement of a bad sample
    samples, is_mask = loader.samples, loader.dataset.task == "segmentation"
    image, _ = samples.dataset[index]
    seen = []
    for epoch in range(epochs):
        sample = _sample(loader, (epoch, position, index))
        assert sample.image is not None  # a bad sample has raised its error
        pixels = pixels_of(sample.image, samples.transforms)
        if is_mask:
            pixels = (pixels[..., :3] + COLORS[sample.label] / 255) / 2
        seen.append(pixels)
    label = "" if is_mask else class_text(loader.dataset, index)
    return Augmented(label, image, seen)


def _sample(loader: Loader, key: Key) -> Sample:
    """The sample of a key as the run gets it: bad samples are logged or raised as there."""
    sample = loader.samples[key]
    if isinstance(sample, Exception):
        raise sample
    for index, text in sample.bad:
        loader.note(index, text)
    return sample


def figure_of_augmented(shown: Sequence[Augmented]) -> Figure:
    """Draw each image beside its augmentations.

    Args:
        shown: at least one.
    """
    groups = []
    for each in shown:
        image = each.image if each.image.mode == "RGBA" else each.image.convert("RGB")
        pixels = [np.asarray(image) / 255, *each.seen]
        panels = [Panel(array, smooth=max(array.shape) > 96) for array in pixels]
        size = f"{image.width} x {image.height}"
        groups.append(Group([panels], f"{each.label} ({size})" if each.label else size))
    epochs = len(shown[0].seen)
    through = f"epochs 1 to {epochs}" if epochs > 1 else "epoch 1"
    note = f"Each image, and what the network gets of it in {through}."
    return draw_panels(groups, "Augmented training images", note)
