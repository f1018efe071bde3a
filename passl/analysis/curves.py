"""The curves of a run as a PNG."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from passl.engine.metrics import METRICS, read_metrics
from passl.errors import ConfigError
from passl.io.files import write_atomically
from passl.io.fonts import fonts_for
from passl.logging import printable


def plot_curves(folder: Path, out: Path) -> None:
    """Draw loss, accuracy and learning rate of a run over its epochs.

    Args:
        folder: of the run.
        out: the PNG to write.

    Raises:
        ConfigError: the folder holds no run, or one without a finished epoch.
    """
    if not (folder / METRICS).is_file():
        raise ConfigError(f"{folder}: holds no {METRICS}; name the output_dir of a training run")
    rows = read_metrics(folder)
    train, val = ([row for row in rows if row["phase"] == phase] for phase in ("train", "val"))
    if not train or not val:
        raise ConfigError(f"{folder}: the run has not finished an epoch yet")
    title = printable(folder.resolve().name)
    with fonts_for([title]):
        _plot(train, val, title, out)


def _plot(train: list[dict], val: list[dict], title: str, out: Path) -> None:
    steps_per_epoch = val[0]["step"] / val[0]["epoch"]

    def draw(axes, rows, key, label):
        axes.plot(
            [row["step"] / steps_per_epoch for row in rows], [row[key] for row in rows], label=label
        )

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    losses, accuracy, rate = figure.subplots(1, 3)
    draw(losses, train, "loss", "training (as augmented and smoothed)")
    draw(losses, val, "loss", "validation")
    losses.set(title="Cross entropy", xlabel="epoch", ylim=(0, None))
    losses.legend()
    best = max(val, key=lambda row: row["top1"])
    draw(accuracy, val, "top1", "top-1")
    draw(accuracy, val, "top5", "top-5")
    accuracy.plot(
        best["epoch"],
        best["top1"],
        "o",
        color="C0",
        label=f"best: {best['top1']:.2f} % in epoch {best['epoch']}",
    )
    accuracy.set(title="Validation accuracy in %", xlabel="epoch", ylim=(None, 101))
    accuracy.legend(loc="lower right")
    draw(rate, train, "lr", "learning rate")
    rate.set(title="Learning rate", xlabel="epoch", ylim=(0, None))
    for axes in (losses, accuracy, rate):
        axes.grid(alpha=0.3)
        axes.set_xlim(0, None)
    figure.suptitle(title, fontsize=9)
    write_atomically(out, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
