"""Weights of classes in a loss."""

from __future__ import annotations

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
