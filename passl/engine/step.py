"""How a batch becomes an update. The only place that knows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import paddle

from passl.distributed.ranks import STATISTICS
from passl.engine.learner import Learner


@dataclass(frozen=True)
class Outcome:
    """What came of a step.

    Args:
        loss: mean over the batch of all ranks.
        own_loss: of this rank's part.
        gradient_norm: of all gradients of this rank together; only where the loss is not finite.
    """

    loss: float
    own_loss: float
    gradient_norm: float | None = None

    @property
    def is_finite(self) -> bool:
        """Whether the weights were updated, on this rank and on all others."""
        return math.isfinite(self.loss)


def train_step(learner: Learner, images, targets, step: int) -> Outcome:
    """One update of the model's weights, unless the loss of any rank is not finite.

    What is random in the network (dropout, drop path) is drawn anew from (seed, rank, step): a
    resumed run needs no generator's state, and what happened between two steps, such as an
    evaluation, cannot change it.

    Args:
        learner: its model is in training mode.
        images, targets: of this rank's batch.
        step: steps made before this one.

    Returns:
        The loss before the update, and whether there was one.
    """
    paddle.seed(step_seed(learner.seed, learner.ranks.rank, step))
    learner.optimizer.set_lr(learner.schedule(step + learner.schedule_shift))
    scaler, total = learner.precision.scaler, paddle.zeros([])
    statistics, mean_weight = _running_statistics(learner.model), learner.mean_weight(targets)
    for share, images_part, targets_part, is_last in _parts(images, targets, learner.accumulate):
        synchronised = learner.ranks.synchronised(learner.wrapped, is_last)
        with synchronised, learner.precision.weights(learner.model):
            with learner.precision.autocast():
                loss = share * learner.objective(
                    learner.wrapped, images_part, targets_part, mean_weight
                )
            scaler.scale(loss).backward()
        total = total + loss.detach()
    own_loss = total.item()
    # Every rank must know, so that all of them make the update, or none does.
    outcome = Outcome(learner.ranks.mean(own_loss), own_loss)
    if outcome.is_finite:
        scaler.step(learner.optimizer)
        scaler.update()
        learner.average.update(step)
    else:
        # The forward pass has taken the batch into them already.
        for statistic, before in statistics:
            statistic.set_value(before)
        norm = _gradient_norm(learner.model) / learner.precision.loss_scale
        outcome = replace(outcome, gradient_norm=norm)
    # A zero would still decay and move a parameter that was not used.
    learner.optimizer.clear_grad(set_to_zero=False)
    return outcome


def _running_statistics(model) -> list[tuple[Any, Any]]:
    """Those of BatchNorm, each with a copy."""
    return [
        (tensor, tensor.detach().clone())
        for name, tensor in model.named_parameters()
        if name.endswith(STATISTICS)
    ]


def _gradient_norm(model) -> float:
    squares = [(p.grad**2).sum() for p in model.parameters() if p.grad is not None]
    return math.sqrt(sum(square.item() for square in squares))


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
