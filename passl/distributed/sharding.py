"""Optimizer state that is divided among the ranks (ZeRO stage 1, arXiv 1910.02054).

It builds on `paddle.DataParallel`: when `step` begins, every rank has the averaged gradients of all
parameters, so clipping and the overflow check of float16 are the same as without sharding. Paddle's
own stage 1 (fleet) reduces gradients within the step, where each rank has only those of its share.
It also refuses parameters with a weight decay of their own, and counts ranks by variables that only
its launcher sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import paddle
from paddle import distributed as dist
from paddle.nn.clip import ClipGradBase

from passl.distributed.ranks import Ranks


class ShardedOptimizer:
    """Keeps the state of this rank's share of the parameters, updates this share, and receives the
    other parameters from the ranks that update them. Other attributes are the given optimizer's.

    Args:
        optimizer: of all parameters, new, the same on every rank.
        ranks: more than one.
    """

    def __init__(self, optimizer: Any, ranks: Ranks):
        self._optimizer, self._times = optimizer, ranks.times
        self._shares = shares(optimizer._parameter_list, ranks.world)
        self._own = {parameter.name for parameter in self._shares[ranks.rank]}
        # An optimizer creates state for the parameters that its clipping returns, and updates them.
        optimizer._grad_clip = _OwnShare(optimizer._grad_clip, self._own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def owns(self, parameter) -> bool:
        """Whether this rank has the state of the parameter."""
        return parameter.name in self._own

    @paddle.no_grad()
    def step(self) -> None:
        """Update all parameters; every rank calls it."""
        self._optimizer.step()
        with self._times.communicating():
            sent = [
                dist.broadcast(parameter, rank, sync_op=False)
                for rank, share in enumerate(self._shares)
                for parameter in share
                if not parameter.stop_gradient
            ]
            for task in sent:
                task.wait()


class _OwnShare(ClipGradBase):
    """Clips the gradients of all parameters, and returns those of some."""

    def __init__(self, clip: ClipGradBase | None, names: set[str]):
        super().__init__()
        self._clip, self._names = clip, names

    def _dygraph_clip(self, params_grads: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        clipped = params_grads if self._clip is None else self._clip(params_grads)
        return [(weight, grad) for weight, grad in clipped if weight.name in self._names]


def shares(parameters: Sequence[Any], ranks: int) -> list[list[Any]]:
    """The parameters of each rank: the largest first, each to the rank with the fewest elements so
    far.
    """
    found: list[list[Any]] = [[] for _ in range(ranks)]
    sizes = [0] * ranks
    for parameter in sorted(parameters, key=lambda one: math.prod(one.shape), reverse=True):
        rank = sizes.index(min(sizes))
        found[rank].append(parameter)
        sizes[rank] += math.prod(parameter.shape)
    return found
