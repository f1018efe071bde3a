"""Where the positional attention of each head looks, seen from the patch in the center."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import paddle
from matplotlib.figure import Figure
from paddle import nn

from passl.analysis.figures import HEAT, Group, Panel, draw_panels
from passl.errors import ConfigError
from passl.evaluation.attention import attention_blocks
from passl.evaluation.attention_measures import position_measures
from passl.modeling.gpsa import GPSA


@dataclass(frozen=True)
class Positions:
    """The positional attention of a block.

    Args:
        block: its name.
        maps_HYX: attention of the patch at `center` to each patch, for each head.
        gates_H: weight of the positional attention in each head.
        center: row and column.
    """

    block: str
    maps_HYX: np.ndarray
    gates_H: np.ndarray
    center: tuple[int, int]


@paddle.no_grad()
def center_positions(model: nn.Layer, height: int, width: int) -> list[Positions]:
    """The positional attention of the patch in the center of images of height x width.

    Raises:
        ConfigError: no block has positional attention.
    """
    found = []
    for block in attention_blocks(model, height, width):
        if isinstance(block.attn, GPSA):
            rows, columns = block.query_grid
            center = (rows // 2, columns // 2)
            token = center[0] * columns + center[1]
            weights_H1N = block.attn.position_weights((rows, columns), [token])
            maps_HYX = weights_H1N.astype("float32").numpy().reshape(-1, rows, columns)
            gates_H = position_measures(block.attn, (rows, columns))["gate"]
            found.append(Positions(block.name, maps_HYX, gates_H, center))
    if not found:
        raise ConfigError(
            "this network has no positional attention; the first blocks of a ConViT have, up to "
            "local_up_to_layer"
        )
    return found


def draw_positions(
    initial: Sequence[Positions], learned: Sequence[Positions], title: str = ""
) -> Figure:
    """Draw the heads of each block, above as initialized and below as learned.

    Args:
        initial, learned: of `center_positions`, for the same blocks.
    """
    groups = []
    for before, after in zip(initial, learned, strict=True):
        heads = range(len(after.maps_HYX))
        above = [_panel(before, head, f"head {head}") for head in heads]
        below = [_panel(after, head, f"gate {after.gates_H[head]:.2f}") for head in heads]
        groups.append(Group([above, below], after.block))
    note = (
        "Attention of the patch with the cross by the positional part of each head: above as "
        "initialized, below as learned. Brighter is more; each map is scaled to its own maximum. "
        "The gate is the weight of this attention in the head; the rest follows the content."
    )
    return draw_panels(groups, title, note)


def _panel(positions: Positions, head: int, title: str) -> Panel:
    map_YX = positions.maps_HYX[head]
    colors = matplotlib.colormaps[HEAT](map_YX / map_YX.max())[..., :3]
    return Panel(colors, title, smooth=False, mark=positions.center)
