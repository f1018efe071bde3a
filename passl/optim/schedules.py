"""Learning rates as functions of the step. The config speaks of epochs; they become steps here."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from passl.optim import SCHEDULES
from passl.utils.types import Fraction, NonNegativeFloat, PositiveFloat


class Schedule:
    """What all schedules have: linear warm-up to `lr` in front, and cool-down behind.

    As in timm, whose schedulers both papers' code uses, epochs are counted from the start of the
    run, and warm-up replaces the beginning; unlike there, the rate changes with every step. A
    subclass gives `decayed(step)`, the rate of a step behind the warm-up.

    Args:
        lr: what warm-up leads to.
        steps_per_epoch: steps of an epoch.
        epochs: of the run.
        warmup_epochs: length of the warm-up.
        warmup_lr: where it begins. A rate that was scaled down to a small batch may lie below;
            then it begins there.
        cooldown_epochs: so many epochs earlier the schedule ends, and keeps the rate that it came
            to.
        per_epoch: whether the rate changes with epochs only.

    Raises:
        ValueError: warm-up and cool-down do not fit into the run, or a rate is negative.
    """

    def __init__(
        self,
        lr: float,
        steps_per_epoch: int,
        epochs: int,
        warmup_epochs: float,
        warmup_lr: float,
        cooldown_epochs: float,
        per_epoch: bool = False,
    ):
        if not 0 <= cooldown_epochs < epochs:
            raise ValueError(
                f"lr_scheduler.cooldown_epochs {cooldown_epochs} must be at least 0 and less than "
                f"the {epochs} epochs of the run"
            )
        if not 0 <= warmup_epochs <= epochs - cooldown_epochs:
            without = f", less {cooldown_epochs} of cool-down" if cooldown_epochs else ""
            raise ValueError(
                f"lr_scheduler.warmup_epochs {warmup_epochs} must lie between 0 and the {epochs} "
                f"epochs of the run{without}"
            )
        self.lr = lr
        self.warmup_lr = min(warmup_lr, lr)
        self.warmup_steps = round(warmup_epochs * steps_per_epoch)
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs - cooldown_epochs
        # A cool-down that would take every step leaves the schedule one: else it would have no
        # length, and the whole run its lowest rate.
        self.last_step = max(round(self.epochs * steps_per_epoch), 1)
        self.stride = steps_per_epoch if per_epoch else 1

    def __call__(self, step: int) -> float:
        step -= step % self.stride
        if step < self.warmup_steps:
            return self.warmup_lr + (self.lr - self.warmup_lr) * step / self.warmup_steps
        return self.decayed(min(step, self.last_step))

    def decayed(self, step: int) -> float:
        """The rate of a step behind the warm-up."""
        raise NotImplementedError


@SCHEDULES.register
class Constant(Schedule):
    """`lr` for good.

    Args:
        warmup_epochs: length of the warm-up.
        warmup_lr: where it begins.
        cooldown_epochs: changes nothing here.
    """

    def __init__(
        self,
        lr: float,
        steps_per_epoch: int,
        epochs: int,
        /,
        *,
        warmup_epochs: float = 0,
        warmup_lr: NonNegativeFloat = 1e-6,
        cooldown_epochs: float = 0,
    ):
        super().__init__(lr, steps_per_epoch, epochs, warmup_epochs, warmup_lr, cooldown_epochs)

    def decayed(self, step: int) -> float:
        return self.lr


@SCHEDULES.register
class Cosine(Schedule):
    """Half a cosine from `lr` to `min_lr` (Loshchilov and Hutter, arXiv 1608.03983, without
    restarts).

    Args:
        min_lr: where the cosine ends. It never lies above `lr`.
        decay_epochs: length of the cosine, if it shall end before the run and `min_lr` stay; null
            for all epochs that there are.
        warmup_prefix: whether the cosine begins behind the warm-up (MindCV's), or with the run, so
            that warm-up replaces its beginning (timm's default).
        per_epoch: whether the rate is constant within an epoch, as in the code of both papers.
        warmup_epochs: length of the warm-up.
        warmup_lr: where it begins.
        cooldown_epochs: so many epochs earlier the cosine ends.
    """

    def __init__(
        self,
        lr: float,
        steps_per_epoch: int,
        epochs: int,
        /,
        *,
        min_lr: NonNegativeFloat = 1e-5,
        decay_epochs: float | None = None,
        warmup_prefix: bool = False,
        per_epoch: bool = False,
        warmup_epochs: float = 5,
        warmup_lr: NonNegativeFloat = 1e-6,
        cooldown_epochs: float = 0,
    ):
        super().__init__(
            lr, steps_per_epoch, epochs, warmup_epochs, warmup_lr, cooldown_epochs, per_epoch
        )
        first = warmup_epochs if warmup_prefix else 0
        last = self.epochs if decay_epochs is None else first + decay_epochs
        fits = first < last and warmup_epochs <= last <= self.epochs
        if decay_epochs is not None and not fits:
            raise ValueError(
                f"lr_scheduler.decay_epochs {decay_epochs} ends the decay at epoch {last}; it must "
                f"be above 0 and end it between {warmup_epochs}, the end of the warm-up, and "
                f"{self.epochs}, the last epoch without cool-down"
            )
        self.min_lr = min(min_lr, lr)
        self.first_step = self.warmup_steps if warmup_prefix else 0
        self.end_step = max(round(last * steps_per_epoch), 1)

    def decayed(self, step: int) -> float:
        progress = 1.0  # a warm-up as long as the run leaves no step to a cosine behind it
        if step < self.end_step:
            progress = (step - self.first_step) / (self.end_step - self.first_step)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2


@SCHEDULES.register
class Polynomial(Schedule):
    """From `lr` to `min_lr` as (1 - progress) ** power, with progress from 0 to 1 over the run.

    Args:
        power: 1 is a straight line; above, the rate falls fast first.
        min_lr: where it ends. It never lies above `lr`.
        warmup_epochs: length of the warm-up.
        warmup_lr: where it begins.
        cooldown_epochs: so many epochs earlier `min_lr` is reached.
    """

    def __init__(
        self,
        lr: float,
        steps_per_epoch: int,
        epochs: int,
        /,
        *,
        power: PositiveFloat,
        min_lr: NonNegativeFloat = 0.0,
        warmup_epochs: float = 0,
        warmup_lr: NonNegativeFloat = 1e-6,
        cooldown_epochs: float = 0,
    ):
        super().__init__(lr, steps_per_epoch, epochs, warmup_epochs, warmup_lr, cooldown_epochs)
        self.power, self.min_lr = power, min(min_lr, lr)

    def decayed(self, step: int) -> float:
        return self.min_lr + (self.lr - self.min_lr) * (1 - step / self.last_step) ** self.power


@SCHEDULES.register
class Linear(Polynomial):
    """A straight line from `lr` to `min_lr`.

    Args:
        min_lr: where it ends. It never lies above `lr`.
        warmup_epochs: length of the warm-up.
        warmup_lr: where it begins.
        cooldown_epochs: so many epochs earlier `min_lr` is reached.
    """

    def __init__(
        self,
        lr: float,
        steps_per_epoch: int,
        epochs: int,
        /,
        *,
        min_lr: NonNegativeFloat = 0.0,
        warmup_epochs: float = 0,
        warmup_lr: NonNegativeFloat = 1e-6,
        cooldown_epochs: float = 0,
    ):
        super().__init__(
            lr,
            steps_per_epoch,
            epochs,
            power=1.0,
            min_lr=min_lr,
            warmup_epochs=warmup_epochs,
            warmup_lr=warmup_lr,
            cooldown_epochs=cooldown_epochs,
        )


@SCHEDULES.register
class MultiStep(Schedule):
    """`lr`, multiplied by `gamma` at every milestone.

    Args:
        milestones: the epochs, ascending, from whose first step on the rate is lower.
            (PyTorch's count; timm's scheduler is an epoch earlier.)
        gamma: what the rate is multiplied by.
        warmup_epochs: length of the warm-up.
        warmup_lr: where it begins.
        cooldown_epochs: in so many epochs at the end the rate is not multiplied any more.
    """

    def __init__(
        self,
        lr: float,
        steps_per_epoch: int,
        epochs: int,
        /,
        *,
        milestones: Sequence[float],
        gamma: Fraction = 0.1,
        warmup_epochs: float = 0,
        warmup_lr: NonNegativeFloat = 1e-6,
        cooldown_epochs: float = 0,
    ):
        super().__init__(lr, steps_per_epoch, epochs, warmup_epochs, warmup_lr, cooldown_epochs)
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"lr_scheduler.milestones {list(milestones)} must ascend")
        if milestones and not 0 < milestones[0] <= milestones[-1] <= self.epochs:
            raise ValueError(
                f"lr_scheduler.milestones {list(milestones)} must be above 0 and at most "
                f"{self.epochs}, the epochs of the run without cool-down"
            )
        self.gamma = gamma
        self.milestone_steps = [round(milestone * steps_per_epoch) for milestone in milestones]

    def decayed(self, step: int) -> float:
        return self.lr * self.gamma ** bisect_right(self.milestone_steps, step)


@SCHEDULES.register
class Step(Schedule):
    """`lr`, multiplied by `gamma` every `decay_epochs` epochs.

    Args:
        decay_epochs: how many epochs a rate lasts.
        gamma: what the rate is multiplied by.
        warmup_epochs: length of the warm-up.
        warmup_lr: where it begins.
        cooldown_epochs: in so many epochs at the end the rate is not multiplied any more.
    """

    def __init__(
        self,
        lr: float,
        steps_per_epoch: int,
        epochs: int,
        /,
        *,
        decay_epochs: float,
        gamma: Fraction = 0.1,
        warmup_epochs: float = 0,
        warmup_lr: NonNegativeFloat = 1e-6,
        cooldown_epochs: float = 0,
    ):
        super().__init__(lr, steps_per_epoch, epochs, warmup_epochs, warmup_lr, cooldown_epochs)
        if not 0 < decay_epochs <= self.epochs:
            raise ValueError(
                f"lr_scheduler.decay_epochs {decay_epochs} must be above 0 and at most "
                f"{self.epochs}, the epochs of the run without cool-down"
            )
        self.gamma = gamma
        self.decay_steps = max(round(decay_epochs * steps_per_epoch), 1)

    def decayed(self, step: int) -> float:
        return self.lr * self.gamma ** (step // self.decay_steps)


def build_schedule(
    section: Mapping[str, Any], lr: float, steps_per_epoch: int, epochs: int
) -> Callable[[int], float]:
    """The schedule of an `lr_scheduler` section, for a run of that length."""
    return SCHEDULES.build(section, lr, steps_per_epoch, epochs)
