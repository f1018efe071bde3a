"""Attention maps over the images that they are of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from matplotlib.figure import Figure
from paddle import nn

from passl.analysis.attention import attention_maps
from passl.analysis.figures import Group, Panel, Shown, draw_panels, heat_over
from passl.analysis.layers import Lattice, LayerPoint, lattice_of_keys
from passl.errors import ConfigError
from passl.evaluation.attention import attention_blocks
from passl.modeling.layers import AttentionBlock

_ONE_ROW = 8
"""Panels up to which a block's maps are one row."""


@dataclass(frozen=True, eq=False)
class ImageAttention:
    """The attention of a block on one image.

    Args:
        block: the attention.
        heads: their numbers.
        maps_HYX: the attention of these heads to each patch, on the grid of the keys. What goes to
            a class token is left out.
        mean_YX: the mean of all heads of the block.
        lattice: where the keys lie.
        query: what attends: `class token`, `mean of all patches` or `patch ROW, COLUMN`.
        mark: row and column of the query in pixels; null if it is no patch.
    """

    block: AttentionBlock
    heads: Sequence[int]
    maps_HYX: np.ndarray
    mean_YX: np.ndarray
    lattice: Lattice
    query: str
    mark: tuple[float, float] | None = None


def image_attention(
    model: nn.Layer,
    image: np.ndarray,
    points: Sequence[LayerPoint],
    heads: Sequence[int] | None = None,
    query: tuple[int, int] | None = None,
) -> list[ImageAttention]:
    """Compute the attention maps of blocks on one image.

    Args:
        model: a `Model` or a backbone.
        image: [channels, height, width].
        points: blocks.
        heads: null for all.
        query: row and column of a pixel, for the patch that is nearest to it; null for the class
            token in blocks that have one, and for the mean over all queries in the others.

    Raises:
        ConfigError: the network has no attention, there is no such block, head or pixel, or the
            maps take too much memory.
    """
    height, width = image.shape[1:]
    known = {block.name: block for block in attention_blocks(model, height, width)}
    found = []
    for point in points:
        if point.name not in known:
            raise ConfigError(
                f"layer {point.name} has no attention; those that have it: {', '.join(known)}"
            )
        block = known[point.name]
        chosen = _checked_heads(block, heads)
        lattice = point.lattice_of(block.query_grid[0], height)
        row, name, mark = _query(block, lattice, query, (height, width))
        (result,) = attention_maps(model, paddle.to_tensor(image[None]), [block.name], row)
        maps_HYX = result.to_patches_BHNYX[0].mean(1)  # over the queries
        mean_YX, keys = maps_HYX.mean(0), lattice_of_keys(block, lattice)
        found.append(ImageAttention(block, chosen, maps_HYX[chosen], mean_YX, keys, name, mark))
    return found


def _checked_heads(block: AttentionBlock, heads: Sequence[int] | None) -> list[int]:
    if heads is None:
        return list(range(block.heads))
    for head in heads:
        if not 0 <= head < block.heads:
            raise ConfigError(
                f"there is no head {head} in {block.name}; it has heads 0 to {block.heads - 1}"
            )
    return list(heads)


def _query(
    block: AttentionBlock,
    lattice: Lattice,
    query: tuple[int, int] | None,
    size: tuple[int, int],
) -> tuple[Any, str, tuple[float, float] | None]:
    """The query as `attention_maps` takes it, its name, and its place."""
    if query is None and block.has_class_token:
        return "class", "class token", None
    if query is None:
        return None, "mean of all patches", None
    if not all(0 <= place < length for place, length in zip(query, size, strict=True)):
        raise ConfigError(
            f"the pixel {query[0]},{query[1]} lies outside of the image; rows are 0 to "
            f"{size[0] - 1} and columns 0 to {size[1] - 1}"
        )
    row, column = lattice.cell(query, block.query_grid)
    inside = (
        min((cell + 0.5) * block.stride, length - 1)
        for cell, length in zip((row, column), size, strict=True)
    )
    return tuple(inside), f"patch {row}, {column}", lattice.center(row, column)


def draw_attention(images: Sequence[Shown], found: Sequence[Sequence[ImageAttention]]) -> Figure:
    """Draw for each image and block the image, the mean over heads, and each head.

    Args:
        images: as drawn.
        found: for each image, the attention of each block.
    """
    groups = []
    for image, blocks in zip(images, found, strict=True):
        for one in blocks:
            title = f"{image.title}: {one.block.name}, {one.query}"
            groups.append(Group(_rows(_panels(image, one)), title))
    note = (
        "Attention to the patches of the image. Each map has its own scale, from 0 (dark blue) to "
        "its largest weight (yellow), which is the number above it; all weights of a query sum to "
        "1. The cross is the patch whose attention is shown. Attention shows where a head reads, "
        "not why the network decides."
    )
    return draw_panels(groups, note=note)


def _panels(image: Shown, one: ImageAttention) -> list[Panel]:
    panels = [Panel(image.pixels, mark=one.mark)]
    maps = [(f"head {head}", map_YX) for head, map_YX in zip(one.heads, one.maps_HYX, strict=True)]
    if one.block.heads > 1 or not maps:
        maps.insert(0, ("mean", one.mean_YX))
    for name, map_YX in maps:
        heat = heat_over(image.pixels, one.lattice.heat(map_YX, *image.pixels.shape[:2]))
        panels.append(Panel(heat, f"{name}: {map_YX.max():.2g}", mark=one.mark))
    return panels


def _rows(panels: Sequence[Panel]) -> list[Sequence[Panel]]:
    """One row, or several of about one length."""
    rows = 1 if len(panels) <= _ONE_ROW else max(2, round(math.sqrt(len(panels) / 2)))
    length = -(-len(panels) // rows)
    return [panels[start : start + length] for start in range(0, len(panels), length)]
