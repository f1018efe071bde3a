"""Small networks whose attention is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle

from passl.modeling.classifier import Model

CONVIT: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 4,
    "local_up_to_layer": 2,
}
CVT: dict[str, Any] = {"embed_dim": [8, 12, 16], "depth": [1, 1, 2], "num_heads": [1, 2, 4]}


def model_of(architecture: Mapping[str, Any], seed: int = 0) -> Model:
    """A classifier with large random weights, so that its attention is far from uniform, in
    evaluation mode.
    """
    paddle.seed(seed)
    name = (
        "CvT"
        if "num_heads" in architecture and isinstance(architecture["num_heads"], list)
        else "ConViT"
    )
    head = {"name": "ClsHead", "num_classes": 3}
    model = Model({"model": {"architecture": {"name": name, **architecture}, "head": head}})
    rng = np.random.default_rng(seed)
    for parameter in model.backbone.parameters():
        noise = rng.normal(scale=0.3, size=parameter.shape).astype("float32")
        parameter.set_value(parameter.numpy() + noise)
    model.eval()
    return model


def images_of(count: int, height: int, width: int, seed: int = 1):
    """Images of normal noise [B, 3, height, width]."""
    rng = np.random.default_rng(seed)
    return paddle.to_tensor(rng.standard_normal((count, 3, height, width)).astype("float32"))
