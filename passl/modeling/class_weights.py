"""Weights of classes in a loss. Imports no paddle, so that a config can be checked without it."""

from __future__ import annotations

import math
from collections.abc import Sequence

BALANCED = "balanced"


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """n / (classes * count) for each class: scikit-learn's `compute_class_weight("balanced")`.

    Args:
        counts: training samples of each class, n together. A class without any, which the data
            leaves out, has weight 0 and does not count.
    """
    classes = sum(count > 0 for count in counts)
    return [sum(counts) / (classes * count) if count else 0.0 for count in counts]


def check_class_weights(weights: Sequence[float], classes: int | None = None) -> None:
    """Raise ValueError for weights that make no sense.

    Args:
        classes: how many there must be; null for any number.
    """
    if classes is not None and len(weights) != classes:
        raise ValueError(
            f"class_weights are {len(weights)} numbers, but the head has {classes} classes; give "
            "one for each, in the order of the labels, or balanced"
        )
    wrong = next((w for w in weights if not (math.isfinite(w) and w >= 0)), None)
    if wrong is not None:
        raise ValueError(f"class_weights: {wrong} must be finite and not negative")
    if not any(weights):
        raise ValueError("class_weights are all 0, so that no class would count")
