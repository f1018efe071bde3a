"""Reliability diagrams: the accuracy of predictions by their confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from passl.evaluation.calibration import Calibration
from passl.io.figures import save_figure

# Okabe and Ito's colors, which people with any color vision can tell apart.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#999999"


def draw_calibration(out: Path, found: Sequence[Calibration]) -> None:
    """Draw a reliability diagram for each temperature: the accuracy of each bin beside its
    confidence, and the number of samples below.

    Args:
        out: the PNG to write.
    """
    figure = Figure(figsize=(1 + 5 * len(found), 7), layout="constrained")
    grid = figure.subplots(2, len(found), sharex=True, squeeze=False, height_ratios=(3, 1))
    for column, each in enumerate(found):
        _draw_reliability(grid[0, column], each)
        _draw_counts(grid[1, column], each)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, out)


def _draw_reliability(axes: Any, each: Calibration) -> None:
    bins, width = each.bins, 1 / len(each.bins.counts)
    there = bins.counts > 0
    centers = (np.arange(len(bins.counts))[there] + 0.5) * width
    accuracy, confidence = bins.accuracy[there], bins.confidence[there]
    axes.bar(centers, accuracy, 0.9 * width, color=_BLUE, label="accuracy of the bin")
    axes.plot([0, 1], [0, 1], "--", color=_GREY, label="perfect calibration")
    axes.vlines(confidence, accuracy, confidence, color=_ORANGE, linewidth=1.5)
    axes.plot(confidence, confidence, "D", color=_ORANGE, markersize=5, label="mean confidence")
    title = "the network's own probabilities"
    if each.temperature != 1:
        fitted = ", fitted on these images" * each.is_fitted
        title = f"temperature {each.temperature:.4g}{fitted}"
    summary = (
        "ECE {ece:.2f} %, MCE {mce:.2f} %, NLL {nll:.4f}, Brier {brier:.4f}\n"
        "mean confidence {confidence:.2f} %, accuracy {accuracy:.2f} %"
    ).format(**each.to_dict())
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.set_title(f"{title}\n{summary}", fontsize=10)


def _draw_counts(axes: Any, each: Calibration) -> None:
    counts = each.bins.counts
    centers = (np.arange(len(counts)) + 0.5) / len(counts)
    bars = axes.bar(centers, counts, 0.9 / len(counts), color=_GREY)
    axes.bar_label(bars, [str(count) if count else "" for count in counts], fontsize=7)
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:,.0f}")  # no formula, which `save_figure` would not set
    axes.set(ylim=(0, 6 * counts.max()), xlabel="confidence", ylabel="images")
