"""How a batch becomes an update of the weights. This is the only place that knows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import paddle

from passl.distributed.ranks import Ranks
from passl.engine.learner import Learner
from passl.step_times import StepTimes


class Outcome:
    """Loss and stop flag of a step, over all ranks.

    They are reduced in one operation and copied to the host while the device goes on. The host
    waits for the device when a value is first read, so a step whose outcome is read after the next
    one has been queued costs no wait.

    Args:
        own_loss: scalar tensor, the mean over this rank's part of the batch.
        stop: whether this rank was asked to stop.
        lr: learning rate of the step.
    """

    def __init__(self, own_loss: Any, stop: bool, lr: float, ranks: Ranks):
        self.lr, self._world = lr, ranks.world
        own = paddle.stack([own_loss.astype("float64"), paddle.full([], float(stop), "float64")])
        reduced = paddle.concat([ranks.all_reduce(own.clone()), own[:1]])
        self._copy = HostCopy(reduced, ranks.times)

    @property
    def loss(self) -> float:
        """Mean over the batch of all ranks."""
        return self._copy.values()[0] / self._world

    @property
    def own_loss(self) -> float:
        """Mean over this rank's part."""
        return self._copy.values()[2]

    @property
    def is_finite(self) -> bool:
        """Whether the loss of every rank is finite."""
        return math.isfinite(self.loss)

    @property
    def stop(self) -> bool:
        """Whether any rank was asked to stop."""
        return self._copy.values()[1] > 0


class HostCopy:
    """A tensor on its way to the host. (The path for GPUs is untested: no GPU was available.)

    Args:
        times: count the waiting for it.
    """

    def __init__(self, tensor: Any, times: StepTimes):
        self._times = times
        self._event: Any = None
        if tensor.place.is_gpu_place():
            # `numpy()` would wait for everything that is queued, the event waits for this copy.
            tensor = tensor.pin_memory(blocking=False)
            self._event = paddle.device.Event()
            self._event.record()
        self._tensor = tensor

    def values(self) -> list[float]:
        if self._event is not None:
            with self._times.waiting():
                self._event.synchronize()
        return self._tensor.numpy().tolist()


def train_step(
    learner: Learner, images: Any, targets: Any, step: int, stop: bool = False
) -> Outcome:
    """Make one update of the model's weights.

    Dropout and drop path draw from (seed, rank, step), so a resumed run needs no generator's state,
    and an evaluation between two steps changes nothing.

    With `learner.skip_nonfinite` the update is left out if the loss of any rank is not finite, and
    nothing changes. That needs the loss on the host before the update, while the device computes
    the backward pass. Without it the update is always made: the caller reads the outcome later, and
    must end the run, without saving it, if the loss is not finite.

    Args:
        learner: its model is in training mode.
        images: [B, channels, height, width], of this rank.
        targets: labels [B] or targets [B, classes].
        step: steps made before this one.
        stop: whether this rank was asked to stop.
    """
    ranks, precision, scaler = learner.ranks, learner.precision, learner.precision.scaler
    paddle.seed(step_seed(learner.seed, ranks.rank, step))
    lr = learner.schedule(step + learner.schedule_shift)
    learner.optimizer.set_lr(lr)
    # The forward pass takes the batch into the statistics, before its loss is known.
    statistics = [s.detach().clone() for s in learner.statistics] if learner.skip_nonfinite else []
    mean_weight = learner.mean_weight(targets)
    total = paddle.zeros([])
    for share, images_part, targets_part, is_last in _parts(images, targets, learner.accumulate):
        with ranks.synchronised(learner.wrapped, is_last), precision.weights(learner.model):
            with precision.autocast():
                loss = share * learner.objective(
                    learner.wrapped, images_part, targets_part, mean_weight
                )
            total = total + loss.detach()
            if is_last:
                outcome = Outcome(total, stop, lr, ranks)
            scaler.scale(loss).backward()
    if learner.skip_nonfinite and not outcome.is_finite:
        for statistic, before in zip(learner.statistics, statistics, strict=True):
            statistic.set_value(before)
    else:
        # Loss scaling waits for its check of the gradients.
        with ranks.times.waiting() if scaler.is_enable() else nullcontext():
            scaler.step(learner.optimizer)
            scaler.update()
        learner.average.update(step)
    # Clear to None: with zero gradients, unused parameters would still decay.
    learner.optimizer.clear_grad(set_to_zero=False)
    return outcome


def step_seed(seed: int, rank: int, step: int) -> int:
    """A seed for Paddle's generator, different for each step and rank (but for hash collisions)."""
    return int(np.random.SeedSequence((seed, rank, step)).generate_state(1)[0])


def _parts(images: Any, targets: Any, count: int) -> Iterator[tuple[float, Any, Any, bool]]:
    """The batch in `count` parts, or one for each sample if there are fewer.

    Yields:
        The part's share of the batch, its images, its targets, and whether it is the last.
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
