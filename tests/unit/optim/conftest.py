"""Small networks, and gradients for all that they train."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl.modeling import Model
from passl.optim.parameters import trainable

BACKBONES = {
    "ConViT": {
        "name": "ConViT",
        "img_size": 16,
        "patch_size": 8,
        "embed_dim": 8,
        "depth": 2,
        "local_up_to_layer": 1,
    },
    "CvT": {"name": "CvT", "embed_dim": [4, 4, 8], "depth": [1, 1, 2], "num_heads": 1},
}


@pytest.fixture
def make_model():
    """Makes a network by the name of its backbone."""

    def make(backbone: str = "ConViT") -> Model:
        paddle.seed(0)
        head = {"name": "ClsHead", "num_classes": 3, "in_channels": 8}
        return Model({"model": {"architecture": BACKBONES[backbone], "head": head}})

    return make


@pytest.fixture
def give_gradients():
    """Gives every trainable parameter a random gradient, or the one that is handed in by name."""

    def give(model: Model, seed: int, gradients: dict | None = None) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        given = {}
        for name, parameter in trainable(model):
            parameter.clear_gradient(False)
            given[name] = rng.standard_normal(parameter.shape).astype("float32")
            if gradients is not None:
                given[name] = np.broadcast_to(gradients[name], parameter.shape).astype("float32")
            (parameter * paddle.to_tensor(given[name])).sum().backward()
        return given

    return give
