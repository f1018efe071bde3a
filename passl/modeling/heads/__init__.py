"""Heads: features to logits. The registry is here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from passl.utils.registry import Registry

HEADS = Registry(
    "head",
    ["passl.modeling.heads.cls_head", "passl.modeling.heads.fpn_head"],
    required=("num_classes", "in_channels"),
)
"""A head is a `paddle.nn.Layer` whose constructor takes plain keyword-only data, of which

* `num_classes: int` and
* `in_channels: int`, the width of the features, which is the backbone's `num_features`,

have no default, and that has `forward(features [B, in_channels]) -> [B, num_classes]`, logits for
any B >= 1. Its class attribute `task`, which defaults to `classification`, is that of the datasets
that its logits are for (see `passl.data.datasets.base.ImageDataset`).

A head with the class attribute `takes_maps = True` gets feature maps instead, for segmentation. Its
`in_channels` and, if it has them, `strides`, both without a default, are lists with the backbone's
`feature_channels` and `feature_strides` of the maps. Its option `out_indices` says which maps;
null, or without the option, all. Then `forward(maps) -> [B, num_classes, Y, X]`, at any resolution:
`Model` resizes the logits to the image.

A last Linear named `fc_cls` is the classifier: weight files of other projects fill it, `model.fit`
with other classes leaves it as initialised or reorders it, and adaptive clipping skips it.
`tests/contract/test_heads.py` checks every registered head.
"""


def build_head(cfg: Mapping[str, Any]):
    """The head that `cfg` (name and constructor arguments) describes, newly initialised.

    Raises:
        ConfigError: an unknown name or key, or a value of a wrong type.
    """
    return HEADS.build(cfg)


def __getattr__(name: str):
    if not name.startswith("_") and name in HEADS:
        return HEADS.get(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
