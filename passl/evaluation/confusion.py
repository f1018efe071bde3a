"""Confusion matrices: computed, written as a table, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from passl.evaluation.predictions import Predictions
from passl.evaluation.tables import write_csv
from passl.io.files import write_atomically
from passl.logging import printable

MOST_DRAWN = 50
"""Classes up to which a drawing of the confusion matrix is readable."""


def confusion_matrix(found: Predictions, classes: int) -> np.ndarray:
    """Count samples by true class (row) and predicted class (column): int64 [classes, classes]."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (found.labels, found.classes[:, 0]), 1)
    return matrix


def write_confusions(path: Path, found: Predictions, classes: Sequence[str]) -> None:
    """Write the matrix of predictions; see `write_confusion`."""
    write_confusion(path, confusion_matrix(found, len(classes)), classes)


def write_confusion(
    path: Path, matrix: np.ndarray, classes: Sequence[str], unit: str = "images"
) -> None:
    """Write a matrix as CSV, and for up to `MOST_DRAWN` classes also as PNG. The first row and
    column of the table are the class names; rows are true classes, columns are predictions.

    Args:
        unit: what is counted, images or pixels.
    """
    rows = [[name, *row] for name, row in zip(classes, matrix.tolist(), strict=True)]
    write_csv(path, ["true class", *classes], rows)
    if len(classes) <= MOST_DRAWN:
        draw_confusion(path.with_suffix(".png"), matrix, classes, unit)


def draw_confusion(
    out: Path, matrix: np.ndarray, classes: Sequence[str], unit: str = "images"
) -> None:
    """Draw the matrix. Colours are fractions of the true class, numbers are counts, or for pixels
    these fractions in percent.

    Args:
        out: the PNG to write.
        unit: what is counted, images or pixels.
    """
    from passl.io.fonts import fonts_for  # imports matplotlib, which training does not need

    shown = [printable(name) for name in classes]
    names = [name if len(name) <= 20 else f"{name[:19]}…" for name in shown]
    with fonts_for(names):
        _draw_confusion(out, matrix, names, unit)


def _draw_confusion(out: Path, matrix: np.ndarray, names: Sequence[str], unit: str) -> None:
    count = len(names)
    fractions = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = 2.5 + 0.42 * max(count, 4)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(matrix):
        colour = "white" if fractions[row, column] > 0.5 else "black"
        number = str(matrix[row, column])
        if unit == "pixels":
            number = f"{100 * fractions[row, column]:.0f}"
        axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(count), names, rotation=90)
    axes.set_yticks(range(count), names)
    right = 100 * np.trace(matrix) / max(matrix.sum(), 1)
    axes.set(
        xlabel="prediction",
        ylabel="true class",
        title=f"{matrix.sum()} {unit}, {right:.2f} % predicted correctly",
    )
    figure.colorbar(image, ax=axes, label="fraction of the true class", shrink=0.8)
    write_atomically(out, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
