"""Attention of a finished network on given images, block by block.

Shapes in names: B images, H heads, N queries, M keys, Y rows and X columns of a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import paddle
from paddle import nn

from passl.errors import ConfigError
from passl.evaluation.attention import attention_blocks, attention_inputs, evaluating
from passl.modeling.layers import AttentionBlock
from passl.utils.config import closest

MAX_BYTES = 2**30
"""Memory that the maps of one call may take."""

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


def choose_blocks(
    blocks: Sequence[AttentionBlock], names: Sequence[str | int] | None
) -> list[AttentionBlock]:
    """The blocks with these names, in the order of the network.

    Args:
        names: such as `blocks.3` or `stage2.blocks.0`, or numbers from 0, where negative ones count
            from the end; null for all.

    Raises:
        ConfigError: there is no such block.
    """
    if names is None:
        return list(blocks)
    known = [block.name for block in blocks]
    chosen = set()
    for name in names:
        if str(name) in known:
            chosen.add(known.index(str(name)))
            continue
        try:
            chosen.add(range(len(blocks))[int(name)])
        except ValueError:
            raise ConfigError(
                f"there is no block {name!r}{closest(str(name), known)}; the blocks are "
                f"{', '.join(known)}, or 0 to {len(known) - 1}"
            ) from None
        except IndexError:
            raise ConfigError(
                f"there is no block {name}; this network has 0 to {len(known) - 1}: "
                f"{', '.join(known)}"
            ) from None
    return [blocks[index] for index in sorted(chosen)]


def attention_maps(
    model: nn.Layer,
    images: Any,
    names: Sequence[str | int] | None = None,
    query: Query = None,
    max_bytes: int = MAX_BYTES,
) -> list[BlockMaps]:
    """The attention weights that a network applies to images, in evaluation mode.

    Args:
        model: a `Model` or a backbone, accelerated or not. Its mode is restored.
        images: [B, 3, height, width] of any size that the network takes, normalised.
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
