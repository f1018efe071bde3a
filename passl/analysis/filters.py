"""The kernels of the first convolution, which every pixel of an image goes through."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from paddle import nn

from passl.analysis.figures import Group, Panel, draw_panels
from passl.errors import ConfigError


def first_kernels(backbone: nn.Layer) -> np.ndarray:
    """The weights of a backbone's first convolution, [filters, channels, height, width].

    Raises:
        ConfigError: it has none, or one that does not see images.
    """
    found = (layer for layer in backbone.sublayers() if isinstance(layer, nn.Conv2D))
    conv = next(found, None)
    if conv is None:
        raise ConfigError(f"{type(backbone).__name__} has no convolution, so there are no filters")
    return conv.weight.numpy().astype(np.float32)


def ordered(kernels: np.ndarray) -> np.ndarray:
    """Indices of kernels from the largest deviation of their weights to the smallest: those that
    have learned nothing, or have decayed, come last.
    """
    deviations = kernels.reshape(len(kernels), -1).std(1)
    return np.argsort(-deviations, kind="stable")


def draw_filters(kernels: np.ndarray, title: str = "") -> Figure:
    """Draw kernels as images, ordered by `ordered`. Three channels are red, green and blue; others
    are drawn as their mean, in gray.

    Args:
        kernels: [filters, channels, height, width].
    """
    images = kernels.transpose(0, 2, 3, 1)
    if images.shape[3] != 3:
        images = np.repeat(images.mean(3, keepdims=True), 3, axis=3)
    panels = []
    for index in ordered(kernels):
        most = np.abs(images[index]).max() or 1.0
        panels.append(Panel(0.5 + 0.5 * images[index] / most, str(index), smooth=False))
    note = (
        "One square is the kernel of one output channel, whose number is above it. Each is scaled "
        "on its own: mid-gray is weight 0. The order is that of the weights' standard deviation, "
        "the largest first."
    )
    return draw_panels([Group([[panel]]) for panel in panels], title, note)
