"""Options of an evaluation that replace the label: the classes that are compared, and the labels
that count as right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from passl.data.datasets.base import ImageDataset
from passl.data.datasets.subset import PRESENT, chosen_labels
from passl.errors import ConfigError, shortened
from passl.io.files import open_regular

_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})[^/]*$")


def choose_valid_labels(option: str | None, dataset: ImageDataset) -> list[int] | None:
    """Return the labels that are compared, in ascending order; null for all.

    Args:
        option: `present` for the classes that the dataset has samples of; a text file with one
            class per line, by number (as in timm's --valid-labels) or name; or null for the
            dataset's `valid_labels`.

    Raises:
        ConfigError: the file cannot be read, names an unknown class, or leaves out a class that the
            dataset has samples of.
    """
    if option is None:
        return dataset.valid_labels
    present = np.unique(dataset.labels).tolist()
    if option == PRESENT:
        return present
    valid = chosen_labels(option, dataset.classes) or []
    left_out = sorted(set(present) - set(valid))
    if left_out:
        shown = shortened([dataset.classes[label] for label in left_out])
        raise ConfigError(
            f"--valid-labels {option}: leaves out {len(left_out)} of the classes that the images "
            f"have ({shown}), which could never be right; add them"
        )
    return valid


def read_real_labels(path: str, dataset: ImageDataset) -> list[list[int]]:
    """Read ReaL's labels of each sample of ImageNet's validation set (Beyer et al., arXiv
    2006.07159): any number of them, also none.

    Args:
        path: real.json of google-research/reassessed-imagenet, a list with a list of labels for
            ILSVRC2012_val_00000001.JPEG and so on.
        dataset: all or some of these images; the numbers in their names say which.

    Raises:
        ConfigError: it is no such file, or the dataset has other images.
    """
    try:
        with open_regular(path) as file:
            real = json.load(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"--real-labels {path}: cannot be read as JSON ({reason}); name the real.json of "
            "github.com/google-research/reassessed-imagenet"
        ) from None
    if not isinstance(real, list) or not all(_are_labels(labels) for labels in real):
        raise ConfigError(
            f"--real-labels {path}: is not a list with a list of labels for each image; name the "
            "real.json of github.com/google-research/reassessed-imagenet"
        )
    largest = max((label for labels in real for label in labels), default=-1)
    if largest >= len(dataset.classes):
        raise ConfigError(
            f"--real-labels {path}: has label {largest}, but the data has "
            f"{len(dataset.classes)} classes; these labels are for ImageNet-1k's validation set"
        )
    chosen = []
    for index in range(len(dataset)):
        name = dataset.name(index)
        found = _NUMBER.search(name)
        if found is None or not 1 <= int(found[1]) <= len(real):
            raise ConfigError(
                f"--real-labels {path}: {name} is none of its {len(real)} images, "
                "ILSVRC2012_val_00000001.JPEG and so on; these labels are for ImageNet-1k's "
                "validation set"
            )
        chosen.append(real[int(found[1]) - 1])
    if not any(chosen):
        raise ConfigError(f"--real-labels {path}: has no label for any image of the data")
    return chosen


def real_top1(classes: np.ndarray, real: Sequence[Sequence[int]]) -> tuple[float, int]:
    """Percentage of images whose predicted class is one of the right labels, and the number of
    images that count: those that have a right label.

    Args:
        classes: int [N], the predictions.
        real: the right labels of each image.
    """
    pairs = zip(classes.tolist(), real, strict=True)
    right = [label in labels for label, labels in pairs if labels]
    return 100 * sum(right) / max(len(right), 1), len(right)


def _are_labels(labels: object) -> bool:
    return isinstance(labels, list) and all(type(label) is int and label >= 0 for label in labels)
