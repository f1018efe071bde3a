"""Pictures to measure a data pipeline with, where there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)
"""Width and height, ImageNet's most frequent."""


def write_pictures(folder: Path, count: int, classes: int = 2) -> None:
    """Write JPEG files FOLDER/CLASS/NUMBER.jpg of ImageNet's usual size, always the same ones.

    Their spectrum falls with the frequency as that of photographs does, so that a file is about as
    large, and takes as long to decode, as theirs.
    """
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class_{number % classes}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        _picture(rng).save(path, quality=95)


def _picture(rng: np.random.Generator) -> Image.Image:
    width, height = SIZE
    total = np.zeros((height, width, 3))
    scale = 128
    while scale >= 1:  # octaves of noise, each weaker than the one before by sqrt(2)
        noise = rng.integers(0, 256, (-(-height // scale), -(-width // scale), 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)
        total += (np.asarray(layer, np.float64) - 127.5) * (scale / 128) ** 0.5
        scale //= 2
    return Image.fromarray(np.clip(total * 0.6 + 127.5, 0, 255).astype(np.uint8))
