"""The figures of the study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from passl.io.figures import save_figure
from studies.fashion.plan import NETWORKS, Plan
from studies.fashion.results import Results
from studies.intervals import mean_and_deviation

# Okabe and Ito, "Color Universal Design", 2008.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442", "#000000")


def plot_accuracy(results: Results, plan: Plan, out: Path) -> None:
    """Top-1 over the part of the training set: the mean of each network with its standard deviation
    as error bars, and every run as a dot.
    """
    figure = Figure(figsize=(5.2 * len(plan.rows), 4.2), layout="constrained")
    panels = figure.subplots(1, len(plan.rows), squeeze=False)[0]
    for axes, tokens in zip(panels, plan.rows, strict=True):
        for place, (name, color) in enumerate(zip(NETWORKS, _COLORS, strict=False)):
            _draw_network(axes, results, plan, tokens, name, place, color)
        axes.set(xscale="log", xlabel="part of the training set", title=f"{tokens} tokens")
        axes.set_xticks(plan.fractions, [f"{fraction:.0%}" for fraction in plan.fractions])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("top-1 in per cent, mean ± standard deviation")
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(loc="lower right")
    save_figure(figure, out)


def _draw_network(
    axes: Any, results: Results, plan: Plan, tokens: int, name: str, place: int, color: str
) -> None:
    means, deviations, places = [], [], []
    for fraction in plan.fractions:
        values = list(results.scores(tokens, name, fraction).values())
        x = fraction * 1.05 ** (place - 1.5)  # the networks beside each other
        axes.plot([x] * len(values), values, ".", color=color, alpha=0.4)
        if len(values) > 1:
            mean, deviation = mean_and_deviation(values)
            means.append(mean)
            deviations.append(deviation)
            places.append(x)
    if means:
        title = NETWORKS[name].title
        axes.errorbar(places, means, deviations, capsize=3, marker="o", color=color, label=title)


def plot_gates(results: Results, tokens: int, out: Path) -> None:
    """The gates of ConViT's local blocks over a run, as in the paper's figure 6: a line for each
    head, black for their mean, a row of panels for each part of the training set.
    """
    found = [gates for gates in results.gates if gates["tokens"] == tokens]
    blocks = np.shape(found[0]["values"])[1]
    size = (2.6 * blocks + 0.6, 1.7 * len(found) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(found), blocks, sharex=True, sharey=True, squeeze=False)
    for panels, gates in zip(grid, found, strict=True):
        values_TLH = np.asarray(gates["values"])
        for block, axes in enumerate(panels):
            for head, color in zip(values_TLH[:, block].T, _COLORS * 4, strict=False):
                axes.plot(gates["steps"], head, color=color, linewidth=1)
            axes.plot(gates["steps"], values_TLH[:, block].mean(-1), color="black", linewidth=2)
            axes.set(ylim=(0, 1))
            axes.grid(alpha=0.3)
        panels[0].set_ylabel(f"{gates['fraction']:.0%} of the data\nattention to position")
    for block, axes in enumerate(grid[0]):
        axes.set_title(f"block {block + 1}")
    for axes in grid[-1]:
        axes.set_xlabel("step")
    save_figure(figure, out)
