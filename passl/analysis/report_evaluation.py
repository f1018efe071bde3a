"""The part of a report that needs predictions: classes, confusion and the worst mistakes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from passl.analysis.compare import RunSummary
from passl.analysis.evaluated import Evaluated, evaluate_config
from passl.analysis.figures import SMALL
from passl.analysis.gates import attention_rows
from passl.analysis.mistakes import Mistake, Mistakes, worst_mistakes
from passl.analysis.report_attention import Blocks, attention_maps_of, measured_now
from passl.engine.run_folder import BEST, CONFIG
from passl.errors import ConfigError, RunError
from passl.evaluation.confusion import MOST_DRAWN, most_confused
from passl.evaluation.scores import TASKS
from passl.io.figures import as_image
from passl.logging import get_logger
from passl.utils.config import get_config

_PAIRS = 20
"""Pairs of confused classes that are listed."""
_SIDE = 192
"""Pixels of the longer side of a thumbnail, at most."""
_DIFFERENCE = 0.1
"""Difference of a score from the recorded one, in percent, that is remarked."""


@dataclass(frozen=True)
class EvaluationPart:
    """What the template shows of an evaluation.

    Args:
        text: what was evaluated, and its scores.
        remarks: what someone who reads the scores should know.
        parameters: of the network.
        classes: names.
        unit: what is counted, images or pixels.
        per_class: `head` and `rows` of a table.
        matrix: text and fraction of each cell, for few classes.
        confused: rows of a table.
        mistakes: the thumbnails.
        mistakes_title: what they are.
        attention: measures of each head, see `report_attention`.
        maps: an image of attention maps, as an address that contains it; null if there is none.
    """

    text: str
    remarks: list[str]
    parameters: str
    classes: list[str]
    unit: str
    per_class: dict[str, Any]
    matrix: list[list[tuple[str, float]]]
    confused: list[list[Any]]
    mistakes: list[dict[str, Any]]
    mistakes_title: str
    attention: Blocks
    maps: str | None


def evaluation_of(run: RunSummary, most: int) -> EvaluationPart | str:
    """Evaluate the best checkpoint of a run on its validation data; a sentence if that is not
    possible.

    Args:
        most: the worst mistakes that are shown, at most.
    """
    weights = run.folder / BEST
    if not weights.is_file():
        return f"Classes and mistakes are left out: {weights} is not there."
    get_logger().info("evaluating %s on its validation data; --no-eval leaves it out", weights)
    try:
        found = evaluate_config(get_config(run.folder / CONFIG), weights)
        mistakes = worst_mistakes(found, most)
    except (ConfigError, RunError, OSError) as error:
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        get_logger().warning("%s is not evaluated: %s", weights, "; ".join(problems))
        return (
            f"Classes and mistakes are left out, since {weights} could not be evaluated on its "
            f"validation data: {'; '.join(problems)}. Relative paths of data are relative to the "
            "folder in which passl is started."
        )
    return _part(run, found, mistakes)


def _part(run: RunSummary, found: Evaluated, mistakes: Mistakes) -> EvaluationPart:
    task, scores, matrix = TASKS[found.task], found.scores, found.confusion
    shown = ", ".join(f"{title} {getattr(scores, key):.2f} %" for key, title in task.shown.items())
    text = (
        f"{BEST}, evaluated for this report on {scores.samples} images: {shown}, loss "
        f"{scores.loss:.4f}."
    )
    rows = found.per_class()
    sizes = [parameter.size for parameter in found.model.parameters()]
    names = found.classes
    pairs = [] if matrix is None else most_confused(matrix, _PAIRS)
    unit = "pixels" if found.task == "segmentation" else "images"
    return EvaluationPart(
        text=text,
        remarks=_remarks(run, getattr(scores, task.best)),
        parameters=f"{sum(sizes):,}",
        classes=names,
        unit=unit,
        per_class={"head": _titles(rows[0]), "rows": [list(row.values()) for row in rows]},
        matrix=[] if matrix is None else _cells(matrix, unit),
        confused=[
            [names[p.label], names[p.predicted], p.number, f"{100 * p.fraction:.1f}"] for p in pairs
        ],
        mistakes=[_thumbnail(each) for each in mistakes.shown],
        mistakes_title=mistakes.title,
        maps=_maps(found),
        attention={} if attention_rows(run.folder) else measured_now(found),
    )


def _remarks(run: RunSummary, score: float) -> list[str]:
    best, task = run.metrics.best, run.metrics.task
    if best is None or abs(best[task.best] - score) < _DIFFERENCE:
        return []
    return [
        f"{BEST} has {task.shown[task.best]} {score:.2f} % now, but {best[task.best]:.2f} % was "
        f"recorded in epoch {best['epoch']}: the validation data or the checkpoint has changed "
        "since."
    ]


def _titles(row: dict[str, Any]) -> list[str]:
    return [key if key in ("class", "samples", "pixels") else f"{key} in %" for key in row]


def _cells(matrix: np.ndarray, unit: str) -> list[list[tuple[str, float]]]:
    """Of few classes; nothing of many, whose matrix is too large to read."""
    if len(matrix) > MOST_DRAWN:
        return []
    fractions = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    texts = (100 * fractions).round().astype(int) if unit == "pixels" else matrix
    return [
        [(str(text) if count else "", fraction) for text, count, fraction in zip(*row, strict=True)]
        for row in zip(texts.tolist(), matrix.tolist(), fractions.tolist(), strict=True)
    ]


def _thumbnail(mistake: Mistake) -> dict[str, Any]:
    panels = mistake.panels()
    is_small = max(panels[0].size) <= SMALL
    for panel in panels:
        panel.thumbnail((_SIDE, _SIDE))
    width, height = panels[0].size
    whole = Image.new("RGB", (width * len(panels), height))
    for place, panel in enumerate(panels):
        whole.paste(panel, (place * width, 0))
    label = f" label {mistake.label}," if mistake.label else ""
    what = "image, true mask and predicted mask of" if mistake.masks else "image"
    return {
        "source": _data_uri(whole, "PNG" if is_small else "JPEG"),
        "alt": f"{what} {mistake.name}:{label} {mistake.wrong}",
        "panels": len(panels),
        "small": is_small,
        "label": mistake.label,
        "wrong": mistake.wrong.replace(" %", "\u00a0%"),
        "name": mistake.name,
    }


def _maps(found: Evaluated) -> str | None:
    figure = attention_maps_of(found)
    if figure is None:
        return None
    return _data_uri(as_image(figure).quantize(128), "PNG")


def _data_uri(image: Image.Image, kind: str) -> str:
    """An image as an address that contains it.

    Args:
        kind: `PNG` or `JPEG`.
    """
    content = io.BytesIO()
    image.save(content, format=kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
