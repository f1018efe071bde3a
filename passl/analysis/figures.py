"""What figures share: colors, and panels with images in them.

A function that makes a figure takes plain data and returns matplotlib's `Figure`;
`passl.io.figures` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from passl.data.transforms.evaluation import transformed
from passl.data.transforms.normalize import Normalize
from passl.io.figures import DPI
from passl.logging import columns_of, printable, shortened

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito, "Color Universal Design", 2008, without yellow, which is too light for a line."""
SMALL = 96
"""Images up to this side are shown with their pixels as squares."""
HEAT = "viridis"
"""The color map of maps: perceptually uniform, and readable with any color vision."""
_ASPECT, _FILLED = 1.2, 4.0
"""Width over height that a figure of panels comes close to, and what an empty share of it costs."""
_PANELS_AREA = 110.0
"""Square inches that the panels of a figure share, within these sides of one."""
_SMALLEST, _LARGEST = 0.9, 2.8
_LINE = 0.17
"""Inches of a line of text of `_POINTS` points, of which a column takes `_COLUMN`."""
_POINTS, _COLUMN = 8, 0.066
_GAP = 0.06


@dataclass(frozen=True)
class Shown:
    """An image that a figure shows.

    Args:
        title: the class of its label, or its file's name.
        array: the network's input, float32 [channels, height, width].
        pixels: what is drawn of it, [height, width, 3 or 4] from 0 to 1.
        label: number of its class; null if it is not known.
    """

    title: str
    array: np.ndarray
    pixels: np.ndarray
    label: int | None = None


def pixels_of(array: np.ndarray, transforms: Sequence[Any]) -> np.ndarray:
    """Return the input of a network as pixels to draw, [height, width, 3 or 4] from 0 to 1. What
    is not normalized by passl's `Normalize` is stretched between its extremes.

    Args:
        array: what the transforms have made, [channels, height, width].
    """
    if transforms and isinstance(transforms[-1], Normalize):
        return transforms[-1].undo(array)
    pixels = array[:3].transpose(1, 2, 0) if len(array) >= 3 else array[:1].transpose(1, 2, 0)
    return np.repeat(stretched(pixels), 3 // pixels.shape[2], axis=2)


def as_shown(
    title: str, image: Image.Image, transforms: Sequence[Any], label: int | None = None
) -> Shown:
    """An image as the network gets it, to be drawn."""
    array = transformed(image, transforms)
    return Shown(title, array, pixels_of(array, transforms), label)


def stretched(values: np.ndarray) -> np.ndarray:
    """Return values shifted and scaled to 0 to 1; zeros if they are all the same."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / ((high - low) or 1.0)


@dataclass(frozen=True)
class Panel:
    """A small image with a title above it.

    Args:
        pixels: [height, width, 3 or 4] from 0 to 1.
        title: one line, shortened to the panel's width.
        smooth: whether its pixels are interpolated; false shows them as squares.
        mark: row and column in pixels where a cross is drawn.
    """

    pixels: np.ndarray
    title: str = ""
    smooth: bool = True
    mark: tuple[float, float] | None = None


@dataclass(frozen=True)
class Group:
    """Panels that belong together: rows of panels, with a title above all.

    Args:
        rows: each from left to right.
        title: one line, shortened to the group's width.
    """

    rows: Sequence[Sequence[Panel]]
    title: str = ""


def draw_panels(groups: Sequence[Group], title: str = "", note: str = "") -> Figure:
    """Draw groups of panels, as many beside each other as gives the figure a common shape. All
    panels have one size.

    Args:
        groups: at least one.
        title: above all.
        note: below all, what the colors mean; it is wrapped.
    """
    rows = max(len(group.rows) for group in groups)
    columns = max(len(row) for group in groups for row in group.rows)
    panels = [panel for group in groups for row in group.rows for panel in row]
    tallest = max(panel.pixels.shape[0] / panel.pixels.shape[1] for panel in panels)
    count = len(groups) * rows * columns
    side = math.sqrt(_PANELS_AREA / (count * max(tallest, 0.25)))
    width = min(max(side, _SMALLEST), _LARGEST)
    height = width * tallest + (_LINE if any(panel.title for panel in panels) else 0)
    group_width = columns * (width + _GAP)
    group_height = rows * (height + _GAP) + (_LINE if any(g.title for g in groups) else 0)

    def distortion(across: int) -> float:
        down = -(-len(groups) // across)
        empty = 1 - len(groups) / (across * down)
        shape = across * group_width / (down * group_height)
        return abs(math.log(shape / _ASPECT)) + _FILLED * empty

    across = min(range(1, len(groups) + 1), key=distortion)
    down = -(-len(groups) // across)
    gap = 0.12 if rows * columns > 1 else 0.0
    size = (across * (group_width + gap), down * (group_height + gap))
    figure, page = _page(size, title, note)
    for number, group in enumerate(groups):
        left = number % across * (group_width + gap)
        top = number // across * (group_height + gap)
        if group.title:
            page.text(left, top, group.title, group_width, weight="bold")
            top += _LINE
        for r, row in enumerate(group.rows):
            for c, panel in enumerate(row):
                place = (left + c * (width + _GAP), top + r * (height + _GAP))
                page.panel(panel, *place, width, height)
    return figure


def _page(size: tuple[float, float], title: str, note: str) -> tuple[Figure, _Page]:
    """A figure with room for content of that size in inches."""
    margin = 0.1
    width = max(size[0], 3.2)
    lines = _wrapped(note, width)
    above = 1.6 * _LINE if title else 0.0
    below = (len(lines) + 0.5) * _LINE if lines else 0.0
    full = (width + 2 * margin, size[1] + above + below + 2 * margin)
    figure = Figure(figsize=full, dpi=DPI)
    page = _Page(figure, margin, margin + above)
    if title:
        page.text(0, -above, title, width, points=_POINTS + 2)
    for number, line in enumerate(lines):
        page.text(0, size[1] + (number + 0.4) * _LINE, line, width, color="0.35")
    return figure, page


class _Page:
    """Places things on a figure, in inches from the top left of its content."""

    def __init__(self, figure: Figure, left: float, top: float):
        self._figure, self._left, self._top = figure, left, top

    def text(
        self,
        left: float,
        top: float,
        text: str,
        width: float,
        points: float = _POINTS,
        **style: Any,
    ) -> None:
        """A line whose upper left corner is there, shortened to a width."""
        full_width, full_height = self._figure.get_size_inches()
        x, y = (self._left + left) / full_width, 1 - (self._top + top) / full_height
        shown = shortened(printable(text), int(width * _POINTS / points / _COLUMN))
        self._figure.text(x, y, shown, fontsize=points, ha="left", va="top", **style)

    def panel(self, panel: Panel, left: float, top: float, width: float, height: float) -> None:
        if panel.title:
            self.text(left, top, panel.title, width)
        full_width, full_height = self._figure.get_size_inches()
        rows, columns = panel.pixels.shape[:2]
        inches = width * rows / columns
        box = (
            (self._left + left) / full_width,
            1 - (self._top + top + height) / full_height,
            width / full_width,
            inches / full_height,
        )
        axes = self._figure.add_axes(box)
        axes.set_axis_off()
        way = "antialiased" if panel.smooth else "nearest"
        axes.imshow(panel.pixels, aspect="auto", interpolation=way)
        if panel.mark is not None:
            row, column = panel.mark
            axes.plot(column, row, "x", color="white", markersize=7, markeredgewidth=3)
            axes.plot(column, row, "x", color="#D55E00", markersize=7, markeredgewidth=1.5)


def heat_over(pixels: np.ndarray, heat: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Return an image in gray with a map over it, [height, width, 3] from 0 to 1. The image has
    little contrast, so that the map's colors can be told on dark and on bright parts.

    Args:
        pixels: [height, width, 3 or 4] from 0 to 1.
        heat: [height, width] from 0 to 1.
    """
    gray = 0.2 + 0.6 * (pixels[..., :3] @ np.array([0.299, 0.587, 0.114]))
    colors = matplotlib.colormaps[HEAT](np.clip(heat, 0, 1))[..., :3]
    return (1 - opacity) * gray[..., None] + opacity * colors


def _wrapped(text: str, width: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and columns_of(longer) * _COLUMN <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
