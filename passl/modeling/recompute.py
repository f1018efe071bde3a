"""Recomputation: less memory in training for a third more time."""

from __future__ import annotations

from paddle import nn
from paddle.distributed.fleet.utils import recompute as paddle_recompute

from passl.modeling.autocast import Autocast


def run_block(block: nn.Layer, recompute: bool, *inputs):
    """`block(*inputs)`; with `recompute`, in training, without keeping what is inside the block for
    the backward pass, which makes it anew: less memory for a third more time.

    Dropout repeats its draws. Running statistics take the batch in once, not twice.
    """
    if not (recompute and block.training):
        return block(*inputs)
    norms = [
        layer for layer in block.sublayers() if isinstance(layer, nn.BatchNorm2D | nn.SyncBatchNorm)
    ]
    again, autocast = False, Autocast.current()

    def run(*inputs):
        nonlocal again
        momenta = [layer._momentum for layer in norms]
        for layer in norms if again else ():
            layer._momentum = 1.0  # the statistics stay exactly as they are
        again = True
        try:
            with autocast.applied():
                return block(*inputs)
        finally:
            for layer, momentum in zip(norms, momenta, strict=True):
                layer._momentum = momentum

    # The other implementation, Paddle's default, gives no gradient to a block's parameters where
    # its input needs none, and DataParallel overlooks its gradients. Autocast is brought back by
    # `run`, since Paddle brings it back on GPUs alone.
    with autocast.off().applied():
        return paddle_recompute(run, *inputs, use_reentrant=False)
