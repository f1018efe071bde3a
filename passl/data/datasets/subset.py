"""A part of a dataset, and the mode of its images: the options of every dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from passl.data.datasets.base import ImageDataset
from passl.data.datasets.class_file import read_lines
from passl.data.datasets.images import check_mode
from passl.errors import ConfigError
from passl.utils.config import closest
from passl.utils.schema import validated
from passl.utils.types import Color, Fraction, NonNegativeInt

PRESENT = "present"


@validated
class Subset(ImageDataset):
    """Some samples of a dataset. Labels do not change, so the network does not either.

    Args:
        dataset: the whole dataset.
        fraction: keep this part of each class, at least one sample, or of all samples where one has
            several labels; a smaller fraction is a subset of a larger one.
        fraction_seed: seed of the random choice; the seed of the run does not matter.
        labels: keep only samples of these classes, and compare only these classes in evaluation: a
            list of class names or numbers, a file with one of them per line, or `present`, the
            classes that have a sample.
        mode: mode of the images: `L` (grey), `RGB`, or `RGBA` (with opacity), for networks of 1, 3
            or 4 channels (`in_chans`).
        background: red, green and blue, from 0 to 255, behind transparent pixels. Null: transparent
            pixels become opaque with the colour that they store.

    Raises:
        ConfigError: an option is out of range, a label is not a class, no sample is left, or mode
            and background do not go together.

    Example:
        {name: CIFAR10, dataroot: data, split: train, fraction: 0.1, labels: [cat, dog]}
    """

    def __init__(
        self,
        dataset: ImageDataset,
        /,
        *,
        fraction: Fraction = 1.0,
        fraction_seed: NonNegativeInt = 0,
        labels: str | Sequence[int | str] | None = None,
        mode: Literal["RGB", "L", "RGBA"] = "RGB",
        background: Color | None = None,
    ):
        if labels is not None and dataset.task != "classification":
            raise ConfigError(f"labels: not for {dataset.task} data; leave it out")
        valid = chosen_labels(labels, dataset.classes)
        self.mode, self.background = mode, background
        self.dataset, self.classes, self.task = dataset, dataset.classes, dataset.task
        self.image_size = dataset.image_size
        chosen = np.arange(len(dataset))
        self.valid_labels = dataset.valid_labels
        if labels == PRESENT:
            self.valid_labels = np.unique(dataset.labels).tolist()
        elif valid is not None:
            self.valid_labels = valid
            chosen = np.flatnonzero(np.isin(dataset.labels, valid))
        if not len(chosen):
            raise ConfigError("labels: the dataset has no sample of these classes; choose others")
        if fraction < 1:
            own = dataset.labels[chosen]
            groups = own if dataset.task == "classification" else np.zeros(len(own), np.int64)
            chosen = _balanced(chosen, groups, fraction, fraction_seed)
        self.indices = chosen
        self.labels = dataset.labels[chosen]

    @staticmethod
    def check_options(*, mode: str, background: Sequence[int] | None, **_: Any) -> None:
        """Raise ValueError if the options do not go together."""
        check_mode(mode, background)

    def load_image(self, index: int) -> Image.Image:
        return self.dataset.load_image(int(self.indices[index]))

    def label(self, index: int) -> int | np.ndarray:
        return self.dataset.label(int(self.indices[index]))

    def label_name(self, index: int) -> str:
        return self.dataset.label_name(int(self.indices[index]))

    def source(self, index: int) -> str | bytes | None:
        return self.dataset.source(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.dataset.name(int(self.indices[index]))

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """Return an order of the whole dataset, without the samples that are not in the subset."""
        place = np.full(len(self.dataset), -1)
        place[self.indices] = np.arange(len(self))
        order = place[self.dataset.shuffled(rng)]
        return order[order >= 0]


def chosen_labels(
    labels: str | Sequence[int | str] | None, classes: Sequence[str]
) -> list[int] | None:
    """Return the labels of the named classes, in ascending order; None for null and `present`.

    Args:
        labels: class names or numbers, or a file with one of them per line. A text that is both is
            a name.
        classes: names of all classes.

    Raises:
        ConfigError: one is not a class, or there is none.
    """
    if labels is None or labels == PRESENT:
        return None
    where = f"{labels}: " if isinstance(labels, str) else "labels: "
    listed = read_lines(labels) if isinstance(labels, str) else labels
    numbers = {name: label for label, name in enumerate(classes)}
    found = set()
    for wanted in listed:
        text = str(wanted)
        label = numbers.get(text) if isinstance(wanted, str) else wanted
        if label is None and text.isdecimal():
            label = int(text)
        if label is None:
            near = closest(text, classes)
            raise ConfigError(f"{where}{wanted!r} is not a class of the data{near}")
        if not 0 <= label < len(classes):
            raise ConfigError(
                f"{where}{label} is not the number of a class; there are {len(classes)}, "
                "counted from 0"
            )
        found.add(label)
    if not found:
        raise ConfigError(f"{where}names no class; leave it out to keep all")
    return sorted(found)


def _balanced(indices: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return that fraction of the samples of each class, in ascending order."""
    kept = []
    for label in np.unique(labels):
        own = indices[labels == label]
        # With a generator per class, the other classes have no influence on this one.
        order = np.random.default_rng((seed, int(label))).permutation(own)
        kept.append(order[: max(1, round(fraction * len(own)))])
    return np.sort(np.concatenate(kept))
