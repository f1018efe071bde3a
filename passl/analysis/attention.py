"""Attention of a finished network on given images, block by block.

Shapes in names: B images, H heads, N queries, M keys, Y rows and X columns of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import paddle
from paddle import nn

from passl.errors import ConfigError
from passl.evaluation.attention import (
    attention_blocks,
    attention_inputs,
    evaluating,
    has_attention,
)
from passl.modeling.layers import AttentionBlock
from passl.utils.config import closest

_PATCHES = 9
MAX_BYTES = 2**30
"""Memory that the maps of one call may take."""
MAX_FORWARD = 2**33
"""Memory that the attention weights of one block may take on the way."""

Query = Literal["class"] | tuple[float, float] | None
"""The queries of a map: all (null), the class token, or the patch at a point (y, x) in pixels."""


@dataclass(frozen=True, eq=False)
class BlockMaps:
    """The attention of a block.

    Args:
        block: where it is computed.
        maps_BHNM: float32, each row sums to 1. Tokens are numbered row by row; a class token comes
            first. With one chosen query, N is 1.
    """

    block: AttentionBlock
    maps_BHNM: np.ndarray

    @property
    def to_patches_BHNYX(self) -> np.ndarray:
        """The attention to patches alone, as maps of the key grid."""
        patches = self.maps_BHNM[..., int(self.block.has_class_token) :]
        return patches.reshape(*patches.shape[:-1], *self.block.key_grid)


def last_block(blocks: Sequence[AttentionBlock]) -> AttentionBlock:
    """The last one with maps to look at, of several patches: the keys of a CvT can be a single one.

    Args:
        blocks: of a network, in order.
    """
    patches = [math.prod(block.key_grid) for block in blocks]
    enough = min(max(patches), _PATCHES)
    return [one for one, count in zip(blocks, patches, strict=True) if count >= enough][-1]


def choose_blocks(
    blocks: Sequence[AttentionBlock], names: Sequence[str] | None
) -> list[AttentionBlock]:
    """The blocks with these names, such as `blocks.3` or `stage2.blocks.0`, in the order of the
    network; null for all.

    Raises:
        ConfigError: there is no such block.
    """
    known = [block.name for block in blocks]
    for name in names or ():
        if name not in known:
            raise ConfigError(f"there is no block {name!r}{closest(name, known)}")
    return [block for block in blocks if names is None or block.name in names]


def attention_maps(
    model: nn.Layer,
    images: Any,
    names: Sequence[str] | None = None,
    query: Query = None,
    max_bytes: int = MAX_BYTES,
) -> list[BlockMaps]:
    """The attention weights that a network applies to images, in evaluation mode.

    Args:
        model: a `Model` or a backbone, accelerated or not. Its mode is restored.
        images: [B, 3, height, width] of any size that the network takes, normalized.
        names: of blocks; see `choose_blocks`.
        query: whose attention. With `class`, blocks without a class token are left out.
        max_bytes: memory of all maps together.

    Raises:
        ConfigError: the network has no attention, there is no such block or point, or the maps take
            too much memory; nothing is computed then.
    """
    height, width = images.shape[-2:]
    layout = attention_blocks(model, height, width)
    chosen = choose_blocks(layout, names)
    if query == "class":
        chosen = [block for block in chosen if block.has_class_token]
        if not chosen:
            raise ConfigError(
                "none of these blocks has a class token; those that have one: "
                + (", ".join(block.name for block in layout if block.has_class_token) or "none")
            )
    rows = {block.name: query_rows(block, query, height, width) for block in chosen}
    _check_memory(chosen, rows, images.shape, max_bytes)
    check_forward(model, images.shape, last=chosen[-1].name)
    found = []
    with evaluating(model), paddle.no_grad():
        for block, x_BNC in attention_inputs(model, images):
            if block.name in rows:
                q_BNHD, k_BMHD, _ = block.attn.project_qkv(x_BNC, block.query_grid)
                weights = block.attn.weights(q_BNHD, k_BMHD, block.query_grid, rows[block.name])
                found.append(BlockMaps(block, weights.astype("float32").numpy()))
            if block.name == chosen[-1].name:
                break  # nothing more is computed
    return found


def query_rows(block: AttentionBlock, query: Query, height: int, width: int) -> list[int] | None:
    """The tokens of a query; null for all.

    Raises:
        ConfigError: the point lies outside of the image.
    """
    if query is None:
        return None
    if query == "class":
        return [0]
    y, x = query
    if not (0 <= y < height and 0 <= x < width):
        raise ConfigError(
            f"the point y {y:g}, x {x:g} lies outside of the image; y is 0 to {height - 1} and x 0 "
            f"to {width - 1}, in pixels of {height}x{width}"
        )
    rows, columns = block.query_grid
    row, column = min(int(y / block.stride), rows - 1), min(int(x / block.stride), columns - 1)
    return [row * columns + column + block.has_class_token]


def check_forward(model: nn.Layer, shape: Sequence[int], last: str | None = None) -> None:
    """Refuse images whose attention weights, that a network computes for all queries on its way,
    would not fit in memory. Nothing is computed. Networks that do not show their attention pass.

    Args:
        shape: of the images, [B, 3, height, width].
        last: block up to which the network is computed; null for all.

    Raises:
        ConfigError: the weights of a block are larger than `MAX_FORWARD`.
    """
    images, _, height, width = shape
    if not has_attention(type(getattr(model, "backbone", model))):
        return
    for block in attention_blocks(model, height, width):
        size = 4 * images * block.heads * block.queries * block.keys
        if size > MAX_FORWARD:
            scale = (MAX_FORWARD / size) ** 0.25
            raise ConfigError(
                f"images of {height}x{width} are too large: the attention of {block.name} weighs "
                f"{block.keys} keys for each of {block.queries} queries, which takes {_gib(size)}, "
                f"more than {_gib(MAX_FORWARD)}; take images of at most about "
                f"{int(height * scale)}x{int(width * scale)}"
            )
        if block.name == last:
            return


def _check_memory(
    blocks: Sequence[AttentionBlock],
    rows: dict[str, list[int] | None],
    shape: Sequence[int],
    limit: int,
) -> None:
    images, _, height, width = shape
    sizes = []
    for block in blocks:
        chosen = rows[block.name]
        queries = block.queries if chosen is None else len(chosen)
        sizes.append((4 * images * block.heads * queries * block.keys, queries, block))
    total = sum(size for size, _, _ in sizes)
    if total <= limit:
        return
    size, queries, block = max(sizes, key=lambda one: one[0])
    scale = (limit / total) ** 0.25  # the size of a map grows with the square of the pixels
    ways = ["fewer images"] * (images > 1) + ["fewer blocks"] * (len(blocks) > 1)
    ways += ["the attention of one query"] * (queries > 1)
    ways += [f"images of at most about {int(height * scale)}x{int(width * scale)}"]
    way = " or ".join(ways)
    raise ConfigError(
        f"the attention maps of {len(blocks)} block(s) for {images} image(s) of {height}x{width} "
        f"take {_gib(total)}, more than {_gib(limit)}: {block.name} alone, with {block.heads} "
        f"heads, {queries} queries and {block.keys} keys, takes {_gib(size)}; take {way}"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
