"""What options of the engine's parts must fulfil beyond their types. Constructors and the check of
a config call the same functions, which need no paddle.

A function takes the options of a part by name, and raises a ValueError for what is out of range.
"""

from __future__ import annotations

import math
from typing import Any


def precision(*, loss_scale: float, **_: Any) -> None:
    """Of `Precision`."""
    if not 0 < loss_scale < math.inf:
        raise ValueError(f"amp.loss_scale {loss_scale} must be above 0")


def average(*, decay: float | None, **_: Any) -> None:
    """Of `WeightAverage`."""
    if decay is not None and not 0 <= decay < 1:
        raise ValueError(f"ema.decay {decay} must be at least 0 and below 1, such as 0.9999")


def freezing(*, epochs: int | None, **_: Any) -> None:
    """Of `Freezing`."""
    if epochs is not None and epochs < 1:
        raise ValueError(f"freeze.epochs {epochs} must be at least 1, or null for all epochs")


def saver(*, interval: int | None, **_: Any) -> None:
    """Of `Saver`."""
    if interval is not None and interval < 1:
        raise ValueError(
            f"checkpoint.interval {interval} must be at least 1 step; null for none within an epoch"
        )
