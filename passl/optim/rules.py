"""What options of an `optimizer` section must fulfil beyond their types. Constructors and the check
of a config call the same functions, which need no paddle.

A function has the name of the entry that it belongs to, takes its options by name, and raises a
ValueError for values that are out of range or do not go together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def section(
    *, lr: float, lr_base_batch: int | None, lr_scale: str, layer_decay: float | None, **_: Any
) -> None:
    """What the section of every optimizer has."""
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr {lr} must not be negative, and must be finite")
    check_scaling(lr_base_batch, lr_scale)
    check_layer_decay(layer_decay)


def check_scaling(lr_base_batch: int | None, lr_scale: str) -> None:
    """Of `optim.optimizers.scaled_lr`."""
    if lr_base_batch is None and lr_scale != "linear":
        raise ValueError(
            f"lr_scale {lr_scale} scales nothing without lr_base_batch; give the batch that lr is "
            "meant for"
        )
    if lr_base_batch is not None and lr_base_batch < 1:
        raise ValueError(f"lr_base_batch {lr_base_batch} must be at least 1 sample")


def check_layer_decay(layer_decay: float | None) -> None:
    """Of `optim.parameters.layer_rates`."""
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(
            f"layer_decay {layer_decay} must be above 0 and at most 1; leave it out for one rate"
        )


def algorithm(
    *,
    weight_decay: float,
    betas: Sequence[float] = (),
    momentum: float = 0.0,
    alpha: float = 0.0,
    eps: float = 1.0,
    **_: Any,
) -> None:
    """All of `optim.algorithms`; each has some of these options, which mean the same in all."""
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay {weight_decay} must be at least 0; 0 is none")
    fractions = [("momentum", momentum), ("alpha", alpha), *(("betas", beta) for beta in betas)]
    for name, number in fractions:
        if not 0 <= number < 1:
            raise ValueError(f"{name} {number} must be at least 0 and below 1")
    if not 0 < eps < math.inf:
        raise ValueError(f"eps {eps} must be above 0, or a weight without gradient is divided by 0")


def clip(**options: Any) -> None:
    """All of `optim.clips`."""
    for name in ("value", "clip_factor", "eps"):
        if name in options and not options[name] > 0:
            raise ValueError(f"grad_clip.{name} {options[name]} must be above 0")
