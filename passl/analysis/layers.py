"""The layers of a network by name, and their outputs as maps over the image.

Shapes in names: B batch, C channels, N tokens, Y rows and X columns of a grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from paddle import nn

from passl.errors import ConfigError
from passl.modeling.backbones.convit import ConViT, PatchEmbed
from passl.modeling.backbones.cvt import CvT
from passl.modeling.conv_attention import ConvAttention
from passl.modeling.layers import AttentionBlock, split_class_token, to_map
from passl.utils.config import closest

EMBED = "patch_embed"


@dataclass(frozen=True)
class Lattice:
    """Where the cells of a map lie in the image: the center of cell (i, j) is the pixel
    (offset + stride * i, offset + stride * j).

    Overlapping convolutions with padding, as CvT's, move the centers away from the middles of
    equal parts of the image.
    """

    stride: int = 1
    offset: float = 0.0

    def behind(self, kernel: int, stride: int, padding: int) -> Lattice:
        """The cells of a convolution's output, if these are those of its input."""
        shift = (kernel - 1) / 2 - padding
        return Lattice(self.stride * stride, self.offset + self.stride * shift)

    def center(self, row: int, column: int) -> tuple[float, float]:
        """Row and column of the pixel at the center of a cell."""
        return self.offset + self.stride * row, self.offset + self.stride * column

    def cell(self, pixel: Sequence[float], grid: Sequence[int]) -> tuple[int, int]:
        """Row and column of the cell of a grid whose center is nearest to a pixel."""
        row, column = (
            min(max(round((place - self.offset) / self.stride), 0), cells - 1)
            for place, cells in zip(pixel, grid, strict=True)
        )
        return row, column

    def upsampled(self, map_YX: np.ndarray, height: int, width: int) -> np.ndarray:
        """A map at the size of the image, bilinear between the centers and constant outside of
        them: [height, width].
        """
        places = [
            np.clip((np.arange(length) - self.offset) / self.stride, 0, cells - 1)
            for length, cells in zip((height, width), map_YX.shape, strict=True)
        ]
        rows = _interpolated(map_YX, places[0])
        return _interpolated(rows.T, places[1]).T

    def heat(self, map_YX: np.ndarray, height: int, width: int) -> np.ndarray:
        """A map of values from 0 on at the size of the image, divided by its largest value."""
        return self.upsampled(map_YX / (float(map_YX.max()) or 1.0), height, width)

    def enlarged(self, map_YXC: np.ndarray, height: int, width: int) -> np.ndarray:
        """A map at the size of the image, where each pixel has the nearest cell's values: [height,
        width, ...].
        """
        rows, columns = (
            np.clip(np.rint((np.arange(length) - self.offset) / self.stride), 0, cells - 1)
            for length, cells in zip((height, width), map_YXC.shape[:2], strict=True)
        )
        return map_YXC[rows.astype(int)][:, columns.astype(int)]


def _interpolated(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows of values at fractional indices."""
    below = np.minimum(places.astype(int), len(values) - 1)
    above = np.minimum(below + 1, len(values) - 1)
    share = (places - below)[:, None]
    return (1 - share) * values[below] + share * values[above]


@dataclass(frozen=True)
class LayerPoint:
    """A layer of a backbone whose output is a map, or tokens of a grid.

    Args:
        name: within the backbone.
        layer: whose output it is.
        lattice: where its cells lie; null if it is not known, for equal parts of the image.
        block: which takes tokens and their grid, if the output is tokens: the layer or its parent.
    """

    name: str
    layer: nn.Layer
    lattice: Lattice | None = None
    block: nn.Layer | None = None

    def lattice_of(self, rows: int, height: int) -> Lattice:
        """The lattice, or that of equal parts."""
        if self.lattice is not None:
            return self.lattice
        stride = max(1, round(height / rows))
        return Lattice(stride, (stride - 1) / 2)


def points_of(backbone: nn.Layer) -> list[LayerPoint]:
    """The layers of a backbone that make maps, from the image on, by the names that their
    parameters begin with: a ConViT's `patch_embed`, `blocks.0.norm1`, `blocks.0`, ...; for each
    stage of a CvT `stage0.patch_embed`, `stage0.blocks.0.norm1`, .... `norm1` makes the input of
    the block's attention; with norms behind the sums it does not, and is left out. Other backbones
    have all their layers.
    """
    if isinstance(backbone, ConViT):
        patches = backbone.patch_embed
        is_plain = isinstance(patches, PatchEmbed)
        own = Lattice().behind(patches.stride, patches.stride, 0) if is_plain else None
        return [LayerPoint(EMBED, patches, own), *_blocks_of(backbone, "", own)]
    if isinstance(backbone, CvT):
        points, lattice = [], Lattice()
        for s, stage in enumerate(backbone.stages):
            lattice = lattice.behind(**stage.patch_embed.window)
            points.append(LayerPoint(f"stage{s}.{EMBED}", stage.patch_embed, lattice))
            points += _blocks_of(stage, f"stage{s}.", lattice)
        return points
    return [LayerPoint(name, layer) for name, layer in backbone.named_sublayers()]


def _blocks_of(parent: Any, prefix: str, lattice: Lattice | None) -> list[LayerPoint]:
    points = []
    for index, block in enumerate(parent.blocks):
        name = f"{prefix}blocks.{index}"
        if getattr(block, "pre_norm", True):
            points.append(LayerPoint(f"{name}.norm1", block.norm1, lattice, block))
        points.append(LayerPoint(name, block, lattice, block))
    return points


def lattice_of_keys(block: AttentionBlock, queries: Lattice) -> Lattice:
    """Where the keys of an attention lie, whose queries lie on a lattice."""
    attn = block.attn
    is_coarser = isinstance(attn, ConvAttention) and attn.method != "linear"
    return queries.behind(**attn.of_kv) if is_coarser else queries


def point_of_block(backbone: nn.Layer, name: str) -> LayerPoint:
    """The layer of a block of `attention_blocks`, of which somebody's own network may have none by
    that name.
    """
    points = {point.name: point for point in points_of(backbone)}
    return points.get(name, LayerPoint(name, backbone))


def find_point(backbone: nn.Layer, name: str) -> LayerPoint:
    """The layer of that name. Short forms are `3`, `3.norm1` and `embed` of a ConViT; `2.9`,
    `2.9.norm1`, `2.embed`, and `2` for the last block of stage 2, of a CvT. Negative numbers count
    from the end.

    Raises:
        ConfigError: there is no such layer.
    """
    points = {point.name: point for point in points_of(backbone)}
    if isinstance(backbone, ConViT):
        full = _of_blocks(name, "", points)
    elif isinstance(backbone, CvT):
        stage, _, block = name.partition(".")
        number = _resolved(stage, backbone.num_stages)
        full = name if number is None else _of_blocks(block or "-1", f"stage{number}.", points)
    else:
        full = name
    if full not in points:
        known = list(points)
        way = closest(name, known) or f"; there are {known[0]} to {known[-1]}"
        raise ConfigError(f"there is no layer {name}{way}")
    return points[full]


def _of_blocks(name: str, prefix: str, known: Iterable[str]) -> str:
    """The full name for `3`, `3.norm1` or `embed` behind a prefix; else the name."""
    if name == "embed":
        return f"{prefix}{EMBED}"
    blocks, (block, dot, rest) = f"{prefix}blocks.", name.partition(".")
    count = sum(each.removeprefix(blocks).isdecimal() for each in known)
    number = _resolved(block, count)
    return name if number is None else f"{blocks}{number}{dot}{rest}"


def _resolved(text: str, count: int) -> int | None:
    """A number from 0, where negative ones count from the end; null if it is none of `count`."""
    is_number = text.removeprefix("-").isdecimal() and -count <= int(text) < count
    return int(text) % count if is_number else None


@dataclass
class Output:
    """What a layer has put out.

    Args:
        point: the layer.
        tensor: tokens [B, N, C] or a map [B, C, Y, X], as the network goes on with it.
        grid: of tokens; null for a map.
    """

    point: LayerPoint
    tensor: Any = None
    grid: tuple[int, int] | None = field(default=None)

    @property
    def is_map(self) -> bool:
        """Whether `as_map` can be called."""
        return self.grid is not None or getattr(self.tensor, "ndim", 0) == 4

    def as_map(self, tensor: Any = None) -> Any:
        """The output, or a tensor of its shape such as its gradient, as a map [B, C, Y, X] without
        the class token.

        Raises:
            ConfigError: it is no map.
        """
        if not self.is_map:
            raise ConfigError(f"layer {self.point.name}: its output is no map; name another layer")
        tensor = self.tensor if tensor is None else tensor
        if self.grid is None:
            return tensor
        return to_map(split_class_token(tensor, self.grid)[1], self.grid)


@contextmanager
def recorded(points: Sequence[LayerPoint]) -> Iterator[list[Output]]:
    """A context in which the outputs of layers are kept, each of the last call."""
    outputs = [Output(point) for point in points]
    handles = []

    def keep_grid(output: Output) -> Any:
        def hook(block: nn.Layer, inputs: Any) -> None:
            rows, columns = inputs[1]
            output.grid = int(rows), int(columns)

        return hook

    def keep(output: Output) -> Any:
        def hook(layer: nn.Layer, inputs: Any, result: Any) -> None:
            output.tensor = result

        return hook

    try:
        for output in outputs:
            block = output.point.block
            if block is not None:
                handles.append(block.register_forward_pre_hook(keep_grid(output)))
            handles.append(output.point.layer.register_forward_post_hook(keep(output)))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
