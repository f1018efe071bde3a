"""The plot of a sweep: time and memory over image size or batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from passl.io.files import write_atomically

LABELS = {"size": "image height and width in pixels", "batch": "images of a batch"}


def plot_sweep(
    name: str,
    values: Sequence[int],
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    title: str,
    picture: Path,
) -> None:
    """Draw process time of an image, median with the smallest and the largest run, and peak memory.

    Args:
        name: what is swept, a key of LABELS.
        values: of it.
        found: part -> `speed.measure`'s result and the `batch` for each value, or `{"error": ...}`
            for what could not run, which is left out.
        title: above the plot.
        picture: the PNG to write.
    """
    figure, (times, memory) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for part, results in found.items():
        pairs = [pair for pair in zip(values, results, strict=True) if "error" not in pair[1]]
        x = [value for value, _ in pairs]
        low, middle, high = (
            [result["cpu_ms"][key] / result["batch"] for _, result in pairs]
            for key in ("low", "median", "high")
        )
        times.plot(x, middle, "o-", label=part)
        times.fill_between(x, low, high, alpha=0.2)
        peaks = [(value, r["peak_mib"]) for value, r in pairs if r["peak_mib"] is not None]
        memory.plot([value for value, _ in peaks], [peak for _, peak in peaks], "o-", label=part)
    times.set(title="Process time of an image in ms", xlabel=LABELS[name], ylim=(0, None))
    memory.set(title="Peak memory over the idle process in MiB", xlabel=LABELS[name])
    memory.set_ylim(0, None)
    for axes in (times, memory):
        axes.set_xticks(values)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title, fontsize=9)
    write_atomically(picture, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
    plt.close(figure)
