"""Recomputation: less memory in training for a third more time."""

from __future__ import annotations

from paddle import nn
from paddle.distributed.fleet.utils import recompute as paddle_recompute

from passl.modeling.autocast import Autocast


def run_block(block: nn.Layer, recompute: bool, *inputs):
    """`block(*inputs)`. With `recompute`, training keeps only the inputs for the backward pass,
    which runs the block again.

    The second run repeats the draws of dropout, and leaves running statistics as they are.
    """
    if not (recompute and block.training):
        return block(*inputs)
    norms = [
        layer for layer in block.sublayers() if isinstance(layer, nn.BatchNorm2D | nn.SyncBatchNorm)
    ]
    momenta = [layer._momentum for layer in norms]
    again, autocast = False, Autocast.current()

    def run(*inputs):
        nonlocal again
        for layer in norms if again else ():
            layer._momentum = 1.0  # keeps the statistics exactly
        again = True
        try:
            with autocast.applied():
                return block(*inputs)
        finally:
            for layer, momentum in zip(norms, momenta, strict=True):
                layer._momentum = momentum

    # Paddle's default, the reentrant implementation, gives no gradients to a block whose input
    # needs none, and DataParallel misses them. Paddle restores autocast on GPUs alone, so `run`
    # does it.
    with autocast.off().applied():
        return paddle_recompute(run, *inputs, use_reentrant=False)
