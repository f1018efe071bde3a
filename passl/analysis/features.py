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


def principal_components(features_NC: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Project features onto their first principal components.

    Returns:
        The projections [N, count], zeros where there are fewer features than that, and the
        fractions [count] of the variance that the components hold. The largest weight of a
        component, whose sign is arbitrary, is positive.
    """
    centered_NC = features_NC - features_NC.mean(0, dtype=np.float64)
    _, scales, directions = np.linalg.svd(centered_NC.T @ centered_NC)
    directions = directions[:count]
    largest = np.abs(directions).argmax(1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    projections, fractions = np.zeros((len(centered_NC), count)), np.zeros(count)
    projections[:, : len(directions)] = centered_NC @ (directions * signs[:, None]).T
    fractions[: len(directions)] = scales[:count] / (scales.sum() or 1.0)
    return projections, fractions


def principal_colors(maps_NCYX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project features onto their first three principal components, fitted over all positions of
    all maps.

    Returns:
        Colors [N, Y, X, 3] from 0 to 1, from the 1st to the 99th percentile of each component, and
        the fractions [3] of the variance that the components hold.
    """
    count, width, rows, columns = maps_NCYX.shape
    projected, shares = principal_components(maps_NCYX.transpose(0, 2, 3, 1).reshape(-1, width), 3)
    low, high = np.percentile(projected, [1, 99], axis=0)
    width_of = np.where(high > low, high - low, 1.0)
    colors = np.clip((projected - low) / width_of, 0, 1)
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
