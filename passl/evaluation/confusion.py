"""Confusion matrices: computed, written as a table, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from passl.evaluation.predictions import Predictions
from passl.evaluation.tables import write_csv
from passl.logging import printable, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DRAWN = 50
"""Classes up to which a drawing of the confusion matrix is readable."""
_NAME = 20
"""Columns of a class name."""


def confusion_matrix(found: Predictions, classes: int) -> np.ndarray:
    """Count samples by true class (row) and predicted class (column): int64 [classes, classes]."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (found.labels, found.classes[:, 0]), 1)
    return matrix


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
        from passl.io.figures import save_figure  # imports matplotlib, training does not need it

        save_figure(figure_of_confusion(matrix, classes, unit), path.with_suffix(".png"))


def figure_of_confusion(
    matrix: np.ndarray, classes: Sequence[str], unit: str = "images", pairs: int | None = None
) -> Figure:
    """Draw a confusion matrix, or the pairs of classes that are confused most often.

    Colors of the matrix are fractions of the true class, numbers are counts, or for pixels these
    fractions in percent.

    Args:
        matrix: int64 [classes, classes], see `confusion_matrix`.
        unit: what is counted, images or pixels.
        pairs: how many pairs are drawn, at most; null draws the matrix of up to `MOST_DRAWN`
            classes, and 30 pairs of more.
    """
    names = [shortened(printable(name), _NAME) for name in classes]
    right = 100 * np.trace(matrix) / max(matrix.sum(), 1)
    title = f"{matrix.sum()} {unit}, {right:.2f} % predicted correctly"
    if pairs is None and len(names) <= MOST_DRAWN:
        return _figure_of_matrix(matrix, names, unit, title)
    return _figure_of_pairs(most_confused(matrix, pairs or 30), names, unit, title)


class Confused(NamedTuple):
    """Samples, or pixels, of one class that are predicted to be of another one.

    Args:
        label, predicted: numbers of the classes.
        number: how many there are.
        fraction: their part of the true class.
    """

    label: int
    predicted: int
    number: int
    fraction: float


def most_confused(matrix: np.ndarray, most: int) -> list[Confused]:
    """The cells beside the diagonal with the largest counts, the largest first; of equal ones that
    with the larger part of its class.
    """
    wrong = matrix - np.diag(np.diagonal(matrix))
    fractions = wrong / np.maximum(matrix.sum(1, keepdims=True), 1)
    labels, predicted = np.nonzero(wrong)
    order = np.lexsort((-fractions[labels, predicted], -wrong[labels, predicted]))[:most]
    return [
        Confused(int(row), int(column), int(wrong[row, column]), float(fractions[row, column]))
        for row, column in zip(labels[order], predicted[order], strict=True)
    ]


def _figure_of_matrix(matrix: np.ndarray, names: Sequence[str], unit: str, title: str) -> Figure:
    from matplotlib.figure import Figure

    count = len(names)
    fractions = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = 2.5 + 0.42 * max(count, 4)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(matrix):
        color = "white" if fractions[row, column] > 0.5 else "black"
        number = str(matrix[row, column])
        if unit == "pixels":
            number = f"{100 * fractions[row, column]:.0f}"
        axes.text(column, row, number, ha="center", va="center", color=color, fontsize=7)
    axes.set_xticks(range(count), names, rotation=90)
    axes.set_yticks(range(count), names)
    axes.set(xlabel="prediction", ylabel="true class", title=title)
    figure.colorbar(image, ax=axes, label="fraction of the true class", shrink=0.8)
    return figure


def _figure_of_pairs(
    pairs: Sequence[Confused], names: Sequence[str], unit: str, title: str
) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 1.4 + 0.24 * max(len(pairs), 2)), layout="constrained")
    axes = figure.subplots()
    places = range(len(pairs))
    bars = axes.barh(places, [pair.number for pair in pairs], color="#0072B2")  # Okabe and Ito
    texts = [f"{pair.number} ({100 * pair.fraction:.0f} %)" for pair in pairs]
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    labels = [f"{names[pair.label]} → {names[pair.predicted]}" for pair in pairs]
    axes.set_yticks(places, labels, fontsize=8)
    axes.set(xlim=(0, 1.16 * max([pair.number for pair in pairs], default=1)))
    axes.set_ylim(len(pairs) - 0.4, -0.6)  # the first pair at the top
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel=f"{unit} (part of the true class)", ylabel="true class → prediction")
    axes.set_title(title if pairs else f"{title}: nothing is confused", fontsize=10)
    return figure
