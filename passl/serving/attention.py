"""What a network attends to in an image, drawn over what it gets of it.

Shapes in names: Y rows and X columns of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from paddle import nn
from PIL import Image

from passl.analysis.attention_figure import ImageAttention, image_attention
from passl.analysis.figures import heat_over, pixels_of
from passl.analysis.layers import Lattice, points_of
from passl.data.build import build_transforms
from passl.deploy.engines import EAGER
from passl.deploy.exported import Description
from passl.errors import ConfigError
from passl.evaluation.attention import attention_blocks
from passl.logging import get_logger
from passl.serving.answers import png_base64

_SMALLEST = 224
"""Pixels that the longer side of a drawn map has at least, so that a map over a small image is
smooth.
"""

Attend = Callable[[np.ndarray], list[dict[str, Any]]]
"""From images [B, channels, height, width] to the `AttentionMap` of each."""


def attention_of(model: nn.Layer, description: Description) -> Attend | None:
    """What computes the attention of a network's last block, mean of its heads: of the class token
    if it has one there, else the mean of all patches. Null if the network has no attention.
    """
    transforms = build_transforms(description.transforms)
    _, height, width = description.input

    def attend(images: np.ndarray) -> list[dict[str, Any]]:
        with EAGER:
            found = [image_attention(model, image, [point])[0] for image in images]
        return [
            _answer(one, pixels_of(image, transforms))
            for one, image in zip(found, images, strict=True)
        ]

    try:
        last = attention_blocks(model, height, width)[-1].name
        point = {point.name: point for point in points_of(model.backbone)}[last]
        attend(np.zeros([1, *description.input], np.float32))  # the first call is slow
    except ConfigError as error:
        get_logger().info("%s shows no attention: %s", description.weights, error)
        return None
    return attend


def _answer(found: ImageAttention, pixels_YXC: np.ndarray) -> dict[str, Any]:
    times = -(-_SMALLEST // max(pixels_YXC.shape[:2]))
    drawn = pixels_YXC.repeat(times, 0).repeat(times, 1)
    near = found.lattice
    lattice = Lattice(near.stride * times, near.offset * times + (times - 1) / 2)
    map_YX = found.mean_YX
    heat = lattice.upsampled(map_YX / (float(map_YX.max()) or 1.0), *drawn.shape[:2])
    return {
        "block": found.block.name,
        "query": found.query,
        "weights": [[round(float(weight), 6) for weight in row] for row in map_YX],
        "overlay": png_base64(
            Image.fromarray((255 * heat_over(drawn, heat) + 0.5).astype("uint8"))
        ),
    }
