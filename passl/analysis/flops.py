"""Multiply-accumulates of a network, attention included.

Linear layers, convolutions and the products of attention are counted; norms, activations and
softmax are not, as in the figures of the papers. Papers call this number FLOPs, although a
multiply-accumulate is two floating point operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import paddle
from paddle import nn

from passl.evaluation.attention import evaluating
from passl.modeling.conv_attention import ConvAttention
from passl.modeling.gpsa import GPSA
from passl.modeling.mhsa import MHSA

Shapes = Mapping[nn.Layer, Sequence[int]]
"""The output's shape of each layer that has run."""


def count_macs(model: nn.Layer, size: Sequence[int], channels: int = 3) -> dict[str, int]:
    """Count the multiply-accumulates of one image by layer name. Their sum is the network's.

    One image of zeros is run in evaluation mode; the model's mode is restored. Products in the
    `forward` of a layer that is not in `RULES` are not counted.

    Args:
        model: images [1, channels, height, width] to anything.
        size: height and width.
        channels: of the image.

    Raises:
        ValueError: the network does not take the size.
    """
    counts: dict[str, int] = {}
    shapes: dict[nn.Layer, Sequence[int]] = {}

    def hook(name: str, rule: Callable[..., int]):
        def count(layer, inputs, output):
            shapes[layer] = output.shape
            counts[name] = counts.get(name, 0) + rule(layer, inputs[0].shape, output.shape, shapes)

        return count

    hooks = [
        layer.register_forward_post_hook(hook(name, rule))
        for name, layer in model.named_sublayers()
        for kind, rule in RULES.items()
        if isinstance(layer, kind)
    ]
    try:
        with evaluating(model), paddle.no_grad():
            model(paddle.zeros([1, channels, *size]))
    finally:
        for handle in hooks:
            handle.remove()
    return counts


def _linear(layer: nn.Linear, given: Sequence[int], made: Sequence[int], shapes: Shapes) -> int:
    return math.prod(made) * given[-1]


def _convolution(layer: nn.Conv2D, given: Sequence[int], made: Sequence[int], shapes: Shapes):
    return math.prod(made) * math.prod(layer.weight.shape[1:])  # the weight of one output channel


def _transposed(
    layer: nn.Conv2DTranspose, given: Sequence[int], made: Sequence[int], shapes: Shapes
):
    """Each value of the input is multiplied by the weight of its channel."""
    return math.prod(given) * math.prod(layer.weight.shape[1:])


def _self_attention(layer: MHSA, given: Sequence[int], made: Sequence[int], shapes: Shapes) -> int:
    _, tokens, width = given
    return 2 * tokens * tokens * width  # q k^T, and the weights times v


def _gated_attention(layer: GPSA, given: Sequence[int], made: Sequence[int], shapes: Shapes) -> int:
    """As its authors define it: three products for the positional score of each head and each pair
    of patches, and one mixed attention times v.

    What is computed here instead, the positions along each axis, is N (Y + X) C for a grid of Y
    rows and X columns: more at 14 x 14 (by 0.5 % of the network), less from some size on.
    """
    tokens = given[1]
    return _self_attention(layer, given, made, shapes) + 3 * tokens * tokens * layer.num_heads


def _projected_attention(
    layer: ConvAttention, given: Sequence[int], made: Sequence[int], shapes: Shapes
) -> int:
    """Its keys are fewer than its queries: they lie on a coarser grid."""
    _, tokens, width = given
    return 2 * tokens * shapes[layer.proj_k][1] * width


RULES: Mapping[Any, Callable[..., int]] = {
    nn.Linear: _linear,
    nn.Conv2D: _convolution,
    nn.Conv2DTranspose: _transposed,
    MHSA: _self_attention,
    GPSA: _gated_attention,
    ConvAttention: _projected_attention,
}
"""Multiply-accumulates of a layer without its sublayers: (layer, shape of its input, shape of its
output, shapes) -> number.
"""
