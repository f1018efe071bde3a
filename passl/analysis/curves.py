"""The curves of a run, or of several in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from passl.analysis.figures import COLORS
from passl.engine.metrics import METRICS, read_metrics
from passl.errors import ConfigError
from passl.evaluation.scores import TASKS, task_of_row
from passl.evaluation.task import Task
from passl.io.figures import save_figure
from passl.logging import printable

_STYLES = ("-", "--", ":", "-.")
_LEGEND = 150
"""Characters of a row of the legend of several runs."""


@dataclass(frozen=True)
class Metrics:
    """The rows of a run's metrics.

    Args:
        train: a row for each logged interval.
        val: a row for each evaluation.
    """

    train: list[dict[str, Any]]
    val: list[dict[str, Any]]

    @property
    def is_drawable(self) -> bool:
        """Whether an epoch is finished, so that steps can be shown as epochs."""
        return bool(self.train and self.val)

    @property
    def task(self) -> Task:
        """That of the run; classification if it has no evaluation."""
        found = filter(None, map(task_of_row, self.val))
        return next(found, TASKS["classification"])

    @property
    def best(self) -> dict[str, Any] | None:
        """The first evaluation with the highest selecting score; null if there is none."""
        scored = [row for row in self.val if self.task.best in row]
        return max(scored, key=lambda row: row[self.task.best], default=None)

    def points(self, phase: str, key: str) -> list[tuple[float, float]]:
        """Epoch and value of each row that has the value; nothing before the first evaluation.

        Args:
            phase: `train` or `val`.
        """
        if not self.val:
            return []
        steps = self.val[0]["step"] / self.val[0]["epoch"]
        return [(row["step"] / steps, row[key]) for row in getattr(self, phase) if key in row]


def read_run(folder: Path) -> Metrics:
    """The metrics of a run.

    Raises:
        ConfigError: the folder holds no run.
    """
    if not (folder / METRICS).is_file():
        raise ConfigError(f"{folder}: holds no {METRICS}; name the output_dir of a training run")
    rows = [row for row in read_metrics(folder) if row.get("epoch", 0) > 0 and row["step"] > 0]
    train, val = ([row for row in rows if row["phase"] == phase] for phase in ("train", "val"))
    return Metrics(train, val)


def plot_runs(runs: Sequence[tuple[str, Metrics]], out: Path) -> None:
    """Write `figure_of_runs`, as PNG or SVG."""
    save_figure(figure_of_runs(runs), out)


def figure_of_runs(runs: Sequence[tuple[str, Metrics]]) -> Figure:
    """Draw loss, selecting score and learning rate of one or several runs over their epochs.

    Args:
        runs: name and metrics of each; runs without a finished epoch are left out.

    Raises:
        ConfigError: no run has finished an epoch.
    """
    runs = [(printable(name), metrics) for name, metrics in runs if metrics.is_drawable]
    if not runs:
        raise ConfigError("no run has finished an epoch yet: there are no curves to draw")
    figure = Figure(figsize=(13, 8))
    (train_loss, val_loss), (score, rate) = figure.subplots(2, 2)
    figure.subplots_adjust(hspace=0.28, wspace=0.14)
    styles = cycle(product(_STYLES, COLORS))
    for (name, metrics), (linestyle, color) in zip(runs, styles, strict=False):
        style = {"color": color, "linestyle": linestyle, "linewidth": 1.4}
        best, key = metrics.best, metrics.task.best
        scored = f"best: {best[key]:.2f} % in epoch {best['epoch']}" if best else f"no {key}"
        for axes, phase, value in (
            (train_loss, "train", "loss"),
            (val_loss, "val", "loss"),
            (score, "val", key),
            (rate, "train", "lr"),
        ):
            points = metrics.points(phase, value)
            axes.plot(*np.array(points).reshape(-1, 2).T, label=f"{name} ({scored})", **style)
        if best:
            score.plot(best["epoch"], best[key], "o", color=color, markersize=5)
    titles = dict.fromkeys(metrics.task.shown[metrics.task.best] for _, metrics in runs)
    for axes, title, ylim in (
        (train_loss, "Training loss (as augmented and smoothed)", (0, None)),
        (val_loss, "Validation loss", (0, None)),
        (score, f"Validation {' / '.join(titles)} in %", (None, 101)),
        (rate, "Learning rate", (0, None)),
    ):
        axes.set(xlabel="epoch", title=title, ylim=ylim)
        axes.grid(alpha=0.3)
        axes.set_xlim(0, None)
    handles, labels = train_loss.get_legend_handles_labels()
    columns = max(1, min(4, len(runs), _LEGEND // (max(map(len, labels)) + 8)))
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.06)}
    figure.legend(handles, labels, ncols=columns, fontsize=9, handlelength=3.5, **place)
    return figure
