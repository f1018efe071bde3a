"""Whether two datasets are the same, without a look at the images."""

from __future__ import annotations

import hashlib
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
    count = len(dataset)
    prefix = dataset.name(0) if count else ""
    for index in range(count):
        name = dataset.name(index)
        if not name.startswith(prefix):
            prefix = commonprefix([prefix, name])
    skipped = prefix.rfind("/") + 1
    names = hashlib.sha256()
    for start in range(0, count, _CHUNK):
        indices = range(start, min(start + _CHUNK, count))
        chunk = "".join(f"{dataset.name(index)[skipped:]}\0" for index in indices)
        names.update(chunk.encode("utf-8", "surrogateescape"))
    classes = "\0".join(dataset.classes).encode("utf-8", "surrogateescape")
    return {
        "samples": count,
        "classes": len(dataset.classes),
        "class names": hashlib.sha256(classes).hexdigest()[:_DIGITS],
        "sample names": names.hexdigest()[:_DIGITS],
        "labels": hashlib.sha256(dataset.labels.astype("<i8").tobytes()).hexdigest()[:_DIGITS],
    }
