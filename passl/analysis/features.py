"""The features of a layer as colors: their first three principal components over all images
together, so that patches with like features have like colors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from matplotlib.figure import Figure
from paddle import nn

from passl.analysis.attention import check_forward
from passl.analysis.figures import Group, Panel, Shown, draw_panels
from passl.analysis.layers import LayerPoint, recorded

_BATCH = 16


def feature_maps(backbone: nn.Layer, point: LayerPoint, images: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the map of a layer for images, [N, C, Y, X].

    Args:
        images: [channels, height, width], all of one size.
    """
    check_forward(backbone, (1, *images[0].shape))
    maps = []
    for start in range(0, len(images), _BATCH):
        batch = paddle.to_tensor(np.stack(images[start : start + _BATCH]))
        with paddle.no_grad(), recorded([point]) as (output,):
            backbone(batch)
        maps.append(output.as_map().astype("float32").numpy())
    return np.concatenate(maps)


def principal_colors(maps_NCYX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project features onto their first three principal components, fitted over all positions of
    all maps.

    Returns:
        Colors [N, Y, X, 3] from 0 to 1, from the 1st to the 99th percentile of each component, and
        the fractions [3] of the variance that the components hold.
    """
    count, width, rows, columns = maps_NCYX.shape
    features = maps_NCYX.transpose(0, 2, 3, 1).reshape(-1, width).astype(np.float64)
    features -= features.mean(0)
    _, scales, directions = np.linalg.svd(features.T @ features)
    kept = min(3, width)
    # The sign of a component is arbitrary: the largest weight is positive.
    largest = np.abs(directions[:kept]).argmax(1)
    signs = np.sign(directions[np.arange(kept), largest])
    projected = np.zeros((len(features), 3))
    projected[:, :kept] = features @ (directions[:kept] * signs[:, None]).T
    low, high = np.percentile(projected, [1, 99], axis=0)
    width_of = np.where(high > low, high - low, 1.0)
    colors = np.clip((projected - low) / width_of, 0, 1)
    shares = np.zeros(3)
    shares[:kept] = scales[:kept] / (scales.sum() or 1.0)
    return colors.reshape(count, rows, columns, 3), shares


def draw_features(
    images: Sequence[Shown], colors: np.ndarray, shares: np.ndarray, point: LayerPoint
) -> Figure:
    """Draw each image beside the colors of its features.

    Args:
        colors, shares: of `principal_colors`, for these images.
        point: the layer.
    """
    groups = []
    for image, color in zip(images, colors, strict=True):
        height, width = image.pixels.shape[:2]
        enlarged = point.lattice_of(len(color), height).enlarged(color, height, width)
        groups.append(Group([[Panel(image.pixels), Panel(enlarged)]], image.title))
    percent = ", ".join(f"{100 * share:.0f}" for share in shares)
    note = (
        "Red, green and blue are the first three principal components of the layer's features over "
        f"all {len(images)} images, which hold {percent} % of the variance. Like colors mean like "
        "features; the hue itself has no meaning."
    )
    return draw_panels(groups, f"Features of layer {point.name}", note)
