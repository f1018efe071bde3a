"""Compare two datasets without reading the images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from os.path import commonprefix
from typing import Any

import numpy as np

from passl.data.datasets.base import ImageDataset

_DIGITS = 16


def fingerprint(dataset: ImageDataset) -> dict[str, Any]:
    """Return values that differ between datasets: the numbers of samples and classes, and SHA-256
    hashes of the class names, and of the names and labels of the samples in order. Hashes are cut
    to 16 digits, enough to detect accidental changes.

    The folder that all samples are in does not count, so moving the data changes nothing. Images
    are not read.
    """
    classes = "\0".join(dataset.classes).encode("utf-8", "surrogateescape")
    labels = np.ascontiguousarray(dataset.labels, "<i8")
    return {
        "samples": len(dataset),
        "classes": len(dataset.classes),
        "class names": hashlib.sha256(classes).hexdigest()[:_DIGITS],
        "sample names": dataset.names_hash or hash_of_names(_Names(dataset)),
        "labels": hashlib.sha256(labels.ravel().data).hexdigest()[:_DIGITS],
    }


def hash_of_names(names: Sequence[str]) -> str:
    """Return the hash of the names of samples, without the folder that all of them are in."""
    digest, skipped = hashlib.sha256(), _common_folder(names)
    for name in names:
        digest.update(f"{name[skipped:]}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:_DIGITS]


def hashed_lists(dataset: ImageDataset) -> dict[str, Callable[[], Sequence[str]]]:
    """Return functions that make the lists which a fingerprint has hashes of, by the same names."""
    return {
        "class names": lambda: dataset.classes,
        "sample names": lambda: _Names(dataset, _common_folder(_Names(dataset))),
        "labels": lambda: list(map(str, dataset.labels.tolist())),
    }


class _Names(Sequence[str]):
    """The names of all samples of a dataset.

    Args:
        skipped: characters that are left out of each.
    """

    def __init__(self, dataset: ImageDataset, skipped: int = 0):
        self._dataset, self._skipped = dataset, skipped

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError(index)
        return self._dataset.name(index)[self._skipped :]


def _common_folder(names: Sequence[str]) -> int:
    """Return the number of characters of the folder that all names are in."""
    prefix = names[0] if len(names) else ""
    for name in names:
        if not name.startswith(prefix):
            prefix = commonprefix([prefix, name])
    return prefix.rfind("/") + 1
