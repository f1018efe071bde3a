"""Learning rates as functions of the step. The config speaks of epochs; they become steps here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from passl.optim import SCHEDULES


class WarmUp:
    """From `start` to `lr` in equal steps.

    A rate that was scaled down to a small batch may lie below `start`; then it does not rise to it.
    """

    def __init__(self, lr: float, start: float, steps: int):
        self.lr, self.start, self.steps = lr, min(start, lr), steps

    def __call__(self, step: int) -> float:
        return self.start + (self.lr - self.start) * step / self.steps


class Cosine:
    """Linear warm-up, then half a cosine from `lr` to `min_lr`.

    As in timm's scheduler, which both papers' code uses, the cosine runs over the whole training
    and warm-up replaces its beginning; unlike there the rate changes with every step, not with
    every epoch.

    Args:
        warmup_epochs: length of the warm-up.
        warmup_lr: where it begins.
        min_lr: where the cosine ends.
    """

    def __init__(
        self,
        lr: float,
        steps_per_epoch: int,
        epochs: int,
        /,
        *,
        warmup_epochs: float = 5,
        warmup_lr: float = 1e-6,
        min_lr: float = 1e-5,
    ):
        if not 0 <= warmup_epochs <= epochs:
            raise ValueError(
                f"lr_scheduler.warmup_epochs {warmup_epochs} must lie between 0 and the {epochs} "
                "epochs of the run"
            )
        self.warm_up = WarmUp(lr, warmup_lr, round(warmup_epochs * steps_per_epoch))
        self.lr, self.min_lr = lr, min(min_lr, lr)
        self.total_steps = steps_per_epoch * epochs

    def __call__(self, step: int) -> float:
        if step < self.warm_up.steps:
            return self.warm_up(step)
        progress = min(step / self.total_steps, 1.0)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2


class Constant:
    """Linear warm-up, then `lr` for good.

    Args:
        warmup_epochs: length of the warm-up.
        warmup_lr: where it begins.
    """

    def __init__(
        self,
        lr: float,
        steps_per_epoch: int,
        epochs: int,
        /,
        *,
        warmup_epochs: float = 0,
        warmup_lr: float = 1e-6,
    ):
        self.warm_up = WarmUp(lr, warmup_lr, round(warmup_epochs * steps_per_epoch))
        self.lr = lr

    def __call__(self, step: int) -> float:
        if step < self.warm_up.steps:
            return self.warm_up(step)
        return self.lr


def build_schedule(
    section: Mapping[str, Any], lr: float, steps_per_epoch: int, epochs: int
) -> Callable[[int], float]:
    """The schedule of an `lr_scheduler` section, for a run of that length."""
    return SCHEDULES.build(section, lr, steps_per_epoch, epochs)
