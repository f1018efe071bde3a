"""The study of sample efficiency: its table and its plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from passl.io.files import write_atomically

# Student's t, two-sided 95 %, by degrees of freedom (any table of the distribution).
_T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}

Scores = Mapping[tuple[str, float], Sequence[float]]
"""(network, fraction of the samples) -> top-1 in per cent for each seed, in order of the seeds."""


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation of the sample (n - 1)."""
    return float(np.mean(values)), float(np.std(values, ddof=1))


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean of ours - theirs, and half the width of its 95 % confidence interval.

    Pairs share seed and samples; differences are taken as normal (Student's t). At most ten pairs.
    """
    differences = np.subtract(ours, theirs)
    mean, deviation = mean_and_deviation(differences)
    count = len(differences)
    return mean, _T_95[count - 1] * deviation / math.sqrt(count)


def table(scores: Scores, samples: Mapping[float, int], ours: str, theirs: str) -> str:
    """The Markdown table: one row for each fraction."""
    count = len(next(iter(scores.values())))
    lines = [
        f"| samples | {ours} | {theirs} | difference, 95 % interval of {count} pairs |",
        "|---:|---:|---:|---:|",
    ]
    for fraction in sorted({fraction for _, fraction in scores}):
        cells = [
            "{:.1f} ± {:.1f}".format(*mean_and_deviation(scores[name, fraction]))
            for name in (ours, theirs)
        ]
        mean, half = paired_difference(scores[ours, fraction], scores[theirs, fraction])
        lines.append(
            f"| {fraction:.0%} ({samples[fraction]:,}) | {cells[0]} | {cells[1]} | "
            f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f}) |"
        )
    return "\n".join(lines) + "\n"


def verdict(scores: Scores, ours: str, theirs: str) -> str:
    """State in words where the interval of the difference excludes 0."""
    better, worse, open_ = [], [], []
    for fraction in sorted({fraction for _, fraction in scores}):
        mean, half = paired_difference(scores[ours, fraction], scores[theirs, fraction])
        place = better if mean - half > 0 else worse if mean + half < 0 else open_
        place.append(f"{fraction:.0%}")

    def at(fractions: list[str]) -> str:
        return f"at {', '.join(fractions)} of the samples" if fractions else "nowhere"

    return (
        f"What it shows: {ours} is better than {theirs} {at(better)}, worse {at(worse)}; "
        f"{at(open_)} the interval holds 0, so these pairs do not tell."
    )


def plot(scores: Scores, samples: Mapping[float, int], out: Path) -> None:
    """Mean top-1 over the number of samples, with standard deviations as error bars, and every run
    as a dot.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(sorted({name for name, _ in scores})):
        fractions = sorted(fraction for other, fraction in scores if other == name)
        x = np.array([samples[fraction] for fraction in fractions]) * (1.03 if number else 1 / 1.03)
        summary = [mean_and_deviation(scores[name, fraction]) for fraction in fractions]
        means, deviations = np.transpose(summary)
        axes.errorbar(x, means, deviations, capsize=4, marker="o", label=name)
        for place, fraction in zip(x, fractions, strict=True):
            values = scores[name, fraction]
            axes.plot([place] * len(values), values, ".", color=f"C{number}", alpha=0.4)
    axes.set_xscale("log")
    axes.set_xticks([samples[f] for f in samples], [f"{samples[f]:,}\n{f:.0%}" for f in samples])
    axes.minorticks_off()
    axes.set_xlabel("training samples")
    axes.set_ylabel("top-1 in per cent, mean ± standard deviation")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    write_atomically(out, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
