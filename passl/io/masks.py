"""Segmentation masks, and their PNG files with a palette."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from passl.io.files import write_atomically

IGNORED = 255
"""Pixels of a mask with this value have no label: no loss or score counts them."""


def _colors() -> np.ndarray:
    labels, colors = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            chosen = (labels >> (3 * bit + channel)) & 1
            colors[:, channel] |= (chosen << (7 - bit)).astype(np.uint8)
    return colors


COLORS = _colors()
"""uint8 [256, 3], the colour of each label: PASCAL VOC's. The bits of a label, from the lowest, are
the highest bits of red, green and blue in turn. 0 is black, 255 nearly white.
"""


def with_palette(labels: np.ndarray) -> Image.Image:
    """An image whose palette indices are labels, uint8 [height, width]."""
    image = Image.fromarray(labels)
    image.putpalette(COLORS.tobytes())
    return image


def write_mask(path: Path, labels: np.ndarray) -> None:
    """Write labels, uint8 [height, width], as the palette indices of a PNG."""
    image = with_palette(labels)
    write_atomically(path, lambda temporary: image.save(temporary, format="PNG"))
