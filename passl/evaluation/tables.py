"""The tables of an evaluation, as CSV or JSON lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from passl.data.datasets.base import ImageDataset
from passl.evaluation.predictions import BEST, Predictions
from passl.io.files import to_json, write_text


def write_predictions(path: Path, found: Predictions, dataset: ImageDataset) -> None:
    """Write a line per sample, in the dataset's order: its name, its label, and the best
    predictions with their probabilities.

    Args:
        path: `.jsonl`, or `.csv`.
    """
    samples = [
        {
            "name": dataset.name(int(index)),
            "label": int(label),
            "label_name": dataset.classes[label],
            "best": [
                {
                    "label": int(predicted),
                    "name": dataset.classes[predicted],
                    "probability": round(float(probability), 6),
                }
                for predicted, probability in zip(classes, probabilities, strict=True)
            ],
        }
        for index, label, classes, probabilities in zip(
            found.indices, found.labels, found.classes, found.probabilities, strict=True
        )
    ]
    if path.suffix == ".jsonl":
        write_text(path, "".join(to_json(s) + "\n" for s in samples))
        return
    head = best_columns(found.classes.shape[1])
    rows = [
        [sample["name"], sample["label"], sample["label_name"]]
        + [value for best in sample["best"] for value in best.values()]
        for sample in samples
    ]
    write_csv(path, ["name", "label", "label_name", *head], rows)


def write_per_class(path: Path, found: Predictions, classes: Sequence[str]) -> None:
    """Write samples, top-1 and top-5 in percent of each class; a class without samples has no
    scores.
    """
    samples, top1, top5 = (
        np.bincount(found.labels, weights, len(classes))
        for weights in (None, found.correct(1), found.correct(BEST))
    )
    rows = [
        [name, int(n), *((f"{100 * right / n:.4f}" if n else "") for right in rights)]
        for name, n, *rights in zip(classes, samples, top1, top5, strict=True)
    ]
    write_csv(path, ["class", "samples", "top1", "top5"], rows)


def best_columns(k: int) -> list[str]:
    """The titles of k predictions: label_1, name_1, probability_1, label_2 and so on."""
    return [f"{key}_{i}" for i in range(1, k + 1) for key in ("label", "name", "probability")]


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    write_text(path, text.getvalue())
