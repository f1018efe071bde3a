"""The curves of a run, or of several in one figure, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from passl.engine.metrics import METRICS, read_metrics
from passl.errors import ConfigError
from passl.evaluation.scores import TASKS, task_of_row
from passl.evaluation.task import Task
from passl.io.files import write_atomically
from passl.io.fonts import fonts_for
from passl.logging import printable

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito, "Color Universal Design", 2008, without yellow, which is too light for a line."""
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

    def draw(self, axes: Any, phase: str, key: str, **style: Any) -> None:
        """Draw a metric over the epochs.

        Args:
            phase: `train` or `val`.
            key: of the rows; those without it are left out.
            style: options of `axes.plot`.
        """
        steps_per_epoch = self.val[0]["step"] / self.val[0]["epoch"]
        rows = [row for row in getattr(self, phase) if key in row]
        axes.plot([r["step"] / steps_per_epoch for r in rows], [r[key] for r in rows], **style)


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


def plot_curves(folder: Path, out: Path) -> None:
    """Draw loss, scores and learning rate of a run over its epochs.

    Args:
        folder: of the run.
        out: the PNG to write.

    Raises:
        ConfigError: the folder holds no run, or one without a finished epoch.
    """
    metrics, title = read_run(folder), printable(folder.resolve().name)
    if not metrics.is_drawable:
        raise ConfigError(f"{folder}: the run has not finished an epoch yet")
    with fonts_for([title]):
        _save(_figure_of_one(metrics, title), out)


def plot_runs(runs: Sequence[tuple[str, Metrics]], out: Path) -> None:
    """Draw loss, selecting score and learning rate of several runs over their epochs.

    Args:
        runs: name and metrics of each; runs without a finished epoch are left out.
        out: the PNG to write.

    Raises:
        ConfigError: no run has finished an epoch.
    """
    shown = [(printable(name), metrics) for name, metrics in runs if metrics.is_drawable]
    if not shown:
        raise ConfigError("no run has finished an epoch yet: there are no curves to draw")
    with fonts_for([name for name, _ in shown]):
        _save(_figure_of_several(shown), out)


def _save(figure: Figure, out: Path) -> None:
    def write(temporary: Path) -> None:
        figure.savefig(temporary, dpi=110, format="png", bbox_inches="tight")

    write_atomically(out, write)


def _figure_of_one(metrics: Metrics, title: str) -> Figure:
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    losses, scores, rate = figure.subplots(1, 3)
    metrics.draw(losses, "train", "loss", label="training (as augmented and smoothed)")
    metrics.draw(losses, "val", "loss", label="validation")
    _finish(losses, title="Loss", ylim=(0, None))
    losses.legend()
    for key, label in metrics.task.shown.items():
        metrics.draw(scores, "val", key, label=label)
    _mark_best(scores, metrics, color="C0", label=_best(metrics))
    _finish(scores, title="Validation scores in %", ylim=(None, 101))
    scores.legend(loc="lower right")
    metrics.draw(rate, "train", "lr")
    _finish(rate, title="Learning rate", ylim=(0, None))
    figure.suptitle(title, fontsize=9)
    return figure


def _figure_of_several(runs: Sequence[tuple[str, Metrics]]) -> Figure:
    figure = Figure(figsize=(13, 8))
    (train_loss, val_loss), (score, rate) = figure.subplots(2, 2)
    figure.subplots_adjust(hspace=0.28, wspace=0.14)
    styles = cycle(product(_STYLES, _COLORS))
    for (name, metrics), (linestyle, color) in zip(runs, styles, strict=False):
        style = {"color": color, "linestyle": linestyle, "linewidth": 1.4}
        label = f"{name} ({_best(metrics)})"
        metrics.draw(train_loss, "train", "loss", label=label, **style)
        metrics.draw(val_loss, "val", "loss", **style)
        metrics.draw(score, "val", metrics.task.best, **style)
        metrics.draw(rate, "train", "lr", **style)
        _mark_best(score, metrics, color=color, markersize=5)
    _finish(train_loss, title="Training loss (as augmented and smoothed)", ylim=(0, None))
    _finish(val_loss, title="Validation loss", ylim=(0, None))
    titles = dict.fromkeys(metrics.task.shown[metrics.task.best] for _, metrics in runs)
    _finish(score, title=f"Validation {' / '.join(titles)} in %", ylim=(None, 101))
    _finish(rate, title="Learning rate", ylim=(0, None))
    handles, labels = train_loss.get_legend_handles_labels()
    columns = max(1, min(4, len(runs), _LEGEND // (max(map(len, labels)) + 8)))
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.06)}
    figure.legend(handles, labels, ncols=columns, fontsize=9, handlelength=3.5, **place)
    return figure


def _best(metrics: Metrics) -> str:
    best, key = metrics.best, metrics.task.best
    return f"best: {best[key]:.2f} % in epoch {best['epoch']}" if best else f"no {key}"


def _mark_best(axes: Any, metrics: Metrics, **style: Any) -> None:
    if metrics.best is not None:
        axes.plot(metrics.best["epoch"], metrics.best[metrics.task.best], "o", **style)


def _finish(axes: Any, **options: Any) -> None:
    axes.set(xlabel="epoch", **options)
    axes.grid(alpha=0.3)
    axes.set_xlim(0, None)
