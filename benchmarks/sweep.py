"""The plot of a sweep: time and memory over image size or batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from passl.io.files import write_atomically

LABELS = {"size": "image height and width in pixels", "batch": "images of a batch"}


def plot_sweep(
    name: str,
    values: Sequence[int],
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    title: str,
    out: Path,
) -> None:
    """Draw process time per image (median, smallest and largest run) and peak memory.

    Args:
        name: of the swept quantity, a key of LABELS.
        values: of this quantity.
        found: part -> `speed.measure`'s result and the `batch` for each value, or `{"error": ...}`
            for what could not run, which is left out.
        title: above the plot.
        out: the PNG to write.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    times, memory = figure.subplots(1, 2)
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
    write_atomically(out, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
