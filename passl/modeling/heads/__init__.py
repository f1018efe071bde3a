"""Heads: features to logits. The registry is here; importing it does not import paddle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from passl.utils.registry import Registry

HEADS = Registry(
    "head",
    {
        "ClsHead": "passl.modeling.heads.cls_head:ClsHead",
        "CvTClsHead": "passl.modeling.heads.cls_head:ClsHead",  # PASSL's name for the same layer
    },
    {name: "passl.modeling.rules:cls_head" for name in ("ClsHead", "CvTClsHead")},
)
"""A head is a `paddle.nn.Layer` with `forward(features [B, in_channels]) -> [B, num_classes]`, and
takes both numbers as keyword arguments.
"""


def build_head(cfg: Mapping[str, Any]):
    """The head that `cfg` (name and constructor arguments) describes, newly initialised.

    Raises:
        ConfigError: an unknown name or key, or a value of a wrong type.
    """
    return HEADS.build(cfg)


def __getattr__(name: str):
    if name in HEADS:
        return HEADS.get(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
