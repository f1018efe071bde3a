"""Line charts of a report: where lines and ticks are in a chart, as fractions of its size.

The template draws them as SVG, so that they follow the page's width and colors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from typing import Any

from matplotlib.ticker import MaxNLocator

from passl.analysis.curves import Metrics

COLORS = 7
"""Colors of lines in the template's style sheet."""
_DASHES = ("", "7 4", "2 4", "9 4 2 4")
_MOST_POINTS = 800
"""Points of a line; of more, the lowest and the highest in each of half as many parts are kept."""
_SIZE = 1000
"""Width and height of the chart in the units of its SVG."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Args:
        name: for the legend.
        xs, ys: the values, after `_thinned`.
        path: of SVG.
        color: index of the color.
        dash: of SVG, empty for none.
    """

    name: str
    xs: list[float]
    ys: list[float]
    path: str
    color: int
    dash: str


@dataclass(frozen=True)
class Chart:
    """A chart of lines over epochs.

    Args:
        title: what is drawn.
        unit: behind a value, such as `%`.
        lines: with at least one point each.
        x_ticks, y_ticks: text and place of each, the place in percent from the left or from below.
        x_range: the values at the left and at the right end.
    """

    title: str
    unit: str
    lines: list[Line]
    x_ticks: list[tuple[str, float]]
    y_ticks: list[tuple[str, float]]
    x_range: tuple[float, float]

    @property
    def summary(self) -> str:
        """The first and the last value of each line, for those who do not see the chart."""
        ends = [
            f"{line.name} from {line.ys[0]:.4g} to {line.ys[-1]:.4g}{self.unit}"
            for line in self.lines
        ]
        return f"{self.title} over {self.x_range[1]:.4g} epochs: {'; '.join(ends)}"

    def data(self) -> dict[str, Any]:
        """What the script needs to show values."""
        return {
            "range": self.x_range,
            "unit": self.unit,
            "lines": [[line.xs, line.ys] for line in self.lines],
        }


def chart(title: str, lines: Sequence[tuple[str, Points]], unit: str = "") -> Chart | None:
    """Lay out a chart; null if no line has a finite point.

    Args:
        lines: name and points (epoch, value) of each.
    """
    found = [
        (name, _thinned([p for p in points if all(map(math.isfinite, p))]))
        for name, points in lines
    ]
    found = [(name, points) for name, points in found if points]
    if not found:
        return None
    xs, ys = zip(*(point for _, points in found for point in points), strict=True)
    left, right = 0.0, max(xs) or 1.0  # epoch 0 alone: before the first step
    y_ticks = _ticks(min(ys), max(ys), 5)
    low, high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def place(x: float, y: float) -> str:
        across = _SIZE * (x - left) / (right - left)
        return f"{across:.1f} {_SIZE * (1 - (y - low) / (high - low)):.1f}"

    drawn = []
    for (name, points), (dash, color) in zip(found, cycle(product(_DASHES, range(COLORS)))):
        # A line of one point is drawn as a dot.
        path = "M" + "L".join(place(*point) for point in [points[0], *points])
        own_xs, own_ys = ([point[axis] for point in points] for axis in (0, 1))
        drawn.append(Line(name, own_xs, own_ys, path, color, dash))
    return Chart(
        title,
        unit,
        drawn,
        _placed([tick for tick in _ticks(left, right, 8) if tick <= right], left, right),
        _placed([tick for tick in y_ticks if low <= tick <= high], low, high),
        (left, right),
    )


def charts_of_run(metrics: Metrics) -> list[Chart]:
    """The charts of one run: losses, scores, other values of its evaluations, learning rate and
    throughput.
    """
    shown = metrics.task.shown
    known = {"phase", "step", "time", "epoch", "loss", "samples", "ips", *shown}
    others = dict.fromkeys(
        key
        for row in metrics.val
        for key, value in row.items()
        if key not in known and isinstance(value, float)
    )
    losses = [
        ("training (as augmented and smoothed)", metrics.points("train", "loss")),
        ("validation", metrics.points("val", "loss")),
    ]
    scores = [(title, metrics.points("val", key)) for key, title in shown.items()]
    found = [
        chart("Loss", losses),
        chart("Validation scores", scores, " %"),
        *(
            chart(key.replace("_", " "), [(key.replace("_", " "), metrics.points("val", key))])
            for key in others
        ),
        chart("Learning rate", [("learning rate", metrics.points("train", "lr"))]),
        chart("Training throughput", [("images/s", metrics.points("train", "ips"))]),
    ]
    return [each for each in found if each]


def charts_of_runs(runs: Sequence[tuple[str, Metrics]]) -> list[Chart]:
    """The charts of several runs, a line for each run."""
    scores = {task.best: task.shown[task.best] for task in (run.task for _, run in runs)}
    kinds = [
        ("Training loss (as augmented and smoothed)", "train", "loss", ""),
        ("Validation loss", "val", "loss", ""),
        *((f"Validation {title}", "val", key, " %") for key, title in scores.items()),
        ("Learning rate", "train", "lr", ""),
        ("Training throughput in images/s", "train", "ips", ""),
    ]
    found = [
        chart(title, [(name, run.points(phase, key)) for name, run in runs], unit)
        for title, phase, key, unit in kinds
    ]
    return [each for each in found if each]


def _thinned(values: Points) -> Points:
    if len(values) <= _MOST_POINTS:
        return values
    size = math.ceil(2 * len(values) / _MOST_POINTS)
    parts = (values[start : start + size] for start in range(0, len(values), size))
    kept: list[tuple[float, float]] = []
    for part in parts:
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return list(dict.fromkeys([values[0], *kept, values[-1]]))


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers that cover a range, which is widened if it is empty."""
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    return list(map(float, MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)))


def _placed(ticks: Iterable[float], low: float, high: float) -> list[tuple[str, float]]:
    return [(f"{tick:.6g}", 100 * (tick - low) / (high - low)) for tick in ticks]
