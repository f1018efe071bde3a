"""Random images, and a test of uniform draws."""

from __future__ import annotations

import numpy as np
from PIL import Image


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image without a black pixel."""
    pixels = np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def check_uniform(draws: dict[str, np.ndarray]) -> None:
    """Check that draws are uniform from 0 to 1, and independent of each other."""
    for name, values in draws.items():
        # Kolmogorov and Smirnov's statistic. A sample of n uniform values in a thousand exceeds
        # 1.95 / sqrt(n).
        count, ordered = len(values), np.sort(values)
        steps = np.arange(count + 1) / count
        distance = max(np.abs(ordered - steps[:-1]).max(), np.abs(ordered - steps[1:]).max())
        assert distance <= 1.95 / count**0.5, name
    correlations = np.corrcoef(list(draws.values())) - np.eye(len(draws))
    assert np.abs(correlations).max() < 0.06
