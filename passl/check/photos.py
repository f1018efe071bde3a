"""Made-up photographs, to measure a data pipeline with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)
"""Width and height, ImageNet's most frequent."""


def write_images(folder: Path, count: int, classes: int = 2) -> None:
    """Write the same JPEG files FOLDER/CLASS/NUMBER.jpg each time, of ImageNet's usual size.

    Their spectrum falls with the frequency like that of photographs, so that file size and decoding
    time are about the same.
    """
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class_{number % classes}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        _image(rng).save(path, quality=95)


def _image(rng: np.random.Generator) -> Image.Image:
    width, height = SIZE
    total = np.zeros((height, width, 3))
    scale = 128
    while scale >= 1:  # octaves of noise, each weaker than the one before by sqrt(2)
        noise = rng.integers(0, 256, (-(-height // scale), -(-width // scale), 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)
        total += (np.asarray(layer, np.float64) - 127.5) * (scale / 128) ** 0.5
        scale //= 2
    return Image.fromarray(np.clip(total * 0.6 + 127.5, 0, 255).astype(np.uint8))
