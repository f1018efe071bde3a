"""The report on the data of a config: as plain data, and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from passl.analysis.survey import HASH, Survey, duplicates
from passl.data.balance import class_counts, class_text
from passl.data.datasets.base import ImageDataset
from passl.errors import shortened
from passl.logging import printable

_LISTED = 10
"""Items of a list that are printed; the plain data has all."""


def report(parts: Mapping[str, tuple[ImageDataset, Survey]]) -> dict[str, Any]:
    """Return all findings as plain data.

    Args:
        parts: the dataset of each part (train, val) and its survey.

    Returns:
        `hash`: what is hashed; `parts`: of each part `samples`, `unreadable`, `sizes`, `modes`,
        `classes`, `imbalance`, `empty_classes`, `duplicates`, and of segmentation `pixels`, the
        part of each class; `duplicates_between_parts`; and `classes_of_one_part`, the classes that
        training and validation do not share.
    """
    first, *others = (set(dataset.classes) for dataset, _ in parts.values())
    return {
        "hash": HASH,
        "parts": {part: _of_part(dataset, found) for part, (dataset, found) in parts.items()},
        "duplicates_between_parts": list(_between(parts)),
        "classes_of_one_part": sorted(first.union(*others) - first.intersection(*others)),
    }


def is_clean(found: Mapping[str, Any]) -> bool:
    """Whether every sample can be read and none is in both parts."""
    unreadable = any(part["unreadable"] for part in found["parts"].values())
    return not unreadable and not found["duplicates_between_parts"]


def _of_part(dataset: ImageDataset, found: Survey) -> dict[str, Any]:
    count, is_masks = len(dataset.classes), dataset.task == "segmentation"
    counts = found.images[:count] if is_masks else class_counts(dataset)
    there = counts[counts > 0]
    good = found.good
    return {
        "samples": len(dataset),
        "unreadable": [
            {**_sample(dataset, index), "reason": reason} for index, reason in found.bad.items()
        ],
        "sizes": _sizes(found.sizes[good]),
        "modes": {
            mode: int((found.modes == place).sum()) for place, mode in enumerate(found.mode_names)
        },
        "classes": dict(zip(dataset.classes, counts.tolist(), strict=True)),
        "imbalance": float(there.max() / there.min()) if len(there) else None,
        "empty_classes": [
            name for name, count in zip(dataset.classes, counts, strict=True) if not count
        ],
        "pixels": _pixels(dataset, found) if is_masks else None,
        "duplicates": [
            [_sample(dataset, int(index)) for index in group]
            for group in duplicates(found.digests, good)
        ],
    }


def _sample(dataset: ImageDataset, index: int) -> dict[str, str]:
    if dataset.task == "segmentation":
        return {"name": dataset.name(index), "mask": dataset.label_name(index)}
    return {"name": dataset.name(index), "class": class_text(dataset, index)}


def _pixels(dataset: ImageDataset, found: Survey) -> dict[str, float]:
    """The part of all pixels that each class has, and that is ignored."""
    names = [*dataset.classes, "ignored"]
    counts = [*found.pixels[: len(dataset.classes)], found.pixels[-1]]
    total = max(int(found.pixels.sum()), 1)
    return {name: int(count) / total for name, count in zip(names, counts, strict=True)}


def _sizes(sizes: np.ndarray) -> dict[str, Any]:
    """Of [N, 2] widths and heights."""
    if not len(sizes):
        return {"distinct": 0}
    places = {"min": 0, "5%": 5, "median": 50, "95%": 95, "max": 100}
    at = np.percentile(sizes, list(places.values()), axis=0, method="nearest")
    return {
        "width": dict(zip(places, at[:, 0].tolist(), strict=True)),
        "height": dict(zip(places, at[:, 1].tolist(), strict=True)),
        "distinct": len(np.unique(sizes, axis=0)),
    }


def _between(parts: Mapping[str, tuple[ImageDataset, Survey]]) -> Iterator[dict[str, Any]]:
    """Groups of samples with the same pixels that are in both parts."""
    if len(parts) < 2:
        return
    (first, one), (second, other) = parts.items()
    border = len(one[0])
    digests = np.concatenate([one[1].digests, other[1].digests])
    good = np.concatenate([one[1].good, border + other[1].good])
    for group in duplicates(digests, good):
        if group[0] < border <= group[-1]:
            yield {
                first: [_sample(one[0], int(i)) for i in group if i < border],
                second: [_sample(other[0], int(i) - border) for i in group if i >= border],
            }


# --------------------------------------------------------------------------------------------------
# In lines
# --------------------------------------------------------------------------------------------------
def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Return the report as text: the figures, and the first items of each list."""
    for part, of in found["parts"].items():
        yield from (printable(f"{part}: {line}") for line in _lines_of_part(of))
    both = found["duplicates_between_parts"]
    if len(found["parts"]) == 2:
        yield f"in both parts: {len(both)} images (by their pixels)" if both else "in both parts: 0"
        lines = (
            " = ".join(sample["name"] for samples in group.values() for sample in samples)
            for group in both
        )
        yield from _first(map(printable, lines), len(both))
    single = found["classes_of_one_part"]
    if single:
        yield printable(f"classes of one part only: {shortened(single, _LISTED)}")


def _lines_of_part(of: Mapping[str, Any]) -> Iterator[str]:
    counts = sorted(of["classes"].items(), key=lambda item: item[1])
    yield f"{of['samples']} samples of {len(counts)} classes"
    what = "samples of a class" if of["pixels"] is None else "images that have a class"
    yield f"{what}: {_ends([f'{name} ({count})' for name, count in counts])}"
    if of["pixels"] is not None:
        parts = sorted(of["pixels"].items(), key=lambda item: item[1])
        yield f"pixels: {_ends([f'{name} ({100 * part:.3g} %)' for name, part in parts])}"
    if of["imbalance"] is not None:
        yield f"the largest class is {of['imbalance']:.3g} times the smallest"
    if of["empty_classes"]:
        yield f"classes without a sample: {shortened(of['empty_classes'], _LISTED)}"
    if of["sizes"]["distinct"]:
        for side in ("width", "height"):
            yield f"{side}: " + ", ".join(f"{key} {at}" for key, at in of["sizes"][side].items())
        yield f"different sizes: {of['sizes']['distinct']}"
    if of["modes"]:
        yield "modes: " + ", ".join(f"{mode} {count}" for mode, count in of["modes"].items())
    groups = of["duplicates"]
    mixed = sum(len({sample.get("class") for sample in group}) > 1 for group in groups)
    yield f"duplicate images: {len(groups)}, {mixed} of them in several classes"
    yield from _first((" = ".join(s["name"] for s in group) for group in groups), len(groups))
    yield f"unreadable: {len(of['unreadable'])}"
    yield from _first((bad["reason"] for bad in of["unreadable"]), len(of["unreadable"]))


def _ends(items: Sequence[str]) -> str:
    """The first and last of many items."""
    if len(items) > _LISTED:
        items = [*items[: _LISTED // 2], "...", *items[-_LISTED // 2 :]]
    return ", ".join(items)


def _first(items: Iterator[str], count: int) -> Iterator[str]:
    for _, item in zip(range(_LISTED), items, strict=False):
        yield f"  {item}"
    if count > _LISTED:
        yield f"  ... and {count - _LISTED} more, which --json lists"
