"""Whether two datasets are the same, without a look at the images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from os.path import commonprefix
from typing import Any

from passl.data.datasets.base import ImageDataset

_DIGITS = 16
_CHUNK = 10_000
"""Names that are hashed together: all at once would take hundreds of MB for ImageNet."""


def fingerprint(dataset: ImageDataset) -> dict[str, Any]:
    """What tells a dataset from another: the number of its samples and classes, and SHA-256 of the
    class names, and of the names and labels of the samples in their order (the first 16 digits,
    enough for a difference that nobody seeks).

    The folder that all samples lie in is no part of it, so data that has moved stays the same. Nor
    are the images, which are not read.
    """
    count, named = len(dataset), _SampleNames(dataset)
    names = hashlib.sha256()
    for start in range(0, count, _CHUNK):
        indices = range(start, min(start + _CHUNK, count))
        chunk = "".join(f"{named[index]}\0" for index in indices)
        names.update(chunk.encode("utf-8", "surrogateescape"))
    classes = "\0".join(dataset.classes).encode("utf-8", "surrogateescape")
    return {
        "samples": count,
        "classes": len(dataset.classes),
        "class names": hashlib.sha256(classes).hexdigest()[:_DIGITS],
        "sample names": names.hexdigest()[:_DIGITS],
        "labels": hashlib.sha256(dataset.labels.astype("<i8").tobytes()).hexdigest()[:_DIGITS],
    }


def hashed_lists(dataset: ImageDataset) -> dict[str, Callable[[], Sequence[str]]]:
    """What makes the lists whose hashes a fingerprint has, under the same names."""
    return {
        "class names": lambda: dataset.classes,
        "sample names": lambda: _SampleNames(dataset),
        "labels": lambda: list(map(str, dataset.labels.tolist())),
    }


class _SampleNames(Sequence[str]):
    """The names of all samples, without the folder that all of them lie in. They are made when they
    are asked for.
    """

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
