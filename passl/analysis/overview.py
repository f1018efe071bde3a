"""A run on one page: curves, predictions, mistakes, confusion, gates and attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from passl.analysis.attention import last_block
from passl.analysis.attention_figure import draw_attention, image_attention
from passl.analysis.curves import Metrics, figure_of_runs
from passl.analysis.drawn_predictions import Drawn, figure_of_predictions
from passl.analysis.evaluated import Evaluated
from passl.analysis.gates import draw_now, values_now
from passl.analysis.layers import point_of_block
from passl.analysis.mistakes import figure_of_mistakes, worst_mistakes
from passl.deploy.predictor import Prediction
from passl.errors import ConfigError
from passl.evaluation.attention import attention_blocks, has_attention
from passl.evaluation.confusion import figure_of_confusion
from passl.io.figures import as_image
from passl.modeling.gpsa import GPSA

_WIDTH, _GAP = 2200, 30
"""Pixels of the page and between two figures."""
_SAMPLES, _BEST, _MISTAKES, _ATTENTION = 8, 3, 12, 4


def overview(name: str, metrics: Metrics, found: Evaluated) -> Image.Image:
    """Draw what a run did and what its network says of the validation data.

    Args:
        name: of the run.
        metrics: of the run.
        found: its best checkpoint on its validation data, of one label for each image.

    Raises:
        ConfigError: the data has another task, or the run has not finished an epoch.
    """
    matrix = found.confusion
    if found.task != "classification" or matrix is None:
        raise ConfigError(f"an overview is of classification; this run is for {found.task}")
    curves = figure_of_runs([(name, metrics)])
    confusion = figure_of_confusion(matrix, found.classes)
    rows = [[curves, confusion], [_predictions(found)], list(_lower(found))]
    return _page([[as_image(figure) for figure in row] for row in rows if row])


def _predictions(found: Evaluated) -> Figure:
    """Samples at equal distances in the validation data."""
    dataset, classes = found.loader.dataset, found.classes
    count = len(found.found.indices)
    shown = []
    for row in np.linspace(0, count - 1, min(_SAMPLES, count)).astype(int):
        image, label = dataset[int(found.found.indices[row])]
        best = [
            Prediction(int(k), classes[k], float(p))
            for k, p in zip(found.found.classes[row], found.found.probabilities[row], strict=True)
        ]
        shown.append(Drawn(f"label {classes[int(label)]}", image, best[:_BEST]))
    return figure_of_predictions(shown)


def _lower(found: Evaluated) -> Iterator[Figure]:
    """Mistakes if there are any, gates of a ConViT, and what the last block attends to."""
    mistakes = worst_mistakes(found, _MISTAKES)
    if mistakes.shown:
        yield figure_of_mistakes(mistakes)
    if not has_attention(type(found.model.backbone)):  # somebody's own network
        return
    images = [found.shown(int(index)) for index in found.found.indices[:_ATTENTION]]
    size = images[0].array.shape[1:]
    if any(isinstance(layer, GPSA) for layer in found.model.sublayers()):
        values = values_now(found.model, "gate", *size)
        yield draw_now(values, "gate", "Gates: attention to position rather than content")
    block = last_block(attention_blocks(found.model, *size))
    points = [point_of_block(found.model.backbone, block.name)]
    yield draw_attention(
        images, [image_attention(found.model, image.array, points, []) for image in images]
    )


def _page(rows: list[list[Image.Image]]) -> Image.Image:
    """Rows of images, each as wide as the page."""
    scaled = []
    for row in rows:
        # Side by side at one height.
        ratios = [image.width / image.height for image in row]
        height = (_WIDTH - _GAP * (len(row) + 1)) / sum(ratios)
        sizes = [(round(height * ratio), round(height)) for ratio in ratios]
        scaled.append([image.resize(size) for image, size in zip(row, sizes, strict=True)])
    heights = [row[0].height for row in scaled]
    page = Image.new("RGB", (_WIDTH, sum(heights) + _GAP * (len(rows) + 1)), "white")
    top = _GAP
    for row, height in zip(scaled, heights, strict=True):
        left = _GAP
        for image in row:
            page.paste(image, (left, top))
            left += image.width + _GAP
        top += height + _GAP
    return page
