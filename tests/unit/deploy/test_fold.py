"""Folded networks compute what the networks compute, for every way that they can be built."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.deploy import fold as folding
from passl.deploy.fold import fold
from passl.modeling import Model
from tests.numerics import Rounded, check_network

CONVIT = {
    "name": "ConViT",
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 4,
    "local_up_to_layer": 2,
}
CVT = {"name": "CvT", "embed_dim": [8, 12, 16], "depth": [1, 1, 2], "num_heads": [1, 2, 4]}
WAYS = {
    "convit": CONVIT,
    "convit, biases": {**CONVIT, "qkv_bias": True},
    "convit, post-norm": {**CONVIT, "pre_norm": False},
    "convit, mean": {**CONVIT, "global_pool": "avg"},
    "convit, local only": {**CONVIT, "local_up_to_layer": 3, "global_pool": "avg"},
    "convit, no local": {**CONVIT, "local_up_to_layer": 0},
    "convit, RMS": {**CONVIT, "norm_layer": "rms_norm", "use_pos_embed": False},
    "convit, QuickGELU": {**CONVIT, "act": "quick_gelu", "qk_scale": 0.7},
    "convit, dropout": {**CONVIT, "drop_rate": 0.3, "attn_drop_rate": 0.3, "token_dropout": 0.3},
    "convit, hybrid": {**CONVIT, "img_size": 64, "hybrid_backbone": CVT},
    "cvt": CVT,
    "cvt, mean": {**CVT, "with_cls_token": False},
    "cvt, tokens": {**CVT, "with_cls_token": True},
    "cvt, avg": {**CVT, "method": "avg"},
    "cvt, wide avg": {**CVT, "method": "avg", "kernel_size": 4, "stride_kv": 3, "padding_kv": 2},
    "cvt, linear": {**CVT, "method": "linear", "qkv_bias": False, "act": "gelu_tanh"},
    "cvt, one stride": {**CVT, "stride_kv": 1, "norm_layer": "rms_norm"},
}


def model_of(architecture: dict, seed: int = 0) -> Model:
    """A model whose weights, gates and running statistics are all drawn."""
    paddle.seed(seed)
    head = {"name": "ClsHead", "num_classes": 7, "in_channels": 16}
    model = Model({"model": {"architecture": architecture, "head": head}})
    rng = np.random.default_rng(seed)
    for name, tensor in model.state_dict().items():
        drawn = rng.normal(0, 0.3, tensor.shape)
        drawn = drawn**2 + 0.5 if name.endswith("_variance") else drawn
        tensor.set_value(drawn.astype(np.float32))
    model.eval()
    return model


@paddle.no_grad()
def logits(layer: nn.Layer, images: np.ndarray) -> np.ndarray:
    return layer(paddle.to_tensor(images)).numpy()


def assert_equal(model: Model, folded: nn.Layer, height: int, width: int) -> None:
    rng = np.random.default_rng(1)
    for batch in (1, 3):
        images = rng.standard_normal((batch, 3, height, width), dtype=np.float32)
        check_network(logits(folded, images), logits(model, images))


@pytest.mark.parametrize("architecture", WAYS.values(), ids=WAYS.keys())
def test_every_way(architecture):
    model = model_of(architecture)
    assert_equal(model, fold(model, 64, 64), 64, 64)


@pytest.mark.parametrize(
    "architecture",
    [CONVIT, CVT, {**CVT, "method": "avg"}, WAYS["cvt, wide avg"]],
    ids=["convit", "cvt", "avg", "wide avg"],
)
def test_rectangular(architecture):
    model = model_of(architecture)
    assert_equal(model, fold(model, 48, 80), 48, 80)


@pytest.mark.parametrize("gate", [-60.0, -5.0, 5.0, 20.0, 60.0])
def test_saturated_gates(gate):
    """A gate of 1 - 1e-26 would be divided by; nothing overflows, and the content half is gone."""
    model = model_of(CONVIT)
    for block in model.backbone.blocks[:2]:
        block.attn.gating_param.set_value(np.full(4, gate, np.float32))
    assert_equal(model, fold(model, 32, 32), 32, 32)


@pytest.mark.parametrize("architecture", [CONVIT, CVT], ids=["convit", "cvt"])
@pytest.mark.parametrize("scores", [1, 100, 333])
def test_attention_in_turns(architecture, scores, monkeypatch):
    monkeypatch.setattr(folding, "SCORES", scores)
    model = model_of(architecture)
    assert_equal(model, fold(model, 64, 64), 64, 64)


def test_the_model_is_not_changed():
    model = model_of(CVT)
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    names = list(before)
    fold(model, 32, 32)
    assert list(model.state_dict()) == names
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


def test_another_backbone_stays_as_it_is():
    class Plain(nn.Layer):
        def forward(self, images):
            return images.mean([2, 3])

    model = nn.Layer()
    model.backbone, model.head = Plain(), nn.Linear(3, 2)
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 4), dtype=np.float32)
    means = Rounded(images).mean((2, 3))[:, :, 0, 0]
    expected = means @ model.head.weight.numpy() + model.head.bias.numpy()
    expected.check(logits(fold(model, 4, 4), images))


def test_no_batch_norm_is_left():
    model = model_of(CVT)
    kinds = {type(layer) for layer in fold(model, 32, 32).sublayers()}
    assert nn.BatchNorm2D not in kinds
    assert nn.Conv2D in kinds
