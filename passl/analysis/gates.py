"""What attention heads do: gates and other measures, over the epochs of a run or of one network."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from paddle import nn

from passl.analysis.figures import COLORS
from passl.engine.attention_log import ATTENTION
from passl.engine.metrics import METRICS, read_metrics
from passl.errors import ConfigError
from passl.evaluation.attention import attention_blocks
from passl.evaluation.attention_measures import position_measures
from passl.modeling.gpsa import GPSA
from passl.utils.config import closest

GATE = "gate"
LABELS = {
    "gate": "gate: weight of the positional attention",
    "distance": "mean attention distance in pixels",
    "nonlocality": "non-locality in patches",
    "entropy": "entropy of the attention in nats",
    "center_y": "center of the positional attention, y, in patches",
    "center_x": "center of the positional attention, x, in patches",
    "strength": "locality strength",
    "offset_y": "mean offset of the positional attention, y, in patches",
    "offset_x": "mean offset of the positional attention, x, in patches",
    "width": "width of the positional attention in patches",
    "position_distance": "mean distance of the positional attention in patches",
    "distances": "distance of the center in patches",
    "gating_params": "gating parameter",
}
"""Measures that a run may have, with the label of their axis."""
_STYLES = ("-", "--", ":")
_MARKERS = "os^"

Values = Mapping[str, Sequence[float | None]]
"""For each block a number for each head; null for what is not defined."""


def attention_rows(folder: Path) -> list[dict[str, Any]]:
    """The measures of attention that a run has written; none if it was not asked to."""
    if not (folder / METRICS).is_file():
        return []
    return [row for row in read_metrics(folder) if row["phase"] == ATTENTION]


def over_epochs(rows: Sequence[Mapping[str, Any]], measure: str) -> list[tuple[int, Values]]:
    """Epoch and values of a measure, for the blocks that have it.

    Raises:
        ConfigError: no block has it.
    """
    known = {name for row in rows for block in row["blocks"].values() for name in block}
    known &= LABELS.keys()
    if measure not in known:
        raise ConfigError(f"no block of this run has {measure}; {_way(known)}")
    return [
        (row["epoch"], {name: b[measure] for name, b in row["blocks"].items() if measure in b})
        for row in rows
    ]


def values_now(model: nn.Layer, measure: str, height: int, width: int) -> Values:
    """Values of a measure that needs no images, for each block with positional attention.

    Args:
        height, width: of images, for the measures that depend on the grid.

    Raises:
        ConfigError: no block has positional attention, or the measure needs images.
    """
    blocks = [b for b in attention_blocks(model, height, width) if isinstance(b.attn, GPSA)]
    if not blocks:
        raise ConfigError(
            "this network has no gated positional attention (ConViT's first blocks); a run with "
            "log_config.attention has other measures: name it, and one of distance, nonlocality "
            "and entropy by --measure"
        )
    found = {b.name: position_measures(b.attn, b.query_grid) for b in blocks}
    known = set(next(iter(found.values())))
    if measure not in known:
        raise ConfigError(
            f"weights alone do not give {measure}, which a run with log_config.attention has; "
            f"{_way(known)}"
            if measure in LABELS
            else f"there is no measure {measure}{closest(measure, LABELS)}"
        )
    return {name: [float(value) for value in values[measure]] for name, values in found.items()}


def draw_over_epochs(
    measured: Sequence[tuple[int, Values]], measure: str, title: str = ""
) -> Figure:
    """Draw a panel for each block, with a line for each head and one for their mean.

    Args:
        measured: of `over_epochs`.
        measure: one of `LABELS`.
    """
    blocks = list(dict.fromkeys(block for _, values in measured for block in values))
    across = min(4, math.ceil(math.sqrt(len(blocks))))
    down = -(-len(blocks) // across)
    figure = Figure(figsize=(3.0 * across + 1.0, 2.3 * down + 1.3), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    lines: dict[str, Any] = {}
    for number, (block, axes) in enumerate(zip(blocks, panels, strict=False)):
        epochs = [epoch for epoch, values in measured if block in values]
        values_EH = np.stack([_numbers(values[block]) for _, values in measured if block in values])
        lines |= _draw_heads(axes, epochs, values_EH)
        axes.set_title(block, fontsize=9)
        axes.grid(alpha=0.3)
        if number + across >= len(blocks):  # nothing below it
            axes.set_xlabel("epoch")
            axes.tick_params(labelbottom=True)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels[len(blocks) :]:
        axes.set_axis_off()
    if measure == GATE:
        panels[0].set_ylim(-0.02, 1.02)
    _finish(figure, lines, measure, title)
    return figure


def _draw_heads(axes: Any, epochs: Sequence[int], values_EH: np.ndarray) -> dict[str, Any]:
    """A line for each head, and one for the mean of those that have a value."""
    marker = "." if len(epochs) == 1 else None
    count_E = np.isfinite(values_EH).sum(1)
    mean_E = np.where(count_E, np.nansum(values_EH, 1) / np.maximum(count_E, 1), np.nan)
    (mean,) = axes.plot(epochs, mean_E, color="0.8", linewidth=5, marker=marker)
    lines = {"mean of the heads": mean}
    styles = cycle(product(_STYLES, COLORS))
    for head, (style, color) in zip(range(values_EH.shape[1]), styles, strict=False):
        look: dict[str, Any] = {"color": color, "linewidth": 1.3, "marker": marker}
        (lines[f"head {head}"],) = axes.plot(epochs, values_EH[:, head], style, **look)
    return lines


def draw_now(values: Values, measure: str, title: str = "") -> Figure:
    """Draw a column for each block, with a mark for each head.

    Args:
        values: of `values_now`.
        measure: one of `LABELS`.
    """
    heads = max(map(len, values.values()))
    width = max(4.5, 1.4 + len(values) * max(0.5, 0.09 * heads))
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    axes = figure.subplots()
    marks: dict[str, Any] = {}
    shifts = np.linspace(-0.35, 0.35, heads) if heads > 1 else np.zeros(1)
    styles = cycle(product(_MARKERS, COLORS))
    for head, (shift, (marker, color)) in enumerate(zip(shifts, styles, strict=False)):
        own = {c: one[head] for c, one in enumerate(values.values()) if head < len(one)}
        look: dict[str, Any] = {"color": color, "markersize": 5}
        places = [column + shift for column in own]
        (marks[f"head {head}"],) = axes.plot(places, _numbers([*own.values()]), marker, **look)
    axes.set_xticks(range(len(values)), list(values), rotation=40, ha="right", fontsize=8)
    axes.grid(alpha=0.3, axis="y")
    if measure == GATE:
        axes.set_ylim(-0.02, 1.02)
    _finish(figure, marks, measure, title)
    return figure


def _way(known: Collection[str]) -> str:
    return f"--measure can be {', '.join(name for name in LABELS if name in known)}"


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _finish(figure: Figure, handles: Mapping[str, Any], measure: str, title: str) -> None:
    figure.supylabel(LABELS[measure], fontsize=10)
    figure.suptitle(title, fontsize=11)
    columns = min(len(handles), max(2, int(figure.get_figwidth() / 1.1)))
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "fontsize": 8}
    figure.legend(list(handles.values()), list(handles), **place)
