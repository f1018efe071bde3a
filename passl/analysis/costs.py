"""Parameters and multiply-accumulates of a network by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paddle import nn

from passl.analysis.flops import count_macs
from passl.logging import aligned


@dataclass(frozen=True)
class LayerCost:
    """The cost of a layer, with all layers in it that have no cost of their own here.

    Args:
        name: of the layer in the network.
        kind: name of its class.
        parameters: that training changes; BatchNorm's running statistics are none.
        macs: multiply-accumulates for one image; see `passl.analysis.flops`.
    """

    name: str
    kind: str
    parameters: int
    macs: int


def cost_by_layer(
    model: nn.Layer, size: Sequence[int], channels: int = 3, depth: int = 3
) -> list[LayerCost]:
    """Divide the cost of a network among its layers: the sums are those of the network.

    Args:
        size: height and width of the image.
        channels: of the image.
        depth: levels of the names; deeper layers count for the one that they are in. An index
            belongs to the level before: `backbone.blocks.0.attn` has three levels.

    Raises:
        ValueError: the network does not take the size.
    """
    kinds = {name: type(layer).__name__ for name, layer in model.named_sublayers(include_self=True)}
    parameters, macs = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            parameters[_above(name.rpartition(".")[0], depth)] += parameter.size
    for name, count in count_macs(model, size, channels).items():
        macs[_above(name, depth)] += count
    rows = [LayerCost(name, kinds[name], parameters[name], macs[name]) for name in kinds]
    return [row for row in rows if row.parameters or row.macs]


def table_of_layers(rows: Sequence[LayerCost], size: Sequence[int]) -> str:
    """The rows and their sums as an aligned text."""
    total = LayerCost("total", "", sum(row.parameters for row in rows), sum(r.macs for r in rows))
    height, width = size
    titles = ["layer", "kind", "parameters", "%", f"multiply-adds at {height} x {width}", "%"]
    lines = [titles]
    for row in [*rows, total]:
        lines.append(
            [
                *(row.name or "(the network)", row.kind),
                *(f"{row.parameters:,}", _share(row.parameters, total.parameters)),
                *(f"{row.macs:,}", _share(row.macs, total.macs)),
            ]
        )
    return "\n".join(aligned(lines, left=(0, 1)))


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else "-"


def _above(name: str, depth: int) -> str:
    """The layer at that depth which a layer is in, or the layer itself."""
    return ".".join(levels(name)[:depth])


def levels(name: str) -> list[str]:
    """The levels of a layer's name. An index belongs to the level before."""
    found: list[str] = []
    for part in name.split("."):
        if part.isdecimal() and found:
            found[-1] += f".{part}"
        else:
            found.append(part)
    return found
