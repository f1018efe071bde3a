"""Attention rollout (Abnar and Zuidema, arXiv 2005.00928): how attention mixes the patches over
several blocks.

Each block is the matrix R = r I + (1 - r) A of its attention A, fused over heads, whose rows sum to
1, and the residual connection; the rollout is the product of the blocks' matrices. Feed-forwards
and what the values hold are left out.

Shapes in names: H heads, N tokens, M keys, Y rows and X columns of a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import paddle
from matplotlib.figure import Figure
from paddle import nn

from passl.analysis.attention import attention_maps
from passl.analysis.figures import Group, Panel, Shown, draw_panels, heat_over
from passl.analysis.layers import Lattice, find_point
from passl.errors import ConfigError
from passl.evaluation.attention import attention_blocks
from passl.modeling.layers import AttentionBlock

Fusion = Literal["mean", "max", "min"]
_FUSIONS: dict[str, Any] = {"mean": np.mean, "max": np.max, "min": np.min}
RESIDUAL = 0.5
"""Share of the residual connection, as in the paper."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """The rollout of an image.

    Args:
        matrix: [N, N] from the tokens behind the last block to those before the first; rows sum to
            1. A class token comes first.
        blocks: from the first to the last.
        lattice: where the tokens lie in the image.
    """

    matrix: np.ndarray
    blocks: Sequence[AttentionBlock]
    lattice: Lattice

    @property
    def has_class_token(self) -> bool:
        return self.blocks[-1].has_class_token

    def map_YX(self) -> np.ndarray:
        """What the class token, or the mean of all tokens if there is none, has of each patch."""
        first = int(self.blocks[-1].has_class_token)
        row = self.matrix[0] if first else self.matrix.mean(0)
        return row[first:].reshape(self.blocks[-1].query_grid)


def rollout(
    model: nn.Layer, image: np.ndarray, fusion: Fusion = "mean", stage: int | None = None
) -> Rollout:
    """Compute the rollout of an image over the blocks of a ConViT, or of a stage of a CvT.

    Where ConViT's class token has not joined, it is a token that attends to itself alone, so that
    all matrices have one size. CvT's stages are joined by convolutions, which are no attention: a
    rollout is within one stage. Its keys are on a coarser grid than its queries; the weight of a
    key is given in equal parts to the tokens that it stands for, stride x stride of them, so that
    rows still sum to 1.

    Args:
        model: a `Model` or a backbone.
        image: [channels, height, width].
        fusion: of the heads. After max and min, rows are scaled to sum to 1.
        stage: of a CvT; null for the last. ConViT has none.

    Raises:
        ConfigError: the network has no attention or no such stage, or a map takes too much memory.
    """
    height, width = image.shape[1:]
    chosen = _chosen(attention_blocks(model, height, width), stage)
    backbone = getattr(model, "backbone", model)
    point = find_point(backbone, chosen[-1].name)
    lattice = point.lattice_of(chosen[-1].query_grid[0], height)
    is_joined = chosen[-1].has_class_token
    matrix = np.eye(chosen[-1].queries)
    # One block at a time: together they could take too much memory.
    for block in chosen:
        (found,) = attention_maps(model, paddle.to_tensor(image[None]), [block.name])
        matrix = step_matrix(found.maps_BHNM[0], block, fusion, is_joined) @ matrix
    return Rollout(matrix, chosen, lattice)


def step_matrix(
    maps_HNM: np.ndarray, block: AttentionBlock, fusion: Fusion, with_class_token: bool
) -> np.ndarray:
    """The matrix of one block, [N, N], whose rows sum to 1.

    Args:
        maps_HNM: the attention of the block.
        block: its grids.
        fusion: of the heads.
        with_class_token: whether the matrix has a class token, though the block has none.
    """
    weights = _FUSIONS[fusion](maps_HNM.astype(np.float64), axis=0)
    first = int(block.has_class_token)
    if tuple(block.key_grid) != tuple(block.query_grid):
        patches = weights[:, first:] @ spread(block.key_grid, block.query_grid)
        weights = np.concatenate([weights[:, :first], patches], axis=1)
    if with_class_token and not first:
        weights = np.pad(weights, [(1, 0), (1, 0)])
        weights[0, 0] = 1.0
    weights = weights / weights.sum(1, keepdims=True)
    mixed = RESIDUAL * np.eye(len(weights)) + (1 - RESIDUAL) * weights
    return mixed / mixed.sum(1, keepdims=True)


def spread(keys: Sequence[int], queries: Sequence[int]) -> np.ndarray:
    """The share that each token has of each key, [M, N]: equal parts for those from the key's on,
    up to the next key's, so that rows sum to 1.
    """
    axes = []
    for coarse, fine in zip(keys, queries, strict=True):
        stride = -(-fine // coarse)
        key = np.minimum(np.arange(fine) // stride, coarse - 1)
        share = (key == np.arange(coarse)[:, None]).astype(np.float64)
        axes.append(share / share.sum(1, keepdims=True))
    return np.kron(*axes)


def _chosen(blocks: Sequence[AttentionBlock], stage: int | None) -> list[AttentionBlock]:
    """The blocks of a stage; all of a network without stages."""
    stages = list(dict.fromkeys(block.name.partition(".")[0] for block in blocks))
    if stages == ["blocks"]:
        if stage is not None:
            raise ConfigError("--stage is for CvT; a ConViT has no stages, leave it out")
        return list(blocks)
    number = len(stages) - 1 if stage is None else stage
    if not 0 <= number < len(stages):
        raise ConfigError(f"there is no stage {stage}; this network has 0 to {len(stages) - 1}")
    return [block for block in blocks if block.name.startswith(f"{stages[number]}.")]


def draw_rollout(images: Sequence[Shown], found: Sequence[Rollout], fusion: Fusion) -> Figure:
    """Draw each image beside its rollout.

    Args:
        images: as drawn.
        found: of each image.
        fusion: of the heads.
    """
    groups = []
    for image, one in zip(images, found, strict=True):
        map_YX = one.map_YX()
        heat = one.lattice.heat(map_YX, *image.pixels.shape[:2])
        panels = [Panel(image.pixels), Panel(heat_over(image.pixels, heat), f"{map_YX.max():.2g}")]
        groups.append(Group([panels], image.title))
    first, last = found[0].blocks[0].name, found[0].blocks[-1].name
    reader = "the class token" if found[0].has_class_token else "the mean of all tokens"
    note = (
        f"Attention rollout from {first} to {last}, {fusion} of the heads: the share that each "
        f"patch has in {reader}, from 0 (dark blue) to the largest (yellow), which is the number "
        "above. Only attention and residual connections are followed: it tells what can have been "
        "mixed, not why the network decides."
    )
    return draw_panels(groups, note=note)
