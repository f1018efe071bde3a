"""The segmentation head: a feature pyramid, and a label for each pixel of its finest map.

Shapes in names: B images of a batch, C channels, Y rows and X columns of a map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from paddle import nn

from passl.modeling.heads import HEADS
from passl.modeling.layers import init_linear, resized
from passl.modeling.resample import Resample
from passl.utils.types import PositiveInt, Rate

_MOST_LEVELS = 4
"""Of a pyramid that is made from maps of one stride: 1/4, 1/2, 1 and 2 times the stride."""
_GROUPS = 32


@HEADS.register
class FPNHead(nn.Layer):
    """Semantic FPN (Kirillov et al., Panoptic feature pyramid networks, arXiv 1901.02446, section
    3.1): a feature pyramid (FPN, arXiv 1612.03144), whose levels are brought to the finest one and
    summed. Norms are GroupNorm, which does not depend on the batch, and all upsampling is bilinear.

    The strides of the maps double from one to the next (CvT), or are equal (ConViT). From equal
    ones the levels of 1/4, 1/2, 1 and 2 times the stride are made by transposed convolutions and a
    maximum, as in ViTDet (arXiv 2203.16527, section 3). ViTDet makes all from the last map; here
    each level has a map of its own, as in BEiT (arXiv 2106.08254).

    Args:
        num_classes: classes, at least one.
        in_channels: channels of each map.
        strides: of each map, in pixels, in ascending order.
        out_indices: which maps of the backbone are used; null for all.
        fpn_channels: width of the pyramid.
        channels: width of the levels when they are summed.
        drop_rate: dropout on the sum, of whole channels.
    """

    task: ClassVar[str] = "segmentation"
    takes_maps: ClassVar[bool] = True

    def __init__(
        self,
        *,
        num_classes: PositiveInt,
        in_channels: Sequence[PositiveInt],
        strides: Sequence[PositiveInt],
        out_indices: Sequence[int] | None = None,
        fpn_channels: PositiveInt = 256,
        channels: PositiveInt = 128,
        drop_rate: Rate = 0.1,
    ):
        super().__init__()
        self.num_classes = num_classes
        scales = [4, 2, 1, 0.5] if len(set(strides)) == 1 else [1] * len(strides)
        pairs = zip(in_channels, scales, strict=False)
        self.resample = nn.LayerList(Resample(width, scale) for width, scale in pairs)
        self.lateral = nn.LayerList(_conv(r.channels, fpn_channels, 1) for r in self.resample)
        self.smooth = nn.LayerList(_conv(fpn_channels, fpn_channels, 3) for _ in in_channels)
        self.levels = nn.LayerList(
            Upsampled(fpn_channels, channels, level) for level in range(len(in_channels))
        )
        self.drop = nn.Dropout2D(drop_rate)
        self.fc_cls = nn.Linear(channels, num_classes)
        init_linear(self.fc_cls)

    @staticmethod
    def check_options(*, in_channels: Sequence[int], strides: Sequence[int], **_: object) -> None:
        """Raise a ValueError for maps that make no pyramid."""
        if len(in_channels) != len(strides) or not strides:
            raise ValueError(
                f"in_channels {list(in_channels)} and strides {list(strides)} must have one value "
                "for each map"
            )
        if len(set(strides)) == 1 and len(strides) > _MOST_LEVELS:
            raise ValueError(
                f"{len(strides)} maps of one stride make no pyramid; choose up to {_MOST_LEVELS} "
                "by out_indices, such as [2, 5, 8, 11] of 12 blocks"
            )
        doubled = all(b == 2 * a for a, b in zip(strides, strides[1:], strict=False))
        if len(set(strides)) > 1 and not doubled:
            raise ValueError(
                f"strides {list(strides)} must double from map to map, or be equal; choose other "
                "maps by out_indices"
            )

    def forward(self, maps_BCYX: Sequence):
        """Maps -> logits [B, num_classes, Y, X] at the size of the finest level."""
        levels = []
        for level, x_BCYX in enumerate(maps_BCYX):
            levels.append(self.lateral[level](self.resample[level](x_BCYX)))
        for fine in range(len(levels) - 2, -1, -1):
            levels[fine] = levels[fine] + resized(levels[fine + 1], levels[fine].shape[2:])
        size = levels[0].shape[2:]
        total_BCYX = self.levels[0](self.smooth[0](levels[0]), size)
        for level in range(1, len(levels)):
            total_BCYX = total_BCYX + self.levels[level](self.smooth[level](levels[level]), size)
        logits_BYXK = self.fc_cls(self.drop(total_BCYX).transpose([0, 2, 3, 1]))
        return logits_BYXK.transpose([0, 3, 1, 2])


class Upsampled(nn.Layer):
    """Convolutions, each with GroupNorm and ReLU, and an upsampling by 2 after each; a level that
    is at the final size already has one convolution.

    Args:
        times: how often the level is doubled.
    """

    def __init__(self, in_channels: int, channels: int, times: int):
        super().__init__()
        widths = [in_channels] + [channels] * max(times, 1)
        self.convs = nn.LayerList(
            nn.Sequential(_conv(a, b, 3, bias=False, init="relu"), _norm(b), nn.ReLU())
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.times = times

    def forward(self, x_BCYX, size: Sequence[int]):
        """A level -> the same, at most at that size."""
        for number, conv in enumerate(self.convs, 1):
            x_BCYX = conv(x_BCYX)
            if self.times:
                # The levels above odd sizes are rounded up, so the last step goes to the size.
                last = number == self.times
                target = size if last else [2 * side for side in x_BCYX.shape[2:]]
                x_BCYX = resized(x_BCYX, target)
        return x_BCYX


def _conv(a: int, b: int, kernel: int, bias: bool = True, init: str = "linear") -> nn.Layer:
    """A convolution that keeps the size, initialised by Xavier's rule, or He's before a ReLU."""
    layer = nn.Conv2D(a, b, kernel, padding=kernel // 2, bias_attr=None if bias else False)
    rule = nn.initializer.KaimingNormal() if init == "relu" else nn.initializer.XavierUniform()
    rule(layer.weight)
    if layer.bias is not None:
        nn.initializer.Constant(0.0)(layer.bias)
    return layer


def _norm(width: int) -> nn.Layer:
    """GroupNorm with up to 32 groups of at least 4 channels. A group of one channel would lose how
    strong the channel is in an image.
    """
    return nn.GroupNorm(math.gcd(_GROUPS, max(1, width // 4)), width)
