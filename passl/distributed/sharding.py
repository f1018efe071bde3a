"""Optimizer state that is spread over the ranks (ZeRO stage 1, arXiv 1910.02054).

It stands on `paddle.DataParallel`, as PyTorch's ZeroRedundancyOptimizer does on its namesake: when
`step` begins, every rank has the averaged gradients of all parameters. So each one clips them and
judges an overflow of float16 exactly as without sharding. Paddle's own stage 1 (fleet) does not:
its gradients are summed up within the step, where each rank has those of its share alone; it also
refuses parameters with a decay of their own, and counts ranks by variables that only its launcher
sets.
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
    """An optimizer that keeps the state of this rank's share of the parameters, updates these, and
    takes the others from the ranks that have updated them. Otherwise it is the given one.

    Args:
        optimizer: of all parameters, new, the same on every rank.
        ranks: more than one.
    """

    def __init__(self, optimizer: Any, ranks: Ranks):
        self._optimizer = optimizer
        self._shares = shares(optimizer._parameter_list, ranks.world)
        self._own = {parameter.name for parameter in self._shares[ranks.rank]}
        # An optimizer makes state for what its clipping hands on, and updates that.
        optimizer._grad_clip = _OwnShare(optimizer._grad_clip, self._own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def owns(self, parameter) -> bool:
        """Whether its state is here."""
        return parameter.name in self._own

    @paddle.no_grad()
    def step(self) -> None:
        """Update all parameters; every rank calls it."""
        self._optimizer.step()
        sent = [
            dist.broadcast(parameter, rank, sync_op=False)
            for rank, share in enumerate(self._shares)
            for parameter in share
            if not parameter.stop_gradient
        ]
        for task in sent:
            task.wait()


class _OwnShare(ClipGradBase):
    """Clips the gradients of all parameters, and hands on those of some."""

    def __init__(self, clip: ClipGradBase | None, names: set[str]):
        super().__init__()
        self._clip, self._names = clip, names

    def _dygraph_clip(self, params_grads: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        clipped = params_grads if self._clip is None else self._clip(params_grads)
        return [(weight, grad) for weight, grad in clipped if weight.name in self._names]


def shares(parameters: Sequence[Any], ranks: int) -> list[list[Any]]:
    """The parameters of each rank: one after the other, the largest first, to the rank that has the
    fewest numbers so far.
    """
    found: list[list[Any]] = [[] for _ in range(ranks)]
    sizes = [0] * ranks
    for parameter in sorted(parameters, key=lambda one: math.prod(one.shape), reverse=True):
        rank = sizes.index(min(sizes))
        found[rank].append(parameter)
        sizes[rank] += math.prod(parameter.shape)
    return found
