"""Draw the figures of README.md and docs/networks.md: python docs/figures/draw.py

Each function draws one figure. The numbers in them are computed: the attention maps by the formula
that the network uses, the sizes by the strides of the stages.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

OUT = Path(__file__).resolve().parents[1] / "images"
# Okabe and Ito's colours, which people with colour blindness tell apart.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#9A9A9A"


def box(axes, x: float, y: float, width: float, height: float, text: str, color: str, **style):
    """A rounded box with text, lower left corner at (x, y)."""
    patch = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=matplotlib.colors.to_rgba(color, 0.18),
        edgecolor=color,
        linewidth=1.4,
    )
    axes.add_patch(patch)
    axes.text(
        x + width / 2, y + height / 2, text, ha="center", va="center", **{"fontsize": 9, **style}
    )


def arrow(axes, start: tuple[float, float], end: tuple[float, float], color: str = "black") -> None:
    """An arrow between two points."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.1})


def canvas(width: float, height: float):
    """An empty figure whose units are inches."""
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
    return figure, axes


def save(figure, name: str) -> None:
    """Write the figure as PNG into docs/images."""
    figure.savefig(OUT / name, dpi=130, facecolor="white")
    plt.close(figure)


def grid(axes, x: float, y: float, size: float, cells: int, color: str) -> None:
    """A square of cells x cells tokens."""
    step = size / cells
    for row in range(cells):
        for column in range(cells):
            axes.add_patch(
                plt.Rectangle(
                    (x + column * step, y + row * step),
                    step * 0.9,
                    step * 0.9,
                    facecolor=matplotlib.colors.to_rgba(color, 0.6),
                    linewidth=0,
                    snap=False,  # else small cells differ by whole pixels
                )
            )


def convit() -> None:
    """ConViT from left to right: patches, GPSA blocks, the class token, SA blocks, the head."""
    figure, axes = canvas(11, 3.1)
    grid(axes, 0.25, 1.0, 1.15, 7, BLUE)
    axes.text(0.83, 0.72, "image 224 x 224\n14 x 14 patches", ha="center", va="top", fontsize=8)
    box(
        axes,
        1.75,
        1.1,
        1.25,
        0.95,
        "patch embedding\nconv 16 x 16 / 16\n+ position",
        BLUE,
        fontsize=8,
    )
    box(axes, 3.45, 1.1, 2.05, 0.95, "10 x GPSA block\n196 tokens", ORANGE)
    box(axes, 6.45, 1.1, 1.6, 0.95, "2 x SA block\n197 tokens", GREEN)
    box(axes, 8.5, 1.1, 0.85, 0.95, "LayerNorm", GREY, fontsize=8)
    box(axes, 9.8, 1.1, 0.95, 0.95, "head\nLinear", PINK, fontsize=8)
    box(axes, 5.5, 2.4, 0.95, 0.4, "class token", PINK, fontsize=8)
    for start, end in ((1.42, 1.75), (3.0, 3.45), (5.5, 6.45), (8.05, 8.5), (9.35, 9.8)):
        arrow(axes, (start, 1.57), (end, 1.57))
    arrow(axes, (5.97, 2.4), (5.97, 1.62), PINK)
    axes.text(9.58, 1.68, "class\ntoken", ha="center", va="bottom", fontsize=7)
    axes.text(
        4.47,
        0.95,
        "attention = (1 - g) content + g position\n"
        "one gate g = sigmoid(λ) per head\nstarts as a convolution",
        ha="center",
        va="top",
        fontsize=8,
        color="#8a5f00",
    )
    axes.text(7.25, 0.95, "plain self-attention", ha="center", va="top", fontsize=8, color=GREEN)
    axes.text(0.25, 2.75, "ConViT", fontsize=13, weight="bold")
    save(figure, "convit.png")


def cvt() -> None:
    """CvT from left to right: three stages, each a strided convolution and its blocks."""
    figure, axes = canvas(11, 3.4)
    stages = (
        ("conv 7 x 7 / 4", 64, 1, 56, 8),
        ("conv 3 x 3 / 2", 192, 2, 28, 5),
        ("conv 3 x 3 / 2", 384, 10, 14, 3),
    )
    x = 1.25
    axes.text(0.62, 1.62, "image\n224 x 224\nx 3", ha="center", va="center", fontsize=9)
    for number, (conv, width, depth, side, cells) in enumerate(stages, 1):
        arrow(axes, (x - 0.2, 1.62), (x, 1.62))
        box(axes, x, 1.15, 0.95, 0.95, f"{conv}\n+ LayerNorm", BLUE, fontsize=8)
        arrow(axes, (x + 0.95, 1.62), (x + 1.15, 1.62))
        box(axes, x + 1.15, 1.15, 1.35, 0.95, f"{depth} x block\nwidth {width}", ORANGE)
        grid(axes, x + 1.55, 0.3, 0.5, cells, GREEN)
        axes.text(x + 1.45, 0.55, f"{side} x {side}\ntokens", ha="right", va="center", fontsize=8)
        axes.text(x, 2.55, f"stage {number}", fontsize=10, weight="bold")
        x += 2.75
    box(axes, 8.1, 2.5, 0.95, 0.4, "class token", PINK, fontsize=8)
    arrow(axes, (8.57, 2.5), (8.57, 2.12), PINK)
    arrow(axes, (9.25, 1.62), (9.5, 1.62))
    box(axes, 9.5, 1.15, 1.2, 0.95, "LayerNorm\nof class token\nhead", PINK, fontsize=8)
    axes.text(0.25, 3.05, "CvT-13", fontsize=13, weight="bold")
    axes.text(
        6.0,
        3.15,
        "queries, keys and values: depthwise conv 3 x 3, keys and values with stride 2",
        fontsize=8,
        ha="center",
    )
    save(figure, "cvt.png")


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def along(weight_linear: float, weight_square: float, at: int, length: int) -> np.ndarray:
    """Positional attention of the token `at` along one axis of `length` tokens."""
    d = np.arange(length) - at
    return softmax(weight_linear * d + weight_square * d**2)


def gpsa() -> None:
    """One head's positional attention as the product of a column and a row, and the gate."""
    side, at = 14, 6
    # A head that looks two patches to the right and one down, by the paper's initialisation
    # (equation 8 of arXiv 2103.10697) with locality strength 0.25, so that its width shows.
    strength, center = 0.25, (2, 1)
    p_x = along(2 * strength * center[0], -strength, at, side)
    p_y = along(2 * strength * center[1], -strength, at, side)
    position = np.outer(p_y, p_x)
    rng = np.random.default_rng(3)
    smooth = rng.normal(size=(side, side))
    for _ in range(2):
        smooth = (smooth + sum(np.roll(smooth, s, a) for s in (1, -1) for a in (0, 1))) / 2
    content = softmax(smooth.reshape(-1) * 1.2).reshape(side, side)

    figure = plt.figure(figsize=(11, 5.6))
    top = figure.add_gridspec(
        1, 3, left=0.06, right=0.62, top=0.87, bottom=0.55, width_ratios=[0.25, 1, 1], wspace=0.35
    )
    panels = [figure.add_subplot(top[0, i]) for i in range(3)]
    panels[0].imshow(p_y[:, None], cmap="viridis")
    panels[0].set_title("$P_y$", fontsize=9)
    panels[1].imshow(p_x[None, :], cmap="viridis")
    panels[1].set_title("$P_x$", fontsize=9)
    panels[2].imshow(position, cmap="viridis")
    panels[2].set_title("$P = P_y ⊗ P_x$: 14 x 14 weights", fontsize=9)
    panels[2].plot(at, at, "o", markerfacecolor="none", markeredgecolor="white", markersize=6)
    for panel in panels:
        panel.set_xticks([])
        panel.set_yticks([])
    figure.text(
        0.64,
        0.72,
        "The positional score of a head is\n"
        r"$w_0\,d_x + w_1\,d_y + w_2\,(d_x^2 + d_y^2)$,"
        "\na function of $d_x$ plus a function of $d_y$.\n"
        "So its softmax over the grid is the product\nof a softmax over the column and one over\n"
        "the row. The circle is the query's patch.",
        fontsize=9.5,
        va="center",
    )
    row = figure.add_gridspec(1, 5, left=0.06, right=0.97, top=0.42, bottom=0.06, wspace=0.15)
    gates = (("content attention", 0.0), ("g = 0.25", 0.25), ("g = 0.5", 0.5))
    gates += (("g = 0.73, the start", 1 / (1 + np.exp(-1))), ("position alone", 1.0))
    for index, (title, gate) in enumerate(gates):
        panel = figure.add_subplot(row[0, index])
        mixed = (1 - gate) * content + gate * position
        panel.imshow(mixed, cmap="viridis")
        panel.set_title(title, fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
    figure.text(0.06, 0.955, "Positional attention is separable", fontsize=12, weight="bold")
    figure.text(
        0.06,
        0.475,
        r"The gate mixes it with content attention: $(1-g)\,$softmax$(QK^T/\sqrt{d}) + g\,P$,"
        r" $g = \sigma(\lambda)$ per head",
        fontsize=12,
        weight="bold",
    )
    save(figure, "gpsa.png")


def heads() -> None:
    """Where the nine heads of ConViT-S look before training: the pixels of a 3 x 3 convolution."""
    side, at = 14, 6
    figure, panels = plt.subplots(3, 3, figsize=(4.6, 4.9))
    for head in range(9):
        dx, dy = head // 3 - 1, head % 3 - 1
        panel = panels[dy + 1, dx + 1]
        attention = np.outer(along(2 * dy, -1, at, side), along(2 * dx, -1, at, side))
        panel.imshow(attention, cmap="viridis")
        panel.plot(at, at, "o", markerfacecolor="none", markeredgecolor="white", markersize=5)
        panel.set_title(f"head {head}: ({dx:+d}, {dy:+d})", fontsize=8)
        panel.set_xticks([])
        panel.set_yticks([])
    figure.suptitle("Positional attention of ConViT-S at the start", fontsize=10, weight="bold")
    figure.tight_layout()
    save(figure, "gpsa_heads.png")


def projection() -> None:
    """CvT's convolutional projection: the map of tokens to queries, keys and values."""
    figure, axes = canvas(9.5, 3.6)
    grid(axes, 0.3, 1.1, 1.4, 8, BLUE)
    axes.text(1.0, 0.95, "tokens as a map\n[C, 56, 56]", ha="center", va="top", fontsize=9)
    rows = (
        ("Q", 2.45, "stride 1", 8, "56 x 56 queries"),
        ("K", 1.45, "stride 2", 4, "28 x 28 keys"),
        ("V", 0.45, "stride 2", 4, "28 x 28 values"),
    )
    for letter, y, stride, cells, text in rows:
        arrow(axes, (1.75, 1.8), (2.25, y + 0.35))
        box(axes, 2.25, y, 1.75, 0.7, f"depthwise 3 x 3\n{stride}, BatchNorm", ORANGE, fontsize=8)
        arrow(axes, (4.0, y + 0.35), (4.35, y + 0.35))
        box(axes, 4.35, y, 0.9, 0.7, f"Linear {letter}", GREEN, fontsize=9)
        arrow(axes, (5.25, y + 0.35), (5.6, y + 0.35))
        grid(axes, 5.65, y + 0.05, 0.6, cells, BLUE)
        axes.text(6.4, y + 0.35, text, va="center", fontsize=8.5)
        arrow(axes, (7.55, y + 0.35), (8.0, 1.8))
    box(axes, 8.0, 1.35, 1.3, 0.9, "multi-head\nattention", PINK)
    axes.text(
        0.3, 3.3, "Convolutional projection (stage 1 at 224 x 224)", fontsize=11, weight="bold"
    )
    save(figure, "cvt_projection.png")


if __name__ == "__main__":
    for draw in (convit, cvt, gpsa, heads, projection):
        draw()
