"""Optimizer state that is spread over the ranks (ZeRO stage 1, arXiv 1910.02054), by Paddle's
engine: each rank keeps the state of some parameters, updates them, and hands them to the others.
"""

from __future__ import annotations

import logging
from typing import Any

from paddle import nn
from paddle.distributed import fleet

from passl.engine.distributed import Ranks


def shard(model: nn.Layer, optimizer: Any, ranks: Ranks) -> tuple[nn.Layer, Any]:
    """The model as training calls it, and an optimizer that has the state of its share only.

    Weights start as rank 0 has them; gradients are averaged over the ranks in the optimizer's step.

    Args:
        model: on every rank.
        optimizer: of all its parameters, new.
        ranks: more than one.
    """
    logging.getLogger("FleetLog").setLevel(logging.WARNING)
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {
        "dp_degree": 1,
        "mp_degree": 1,
        "pp_degree": 1,
        "sharding_degree": ranks.world,
    }
    fleet.init(is_collective=True, strategy=strategy, log_level="WARNING")
    return fleet.distributed_model(model), fleet.distributed_optimizer(optimizer)
