"""Classes of different sizes: their sizes, and orders that draw all classes equally often."""

from __future__ import annotations

import numpy as np

from passl.data.datasets.base import ImageDataset
from passl.errors import ConfigError, shortened

_GOLDEN = (5**0.5 - 1) / 2


def class_counts(dataset: ImageDataset) -> np.ndarray:
    """Return the number of samples that have the label of each class, int64 [classes]."""
    if dataset.task == "multilabel":
        return dataset.labels.sum(0, dtype=np.int64)
    return np.bincount(dataset.labels, minlength=len(dataset.classes))


def class_text(dataset: ImageDataset, index: int) -> str:
    """Return the name of a sample's class; of multi-label data all of them, between commas."""
    label = dataset.labels[index]
    labels = np.flatnonzero(label) if dataset.task == "multilabel" else [label]
    return ", ".join(dataset.classes[label] for label in labels)


def samples_per_class(dataset: ImageDataset) -> np.ndarray:
    """Return the number of samples of each class, int64 [classes].

    Raises:
        ConfigError: a class has no sample, though `valid_labels` of the dataset includes it.
    """
    counts = class_counts(dataset)
    wanted = range(len(counts)) if dataset.valid_labels is None else dataset.valid_labels
    empty = [dataset.classes[label] for label in wanted if not counts[label]]
    if empty:
        raise ConfigError(
            f"the training data has no sample of {shortened(empty)}, so classes cannot be "
            "balanced; add samples, or leave such classes out by labels: present in "
            "dataloader.train.dataset"
        )
    return counts


def balanced_order(
    order: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw `count` samples, equally many of each class, or one more of some.

    Some samples of larger classes are drawn at random; samples of smaller classes come equally
    often, or once more. Classes, and the copies of a sample, are spread over the whole length: each
    copy is a pass through `order` from another start, so the number of passes is small for data
    that is read fastest in that order.

    Args:
        order: int64 [N], an order of all samples: `ImageDataset.shuffled`.
        labels: int64 [N], the label of each sample.

    Returns:
        int64 [count], indices of samples.
    """
    samples = rng.permutation(len(labels))
    by_class = samples[np.argsort(labels[samples], kind="stable")]  # random within each class
    present, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    draws = np.full(len(present), count // len(present))
    draws[rng.permutation(len(present))[: count % len(present)]] += 1
    place_in_class = np.arange(len(labels)) - np.repeat(starts, sizes)
    every, some = np.divmod(draws, sizes)
    copies = np.repeat(every, sizes) + (place_in_class < np.repeat(some, sizes))

    drawn = np.repeat(by_class, copies)
    copy = np.arange(len(drawn)) - np.repeat(np.cumsum(copies) - copies, copies)
    place = np.empty(len(order))
    place[order] = np.arange(len(order)) / len(order)
    # Multiples of the golden ratio are spread evenly on a circle, for any number of them.
    drawn = drawn[np.argsort((place[drawn] + _GOLDEN * copy) % 1, kind="stable")]
    # Rotate at random, so that every class is equally likely at every place of the epoch.
    return np.roll(drawn, rng.integers(count))
