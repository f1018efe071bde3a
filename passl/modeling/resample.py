"""Feature maps at another stride.

Shapes in names: B batch, C channels, Y rows and X columns of a feature map.
"""

from __future__ import annotations

import math

from paddle import nn

from passl.modeling.layers import to_map, to_tokens


class MapNorm(nn.Layer):
    """A layer norm over the channels of a map [B, C, Y, X]."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, epsilon=1e-6)

    def forward(self, map_BCYX):
        return to_map(self.norm(to_tokens(map_BCYX)), map_BCYX.shape[-2:])


class Resample(nn.Sequential):
    """A map at another resolution, as in ViTDet's pyramid (Li et al., arXiv 2203.16527, section 3):
    transposed convolutions, each of which doubles the resolution and halves the channels, or
    max-pooling.

    Args:
        channels: of the map.
        scale: of the resolution, a power of two.

    Attributes:
        channels: of the new map.
    """

    def __init__(self, channels: int, scale: float):
        super().__init__()
        if scale < 1:
            self.append(nn.MaxPool2D(round(1 / scale), ceil_mode=True))
        for step in range(max(0, round(math.log2(scale)))):
            if step:
                self.extend([MapNorm(channels), nn.GELU()])
            # Windows do not overlap: each output is a sum over the channels of one pixel.
            init = nn.initializer.Normal(std=channels**-0.5)
            half = channels // 2
            self.append(nn.Conv2DTranspose(channels, half, 2, stride=2, weight_attr=init))
            channels = half
        self.channels = channels
