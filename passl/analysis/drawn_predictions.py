"""Images with their predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from passl.analysis.figures import COLORS
from passl.deploy.predictor import Prediction
from passl.logging import printable, shortened

_COLUMNS = 4
_NAME = 22
"""Characters of a class or file name that are shown."""


@dataclass(frozen=True)
class Drawn:
    """An image with its predictions.

    Args:
        name: of the image.
        image: in the mode of the network.
        best: the predictions that are shown, best first.
    """

    name: str
    image: Image.Image
    best: Sequence[Prediction]


def figure_of_predictions(shown: Sequence[Drawn]) -> Figure:
    """Draw images, each beside its best predictions. Long names are shortened."""
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(4.2 * columns, 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1, 1.3] * columns)
    places = grid.reshape(rows * columns, 2)
    for (left, right), each in zip(places, shown, strict=False):
        name, *labels = _texts(each)
        left.imshow(each.image, cmap="gray")
        left.set_title(name, fontsize=8)
        left.set(xticks=[], yticks=[])
        _draw_bars(right, labels, [best.probability for best in each.best])
    for axes in places[len(shown) :].flat:
        axes.set_axis_off()
    return figure


def _draw_bars(axes: Any, labels: Sequence[str], probabilities: Sequence[float]) -> None:
    """Bars from the top, with the names above them, where a long name has room."""
    lines = range(len(labels))
    colors = [COLORS[0] if line == 0 else COLORS[4] for line in lines]
    axes.barh(lines, probabilities, height=0.35, color=colors, align="edge")
    for line, label, probability in zip(lines, labels, probabilities, strict=True):
        weight = "bold" if line == 0 else "normal"
        text = f"{label}  {100 * probability:.1f} %"
        axes.text(0, line - 0.05, text, fontsize=8, va="bottom", weight=weight)
    axes.set(xlim=(0, 1), ylim=(max(len(labels), 3) - 0.4, -0.6))
    axes.set_axis_off()


def _texts(each: Drawn) -> list[str]:
    texts = [Path(each.name).name, *(best.name for best in each.best)]
    return [shortened(printable(text), _NAME) for text in texts]
