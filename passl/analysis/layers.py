"""The layers of a network by name, and their outputs as maps over the image.

Shapes in names: B batch, C channels, N tokens, Y rows and X columns of a grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from paddle import nn

from passl.errors import ConfigError
from passl.modeling.backbones.convit import ConViT, PatchEmbed
from passl.modeling.backbones.cvt import CvT
from passl.modeling.layers import split_class_token, to_map
from passl.utils.config import closest

EMBED = "embed"


@dataclass(frozen=True)
class Lattice:
    """Where the cells of a map lie in the image: the centre of cell (i, j) is the pixel
    (offset + stride * i, offset + stride * j).

    Overlapping convolutions with padding, as CvT's, move the centres away from the middles of
    equal parts of the image.
    """

    stride: int = 1
    offset: float = 0.0

    def behind(self, kernel: int, stride: int, padding: int) -> Lattice:
        """The cells of a convolution's output, if these are those of its input."""
        shift = (kernel - 1) / 2 - padding
        return Lattice(self.stride * stride, self.offset + self.stride * shift)

    def upsampled(self, map_YX: np.ndarray, height: int, width: int) -> np.ndarray:
        """A map at the size of the image, bilinear between the centres and constant outside of
        them: [height, width].
        """
        places = [
            np.clip((np.arange(length) - self.offset) / self.stride, 0, cells - 1)
            for length, cells in zip((height, width), map_YX.shape, strict=True)
        ]
        rows = _interpolated(map_YX, places[0])
        return _interpolated(rows.T, places[1]).T

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
        name: as users write it.
        layer: whose output it is.
        lattice: where its cells lie; null if it is not known, for equal parts of the image.
        is_block: whether it takes tokens and their grid.
    """

    name: str
    layer: nn.Layer
    lattice: Lattice | None = None
    is_block: bool = False

    def lattice_of(self, rows: int, height: int) -> Lattice:
        """The lattice, or that of equal parts."""
        if self.lattice is not None:
            return self.lattice
        stride = max(1, round(height / rows))
        return Lattice(stride, (stride - 1) / 2)


def points_of(backbone: nn.Layer) -> list[LayerPoint]:
    """The layers of a backbone that make maps, from the image on.

    A ConViT has `embed` and its blocks `0`, `1`, ...; a CvT for each stage `0.embed`, its blocks
    `0.0`, `0.1`, .... Other backbones have their layers by their full names.
    """
    if isinstance(backbone, ConViT):
        patches = backbone.patch_embed
        is_plain = isinstance(patches, PatchEmbed)
        own = Lattice().behind(patches.stride, patches.stride, 0) if is_plain else None
        blocks = enumerate(backbone.blocks)
        points = [LayerPoint(str(i), block, own, is_block=True) for i, block in blocks]
        return [LayerPoint(EMBED, patches, own), *points]
    if isinstance(backbone, CvT):
        points, lattice = [], Lattice()
        for s, stage in enumerate(backbone.stages):
            conv = stage.patch_embed.proj
            lattice = lattice.behind(conv._kernel_size[0], conv._stride[0], conv._padding)
            points.append(LayerPoint(f"{s}.{EMBED}", stage.patch_embed, lattice))
            blocks = enumerate(stage.blocks)
            points += [LayerPoint(f"{s}.{i}", b, lattice, is_block=True) for i, b in blocks]
        return points
    return [LayerPoint(name, layer) for name, layer in backbone.named_sublayers()]


def find_point(backbone: nn.Layer, name: str) -> LayerPoint:
    """The layer of that name. Numbers may be negative, from the end; a CvT's stage alone means its
    last block.

    Raises:
        ConfigError: there is no such layer.
    """
    points = {point.name: point for point in points_of(backbone)}
    full = _full_name(name, list(points))
    if full not in points:
        known = list(points)
        shown = ", ".join(known) if len(known) <= 40 else f"{known[0]} to {known[-1]}"
        raise ConfigError(
            f"there is no layer {name}{closest(name, known)}; this network has {shown}"
        )
    return points[full]


def _full_name(name: str, known: Sequence[str]) -> str:
    """A name with each negative number replaced, and the last block behind a stage."""
    parts: list[str] = []
    for part in name.split("."):
        prefix = "".join(f"{one}." for one in parts)
        ends = [each.removeprefix(prefix) for each in known if each.startswith(prefix)]
        count = len({end.partition(".")[0] for end in ends if end[:1].isdecimal()})
        is_number = part.removeprefix("-").isdecimal() and -count <= int(part) < count
        parts.append(str(int(part) % count) if is_number else part)
    full = ".".join(parts)
    blocks = [each for each in known if each.startswith(f"{full}.")]
    return blocks[-1] if full.isdecimal() and blocks else full


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

    def as_map(self, tensor: Any = None) -> Any:
        """The output, or a tensor of its shape such as its gradient, as a map [B, C, Y, X] without
        the class token.

        Raises:
            ConfigError: it is no map.
        """
        tensor = self.tensor if tensor is None else tensor
        if self.grid is not None:
            return to_map(split_class_token(tensor, self.grid)[1], self.grid)
        if getattr(tensor, "ndim", 0) != 4:
            raise ConfigError(f"layer {self.point.name}: its output is no map; name another layer")
        return tensor


@contextmanager
def recorded(points: Sequence[LayerPoint]) -> Iterator[list[Output]]:
    """A context in which the outputs of layers are kept, each of the last call."""
    outputs = [Output(point) for point in points]
    handles = []

    def keep(output: Output) -> Any:
        def hook(layer: nn.Layer, inputs: Any, result: Any) -> None:
            output.tensor = result
            if output.point.is_block:
                rows, columns = inputs[1]
                output.grid = int(rows), int(columns)

        return hook

    try:
        for output in outputs:
            handles.append(output.point.layer.register_forward_post_hook(keep(output)))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
