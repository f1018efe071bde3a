"""Classes of different sizes: how many samples each has, and orders that draw all equally often."""

from __future__ import annotations

import numpy as np

from passl.data.datasets.base import ImageDataset
from passl.errors import ConfigError

_GOLDEN = (5**0.5 - 1) / 2
_SHOWN = 5


def samples_per_class(dataset: ImageDataset) -> np.ndarray:
    """int64 [classes]: the samples of each class.

    Raises:
        ConfigError: a class has none, though the dataset's `valid_labels` do not leave it out.
    """
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    wanted = range(len(counts)) if dataset.valid_labels is None else dataset.valid_labels
    empty = [dataset.classes[label] for label in wanted if not counts[label]]
    if empty:
        more = f" and {len(empty) - _SHOWN} more classes" if len(empty) > _SHOWN else ""
        raise ConfigError(
            f"the training data has no sample of {', '.join(empty[:_SHOWN])}{more}, so classes "
            "cannot be balanced; add samples, or leave such classes out by labels: present in "
            "dataloader.train.dataset"
        )
    return counts


def balanced_order(
    order: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """`count` samples, as many of each class as of any other, or one more.

    A class with more samples than that gives some of them, drawn anew each time; one with fewer
    gives all of them equally often, or once more. All classes, and the copies of a sample, are
    spread over the whole length: each copy is a walk through `order` that begins elsewhere, so what
    is read fastest in that order is read in few such walks.

    Args:
        order: int64 [N], of all samples: `ImageDataset.shuffled`.
        labels: int64 [N], the class of each sample.

    Returns:
        int64 [count], indices of samples.
    """
    samples = rng.permutation(len(labels))
    by_class = samples[np.argsort(labels[samples], kind="stable")]  # in each class at random
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
    # Steps of the golden ratio on a circle: any number of them is spread evenly.
    drawn = drawn[np.argsort((place[drawn] + _GOLDEN * copy) % 1, kind="stable")]
    # Cut anywhere, so that every place of the epoch is of every class equally often.
    return np.roll(drawn, rng.integers(count))
