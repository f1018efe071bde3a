"""Compare two datasets without reading the images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from os.path import commonprefix
from typing import Any

from passl.data.datasets.base import ImageDataset

_DIGITS = 16


def fingerprint(dataset: ImageDataset) -> dict[str, Any]:
    """Return values that differ between datasets: the numbers of samples and classes, and SHA-256
    hashes of the class names, and of the names and labels of the samples in order. Hashes are cut
    to 16 digits, enough to detect accidental changes.

    The folder that all samples are in does not count, so moving the data changes nothing. Images
    are not read.
    """
    names, sample_names = hashlib.sha256(), _SampleNames(dataset)
    for index in range(len(dataset)):
        names.update(f"{sample_names[index]}\0".encode("utf-8", "surrogateescape"))
    classes = "\0".join(dataset.classes).encode("utf-8", "surrogateescape")
    return {
        "samples": len(dataset),
        "classes": len(dataset.classes),
        "class names": hashlib.sha256(classes).hexdigest()[:_DIGITS],
        "sample names": names.hexdigest()[:_DIGITS],
        "labels": hashlib.sha256(dataset.labels.astype("<i8").tobytes()).hexdigest()[:_DIGITS],
    }


def hashed_lists(dataset: ImageDataset) -> dict[str, Callable[[], Sequence[str]]]:
    """Return functions that make the lists which a fingerprint has hashes of, by the same names."""
    return {
        "class names": lambda: dataset.classes,
        "sample names": lambda: _SampleNames(dataset),
        "labels": lambda: list(map(str, dataset.labels.tolist())),
    }


class _SampleNames(Sequence[str]):
    """The names of all samples, without the folder that all of them are in."""

    def __init__(self, dataset: ImageDataset):
        self._dataset = dataset
        prefix = dataset.name(0) if len(dataset) else ""
        for index in range(len(dataset)):
            name = dataset.name(index)
            if not name.startswith(prefix):
                prefix = commonprefix([prefix, name])
        self._skipped = prefix.rfind("/") + 1

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        return self._dataset.name(index)[self._skipped :]
