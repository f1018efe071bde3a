"""Learning rates as functions of the step. Options are in epochs, which become steps here.

As in timm, whose schedulers the code of both papers uses, epochs are counted from the start of the
run, and a linear warmup replaces the beginning. Unlike there, the rate changes with every step.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from passl.optim import SCHEDULES
from passl.utils.types import Fraction, NonNegativeFloat, PositiveFloat


@dataclass
class Schedule:
    """Base of the schedules: warmup to `lr` at the beginning, cooldown at the end. A subclass
    defines `decayed(step)`, the rate of a step after the warmup.

    Args:
        lr: the rate after the warmup.
        steps_per_epoch: steps of an epoch.
        epochs: of the run.
        warmup_epochs: length of the warmup.
        warmup_lr: rate of its first step, but at most `lr`, which may be scaled to a small batch.
        cooldown_epochs: the schedule ends that many epochs before the run, and keeps its last rate.

    Raises:
        ValueError: the options do not fit into the run.
    """

    lr: float
    steps_per_epoch: int
    epochs: int
    _: KW_ONLY
    warmup_epochs: float = 0
    warmup_lr: NonNegativeFloat = 1e-6
    cooldown_epochs: float = 0

    def __post_init__(self) -> None:
        if not 0 <= self.cooldown_epochs < self.epochs:
            raise ValueError(
                f"lr_scheduler.cooldown_epochs {self.cooldown_epochs} must be at least 0 and less "
                f"than the {self.epochs} epochs of the run"
            )
        if not 0 <= self.warmup_epochs <= self.last_epoch:
            without = f" minus {self.cooldown_epochs} of cooldown" * bool(self.cooldown_epochs)
            raise ValueError(
                f"lr_scheduler.warmup_epochs {self.warmup_epochs} must lie between 0 and the "
                f"{self.epochs} epochs of the run{without}"
            )
        self.warmup_lr = min(self.warmup_lr, self.lr)
        self.warmup_steps = self.steps_in(self.warmup_epochs)
        # At least one, or else a short run with a cooldown would have its lowest rate throughout.
        self.last_step = max(self.steps_in(self.last_epoch), 1)

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.warmup_lr + (self.lr - self.warmup_lr) * step / self.warmup_steps
        return self.decayed(min(step, self.last_step))

    @property
    def last_epoch(self) -> float:
        """Where the schedule ends."""
        return self.epochs - self.cooldown_epochs

    def steps_in(self, epochs: float) -> int:
        return round(epochs * self.steps_per_epoch)

    def decayed(self, step: int) -> float:
        raise NotImplementedError


@SCHEDULES.register
@dataclass
class Constant(Schedule):
    """`lr` after the warmup."""

    def decayed(self, step: int) -> float:
        return self.lr


@SCHEDULES.register
@dataclass(kw_only=True)
class Cosine(Schedule):
    """Half a cosine from `lr` to `min_lr` (Loshchilov and Hutter, arXiv 1608.03983, without
    restarts).

    Args:
        min_lr: rate at the end of the cosine, but at most `lr`.
        decay_epochs: length of the cosine, after which the rate stays `min_lr`; null for all
            epochs that are left.
        warmup_prefix: whether the cosine begins after the warmup (MindCV), or with the run, so that
            the warmup replaces its beginning (timm's default).
        per_epoch: whether the rate is constant within an epoch, as in the code of both papers.
    """

    min_lr: NonNegativeFloat = 1e-5
    decay_epochs: float | None = None
    warmup_prefix: bool = False
    per_epoch: bool = False
    warmup_epochs: float = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        first = self.warmup_epochs if self.warmup_prefix else 0
        last = self.last_epoch if self.decay_epochs is None else first + self.decay_epochs
        fits = first < last and self.warmup_epochs <= last <= self.last_epoch
        if self.decay_epochs is not None and not fits:
            raise ValueError(
                f"lr_scheduler.decay_epochs {self.decay_epochs} ends the decay at epoch {last}; it "
                f"must be above 0 and end it between {self.warmup_epochs}, the end of the warmup, "
                f"and {self.last_epoch}, the last epoch without cooldown"
            )
        self.min_lr = min(self.min_lr, self.lr)
        self.first_step = self.warmup_steps if self.warmup_prefix else 0
        self.end_step = max(self.steps_in(last), 1)

    def __call__(self, step: int) -> float:
        return super().__call__(step - step % self.steps_per_epoch if self.per_epoch else step)

    def decayed(self, step: int) -> float:
        progress = 1.0  # a warmup as long as the run leaves no step to the cosine
        if step < self.end_step:
            progress = (step - self.first_step) / (self.end_step - self.first_step)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2


@SCHEDULES.register
@dataclass(kw_only=True)
class Polynomial(Schedule):
    """From `lr` to `min_lr` as (1 - progress) ** power, with progress from 0 to 1 over the run.

    Args:
        power: 1 is a straight line; above 1, the rate falls fast first.
        min_lr: rate at the end, but at most `lr`.
    """

    power: PositiveFloat
    min_lr: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.min_lr = min(self.min_lr, self.lr)

    def decayed(self, step: int) -> float:
        return self.min_lr + (self.lr - self.min_lr) * (1 - step / self.last_step) ** self.power


@SCHEDULES.register
@dataclass(kw_only=True)
class Linear(Schedule):
    """A straight line from `lr` to `min_lr`.

    Args:
        min_lr: rate at the end, but at most `lr`.
    """

    min_lr: NonNegativeFloat = 0.0

    def decayed(self, step: int) -> float:
        end = min(self.min_lr, self.lr)
        return end + (self.lr - end) * (1 - step / self.last_step)


@SCHEDULES.register
@dataclass(kw_only=True)
class MultiStep(Schedule):
    """`lr`, multiplied by `gamma` at every milestone.

    Args:
        milestones: ascending epochs, at whose first step the rate falls. (PyTorch counts so too;
            timm's scheduler is an epoch earlier.)
        gamma: factor of the rate.
    """

    milestones: Sequence[float]
    gamma: Fraction = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        milestones = list(self.milestones)
        if milestones != sorted(set(milestones)):
            raise ValueError(f"lr_scheduler.milestones {milestones} must ascend")
        if milestones and not 0 < milestones[0] <= milestones[-1] <= self.last_epoch:
            raise ValueError(
                f"lr_scheduler.milestones {milestones} must be above 0 and at most "
                f"{self.last_epoch}, the epochs of the run without cooldown"
            )
        self.milestone_steps = [self.steps_in(milestone) for milestone in milestones]

    def decayed(self, step: int) -> float:
        return self.lr * self.gamma ** bisect_right(self.milestone_steps, step)


@SCHEDULES.register
@dataclass(kw_only=True)
class Step(Schedule):
    """`lr`, multiplied by `gamma` every `decay_epochs` epochs.

    Args:
        decay_epochs: epochs between two changes.
        gamma: factor of the rate.
    """

    decay_epochs: float
    gamma: Fraction = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay_epochs <= self.last_epoch:
            raise ValueError(
                f"lr_scheduler.decay_epochs {self.decay_epochs} must be above 0 and at most "
                f"{self.last_epoch}, the epochs of the run without cooldown"
            )

    def decayed(self, step: int) -> float:
        return self.lr * self.gamma ** (step // max(self.steps_in(self.decay_epochs), 1))


def build_schedule(
    section: Mapping[str, Any], lr: float, steps_per_epoch: int, epochs: int
) -> Callable[[int], float]:
    """The schedule of an `lr_scheduler` section."""
    return SCHEDULES.build(section, lr, steps_per_epoch, epochs)
