"""Means, deviations and intervals of few paired runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Student's t, two-sided 95 %, by degrees of freedom (any table of the distribution).
_T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation of the sample (n - 1)."""
    return float(np.mean(values)), float(np.std(values, ddof=1))


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean of ours - theirs, and half the width of its 95 % confidence interval.

    Pairs share seed and samples; differences are taken as normal (Student's t). Two to ten pairs. A
    bootstrap of so few pairs has no interval of that confidence: its resampled means lie between
    the smallest and the largest difference, which miss the true mean of three pairs in one study of
    four.
    """
    mean, deviation = mean_and_deviation(np.subtract(ours, theirs).tolist())
    return mean, _T_95[len(ours) - 1] * deviation / math.sqrt(len(ours))
