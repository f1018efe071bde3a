"""How a batch becomes an update. The only place that knows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
from paddle import nn

from passl.engine.distributed import Ranks


def train_step(
    model: nn.Layer,
    images,
    targets,
    loss_fn: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    schedule: Callable[[int], float],
    step: int,
    seed: int,
    ranks: Ranks,
):
    """One update of the model's weights.

    What is random in the network (dropout, drop path) is drawn anew from (seed, rank, step): a
    resumed run needs no generator's state, and what happened between two steps, such as an
    evaluation, cannot change it.

    Args:
        model: in training mode.
        images, targets: of this rank's batch.
        step: steps made before this one.

    Returns:
        The loss of the batch, before the update, still on the device.
    """
    paddle.seed(step_seed(seed, ranks.rank, step))
    optimizer.set_lr(schedule(step))
    loss = loss_fn(model(images), targets)
    loss.backward()
    optimizer.step()
    optimizer.clear_grad(
        set_to_zero=False
    )  # a zero would still decay and move a parameter that was not used
    return loss.detach()


def step_seed(seed: int, rank: int, step: int) -> int:
    """A seed for Paddle's generator that no other step or rank has but by chance."""
    return int(np.random.SeedSequence((seed, rank, step)).generate_state(1)[0])
