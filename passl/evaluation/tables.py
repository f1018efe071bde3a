"""The tables of an evaluation, as CSV or JSON lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
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
    write_best(path, samples, as_table=path.suffix != ".jsonl")


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


def percentages(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    """100 * part / whole for each class; null where the whole is 0."""
    pairs = zip(part.tolist(), whole.tolist(), strict=True)
    return [100 * own / of if of else None for own, of in pairs]


def write_best(path: Path, samples: Sequence[Mapping[str, Any]], as_table: bool) -> None:
    """Write the best predictions for samples.

    Args:
        samples: of each its `name`, other values, and `best`, a list of predictions with label,
            name and probability; or an `error` instead, which leaves the cells of a table empty.
        as_table: as CSV with the columns label_1, name_1, probability_1, label_2 and so on; else as
            JSON lines.
    """
    if not as_table:
        write_json_lines(path, samples)
        return
    rows = []
    for sample in samples:
        row = {key: value for key, value in sample.items() if key not in ("best", "error")}
        for place, best in enumerate(sample.get("best", ()), 1):
            row |= {f"{key}_{place}": value for key, value in best.items()}
        rows.append(row)
    head = list(max(rows, key=len, default=()))
    write_csv(path, head, [[row.get(key) for key in head] for row in rows])


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON object per line, atomically."""
    write_text(path, "".join(to_json(row) + "\n" for row in rows))


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    write_text(path, text.getvalue())
