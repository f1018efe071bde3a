"""Backbones: images to features. The registry is here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from passl.utils.registry import Registry

BACKBONES = Registry(
    "backbone", ["passl.modeling.backbones.convit", "passl.modeling.backbones.cvt"]
)
"""A backbone is a `paddle.nn.Layer` whose constructor takes plain keyword-only data and that has

* `num_features: int`, the width of what `forward` returns,
* `feature_channels: list[int]` and `feature_strides: list[int]`, channels and stride in pixels of
  each feature map, in the order of the network,
* `recompute: bool`, false at first: whether training keeps only the inputs of its blocks for the
  backward pass and computes the rest again,
* `forward(images) -> [B, num_features]` for images [B, 3, height, width] and any B >= 1; height and
  width are multiples of the last stride,
* `forward_features(images, out_indices=None)`, a list of feature maps [B, feature_channels[i],
  height / feature_strides[i], width / feature_strides[i]], by default with the last map at the end,
* `no_weight_decay() -> set[str]`, names of parameters that weight decay spares although they are
  not one-dimensional,
* `num_layers: int` and `layer_index(name) -> int`, the layer of each parameter, counted from the
  image: 0 embeds the image, the blocks follow, and num_layers is the final norm.

A backbone with attention may also have `attention_blocks(height, width)`, a list of
`layers.AttentionBlock`, and `attention_inputs(images)`, which yields for each of them the block and
what its attention, an `AttentionLayer`, gets of the images; figures of attention need both.

Images have 3 channels, or `in_chans` if the constructor has this argument. A backbone knows neither
classes nor losses. `tests/contract/test_backbones.py` checks every registered backbone.
"""


def build_backbone(cfg: Mapping[str, Any]):
    """The backbone that `cfg` (name and constructor arguments) describes, newly initialised.

    Raises:
        ConfigError: an unknown name or key, or a value of a wrong type.
    """
    return BACKBONES.build(cfg)


def __getattr__(name: str):
    if not name.startswith("_") and name in BACKBONES:
        return BACKBONES.get(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
