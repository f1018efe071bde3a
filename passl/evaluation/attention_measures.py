"""Numbers that describe the attention of each head.

* `distance`: the mean attention distance (Dosovitskiy et al., arXiv 2010.11929, section 4.5): the
  distance between a query and the patches, weighted by the attention to them, in pixels.
* `nonlocality`: the same in patches, D_loc of d'Ascoli et al. (arXiv 2103.10697, section 4):
  sum_ij A_ij |d_ij| / L for L query patches; that of a layer is the mean over its heads.
* `entropy`: of the attention over all keys, the class token included, in nats.

They are means over the query patches. The class token has no place, so attention to it is left out
of the two distances, and the rest is scaled to sum to 1. CvT's keys lie on a coarser grid; each has
the place of the center of its convolution on the grid of the queries, whose tokens are the unit.

Blocks with gated positional attention have `gate`, sigmoid(gating_param), and the measures of
`position_measures`.

Each block gets its real input. facebookresearch/convit gives the patch embeddings, without norms,
position embedding and class token, to every block (main.py:346-351, its issue 23).

Shapes in names: B images, H heads, N queries (n of a part of them), M keys, Y rows and X columns of
a grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from passl.evaluation.attention import as_the_backbone_takes, attention_inputs, evaluating
from passl.modeling.gpsa import GPSA
from passl.modeling.layers import AttentionBlock, Grid, to_tokens

Mode = Literal["paper", "fb"]
_PART = 2**22
"""Attention weights that are held at once, 16 MB of float32."""
_LEAST = 1e-37
"""Above zero in float32, also where denormal numbers are flushed."""


def measure_attention(
    model: nn.Layer,
    batches: Iterable[Any],
    mode: Mode = "paper",
) -> dict[str, dict[str, Any]]:
    """Measure each head of each block, in evaluation mode, averaged over images.

    Args:
        model: a `Model` or a backbone. Its mode is restored.
        batches: images [B, 3, height, width], at least one.
        mode: `fb` takes `nonlocality` as facebookresearch/convit logs it, from patch embeddings,
            and adds its `distances`, of the center of the positional attention, and
            `gating_params`, before the sigmoid. For ConViT alone.

    Returns:
        For each block its `kind` and, by measure, a list with one number for each head; null for
        what is not defined.
    """
    totals: dict[str, dict[str, Any]] = {}
    count = 0
    with evaluating(model), paddle.no_grad():
        for images in batches:
            size = images.shape[0]
            count += size
            images = as_the_backbone_takes(model, images)
            for block, x_BNC in attention_inputs(model, images):
                found = attention_measures(block, x_BNC)
                if isinstance(block.attn, GPSA):
                    found |= position_measures(block.attn, block.query_grid)
                if mode == "fb":
                    found |= _fb_measures(getattr(model, "backbone", model), block, images)
                total = totals.setdefault(block.name, {"kind": block.kind})
                for name, value_H in found.items():
                    total[name] = total.get(name, 0.0) + size * value_H
    return {
        block: {
            name: total if name == "kind" else _listed(total / count)
            for name, total in values.items()
        }
        for block, values in totals.items()
    }


def attention_measures(block: AttentionBlock, x_BNC: Any) -> dict[str, np.ndarray]:
    """`distance`, `nonlocality` and `entropy`, [H], averaged over images. Queries are taken in
    parts, so that memory grows with their number rather than with its square.

    Args:
        x_BNC: what the attention gets.
    """
    attn, grid, first = block.attn, block.query_grid, int(block.has_class_token)
    q_BNHD, k_BMHD, _ = attn.project_qkv(x_BNC, grid)
    sums = np.zeros([2, block.heads])
    step = max(1, _PART // (x_BNC.shape[0] * block.heads * block.keys))
    for rows in _parts(range(first, block.queries), step):
        weights_BHnM = attn.weights(q_BNHD, k_BMHD, grid, rows).astype("float32")
        entropies = -(weights_BHnM * weights_BHnM.clip(_LEAST).log()).sum(-1)
        to_patches_BHnM = weights_BHnM[..., first:]
        distance_nM = paddle.to_tensor(_distances(block, np.array(rows) - first), "float32")
        distances = (to_patches_BHnM * distance_nM).sum(-1)
        distances = distances / to_patches_BHnM.sum(-1).clip(_LEAST)
        for index, values_BHn in enumerate((distances, entropies)):
            sums[index] += values_BHn.numpy().astype(np.float64).sum((0, 2))
    nonlocality_H, entropy_H = sums / (x_BNC.shape[0] * (block.queries - first))
    return {
        "distance": nonlocality_H * block.stride,
        "nonlocality": nonlocality_H,
        "entropy": entropy_H,
    }


def position_measures(attn: GPSA, grid: Grid) -> dict[str, np.ndarray]:
    """Gate and positional attention of each head, [H], from the weights alone; lengths in patches.

    The positional score -s |d - c|^2 of an offset d makes a Gaussian around a center c: `center_y`
    and `center_x`, with the locality strength s, `strength` (d'Ascoli et al., arXiv 2103.10697,
    section 3). With s <= 0 there is no center: NaN.

    On a grid, the Gaussian is discrete and ends at the border: `offset_y` and `offset_x` are the
    mean offset of the patches that are attended to, and `width` is their standard deviation around
    the mean of each query, along one axis, sqrt((var_y + var_x) / 2). Far from the border and with
    small s it is sqrt(1 / (2 s)). `position_distance` is the `nonlocality` that the positional
    attention would have alone. All are averaged over the queries.

    The mean over all queries of the attention to each offset separates as the attention itself
    does, so distances of (2 Y - 1) (2 X - 1) offsets are enough.
    """
    weight_3H = attn.pos_proj.weight.astype("float32").numpy().astype(np.float64)
    strength_H = -weight_3H[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        centers_2H = np.where(strength_H > 0, weight_3H[:2] / (2 * strength_H), np.nan)
    axes = [axis.astype("float32").numpy().astype(np.float64) for axis in attn.positions(grid)]
    (offset_y, variance_y), (offset_x, variance_x) = map(_moments, axes)
    (offsets_y, mean_HY), (offsets_x, mean_HX) = map(_by_offset, axes)
    distances_YX = np.hypot.outer(offsets_y, offsets_x)
    return {
        "gate": F.sigmoid(attn.gating_param).astype("float32").numpy().astype(np.float64),
        "center_y": centers_2H[1],
        "center_x": centers_2H[0],
        "strength": strength_H,
        "offset_y": offset_y,
        "offset_x": offset_x,
        "width": np.sqrt((variance_y + variance_x) / 2),
        "position_distance": np.einsum("hy,hx,yx->h", mean_HY, mean_HX, distances_YX),
    }


def _by_offset(weights_HLL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The offsets along an axis, and the attention to each, averaged over the queries."""
    length = weights_HLL.shape[-1]
    offsets = np.arange(1 - length, length)
    sums = [np.trace(weights_HLL, offset, axis1=1, axis2=2) for offset in offsets]
    return offsets, np.stack(sums, 1) / length


def _moments(weights_HLL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance [H] of the offsets along an axis, averaged over the queries."""
    index = np.arange(weights_HLL.shape[-1])
    offset_LL = index - index[:, None]
    mean_HL = (weights_HLL * offset_LL).sum(-1)
    variance_HL = (weights_HLL * (offset_LL - mean_HL[..., None]) ** 2).sum(-1)
    return mean_HL.mean(-1), variance_HL.mean(-1)


def _distances(block: AttentionBlock, patches: np.ndarray) -> np.ndarray:
    """Distances [n, M] from these patches of the query grid to the keys, in its patches."""
    y_n, x_n = np.divmod(patches, block.query_grid[1])
    y_Y, x_X = block.attn.key_places(block.query_grid)
    distance_nYX = np.hypot((y_n[:, None] - y_Y)[:, :, None], (x_n[:, None] - x_X)[:, None, :])
    return distance_nYX.reshape(len(patches), -1)


def _fb_measures(backbone: Any, block: AttentionBlock, images: Any) -> dict[str, np.ndarray]:
    """As `get_attention_map` and main.py:343-365 of facebookresearch/convit have them, there on the
    first batch of the validation data.
    """
    without_class_token = replace(block, has_class_token=False)
    measures = attention_measures(without_class_token, to_tokens(backbone.patch_embed(images)))
    found = {"nonlocality": measures["nonlocality"]}
    if isinstance(block.attn, GPSA):
        weight_3H = block.attn.pos_proj.weight.astype("float32").numpy().astype(np.float64)
        found["distances"] = np.hypot(*weight_3H[:2]) / np.abs(2 * weight_3H[2])
        found["gating_params"] = block.attn.gating_param.astype("float32").numpy()
    return found


def _parts(rows: range, step: int) -> Iterator[Sequence[int]]:
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _listed(values_H: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values_H]
