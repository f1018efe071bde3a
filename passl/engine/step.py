"""How a batch becomes an update. The only place that knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle

from passl.engine.learner import Learner


def train_step(learner: Learner, images, targets, step: int):
    """One update of the model's weights.

    What is random in the network (dropout, drop path) is drawn anew from (seed, rank, step): a
    resumed run needs no generator's state, and what happened between two steps, such as an
    evaluation, cannot change it.

    Args:
        learner: its model is in training mode.
        images, targets: of this rank's batch.
        step: steps made before this one.

    Returns:
        The loss of the batch, before the update, still on the device.
    """
    paddle.seed(step_seed(learner.seed, learner.ranks.rank, step))
    learner.optimizer.set_lr(learner.schedule(step))
    scaler, total = learner.precision.scaler, 0.0
    for share, images_part, targets_part, is_last in _parts(images, targets, learner.accumulate):
        with learner.ranks.synchronised(learner.wrapped, is_last):
            with learner.precision.autocast():
                loss = learner.objective(learner.wrapped, images_part, targets_part) * share
            scaler.scale(loss).backward()
        total = total + loss.detach()
    scaler.step(learner.optimizer)
    scaler.update()
    # A zero would still decay and move a parameter that was not used.
    learner.optimizer.clear_grad(set_to_zero=False)
    learner.average.update(step)
    return total


def step_seed(seed: int, rank: int, step: int) -> int:
    """A seed for Paddle's generator that no other step or rank has but by chance."""
    return int(np.random.SeedSequence((seed, rank, step)).generate_state(1)[0])


def _parts(images, targets, count: int) -> Iterator[tuple[float, Any, Any, bool]]:
    """The batch in `count` parts, or fewer if it is smaller, each with its share of the batch and
    whether it is the last.
    """
    size = images.shape[0]
    count = min(count, size)
    ends = [size * (part + 1) // count for part in range(count)]
    for start, end in zip([0, *ends], ends, strict=False):
        whole = end - start == size
        yield (
            (end - start) / size,
            images if whole else images[start:end],
            targets if whole else targets[start:end],
            end == size,
        )
