"""Which parameters decay, what the schedules give, how gradients are clipped."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from passl.modeling import Model
from passl.optim.optimizers import build_optimizer, decayed_names, scaled_lr, trainable
from passl.optim.schedules import build_schedule
from passl.utils.errors import ConfigError

CONVIT = {
    "name": "ConViT",
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 8,
    "depth": 2,
    "local_up_to_layer": 1,
}
CVT = {"name": "CvT", "embed_dim": [4, 4, 8], "depth": 1, "num_heads": 1}


def model(architecture: dict) -> Model:
    head = {"name": "ClsHead", "num_classes": 3, "in_channels": 8}
    return Model({"model": {"architecture": architecture, "head": head}})


def test_what_decays_in_convit():
    net = model(CONVIT)
    decayed = decayed_names(net)
    spared = {name for name, _ in trainable(net)} - decayed
    # pos_proj.weight has two axes and decays, as in the authors' code (timm 0.3.2's rule).
    assert "backbone.blocks.0.attn.pos_proj.weight" in decayed
    assert {
        "backbone.pos_embed",
        "backbone.cls_token",
        "backbone.blocks.0.attn.gating_param",
    } <= spared
    assert all(name.endswith(".weight") for name in decayed)
    assert not any("norm" in name or name.endswith("bias") for name in decayed)


def test_what_decays_in_cvt():
    net = model(CVT)
    decayed = decayed_names(net)
    names = {name for name, _ in trainable(net)}
    assert not any(name.endswith(("_mean", "_variance")) for name in names)
    assert names - decayed == {
        name
        for name in names
        if name.endswith(("bias", "cls_token")) or ".norm" in name or ".bn." in name
    }
    assert "backbone.stage0.blocks.0.attn.conv_proj_q.conv.weight" in decayed


@pytest.mark.parametrize("architecture", [CONVIT, CVT], ids=["ConViT", "CvT"])
def test_decay_is_applied_to_those_and_only_those(architecture):
    """With zero gradients, a step shrinks what decays by lr * weight_decay and leaves the rest
    alone.
    """
    net = model(architecture)
    optimizer = build_optimizer({"name": "AdamW", "lr": 1.0, "weight_decay": 0.1}, net)
    optimizer.set_lr(0.5)
    before = {}
    for name, parameter in trainable(net):
        parameter.set_value(np.ones(parameter.shape, "float32"))
        before[name] = parameter
        (parameter * 0).sum().backward()
    optimizer.step()
    decayed = decayed_names(net)
    assert decayed
    for name, parameter in before.items():
        np.testing.assert_allclose(
            parameter.numpy(), 0.95 if name in decayed else 1.0, rtol=1e-6, err_msg=name
        )


def test_adamw_is_its_formula():
    net = model(CONVIT)
    section = {"name": "AdamW", "lr": 1.0, "weight_decay": 0.1, "betas": [0.8, 0.9], "eps": 1e-3}
    optimizer = build_optimizer(section, net)
    optimizer.set_lr(0.01)
    weight = net.head.fc_cls.weight
    start = weight.numpy().astype("float64")
    gradient = np.random.default_rng(0).standard_normal(start.shape)
    expected, m, v = start.copy(), 0.0, 0.0
    for t in (1, 2, 3):
        (weight * paddle.to_tensor(gradient * t, dtype="float32")).sum().backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        m = 0.8 * m + 0.2 * gradient * t
        v = 0.9 * v + 0.1 * (gradient * t) ** 2
        expected *= 1 - 0.01 * 0.1
        expected -= 0.01 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3)
    np.testing.assert_allclose(weight.numpy(), expected, atol=1e-6)


def test_all_gradients_are_clipped_by_one_norm():
    """Weights with and without decay share the norm: the first step of a plain clip shows it in the
    first moment.
    """
    net = model(CONVIT)
    clip = {"name": "global_norm", "value": 1.0}
    optimizer = build_optimizer({"name": "AdamW", "lr": 1.0, "grad_clip": clip}, net)
    optimizer.set_lr(0.0)
    weight, bias = net.head.fc_cls.weight, net.head.fc_cls.bias
    (3 * weight.sum() + 4 * bias.sum()).backward()
    norm = math.sqrt(9 * weight.size + 16 * bias.size)
    optimizer.step()
    state = optimizer.state_dict()
    for parameter, gradient in ((weight, 3), (bias, 4)):
        moment = state[f"{parameter.name}_moment1_0"].numpy()
        np.testing.assert_allclose(moment, 0.1 * gradient / norm, rtol=1e-4)
    with pytest.raises(ValueError, match="grad_clip.value 0 must be above 0"):
        build_optimizer(
            {"name": "AdamW", "lr": 1.0, "grad_clip": {"name": "global_norm", "value": 0}}, net
        )


def test_learning_rate_follows_the_global_batch():
    assert scaled_lr({"lr": 5e-4}, 1024) == 5e-4
    assert scaled_lr({"lr": 5e-4, "lr_base_batch": 512}, 1024) == pytest.approx(1e-3)
    assert scaled_lr({"lr": 2e-3, "lr_base_batch": 2048}, 128) == pytest.approx(1.25e-4)


def test_cosine():
    """facebookresearch/convit's: 1e-3 at 1024, five epochs of warm-up from 1e-6, 1e-5 at the end of
    300.
    """
    section = {"name": "Cosine", "warmup_epochs": 5, "warmup_lr": 1e-6, "min_lr": 1e-5}
    schedule = build_schedule(section, 1e-3, 1251, 300)
    assert schedule(0) == pytest.approx(1e-6)
    assert schedule(1251 * 5 // 2) == pytest.approx((1e-6 + 1e-3) / 2, rel=1e-3)
    for epoch in (5, 150, 299):
        expected = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * epoch / 300)) / 2
        assert schedule(1251 * epoch) == pytest.approx(expected)
    assert schedule(1251 * 300) == pytest.approx(1e-5)
    assert schedule(1251 * 400) == pytest.approx(1e-5)  # it does not rise again
    rates = [schedule(step) for step in range(0, 1251 * 300, 500)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_small_rate_does_not_rise_to_the_smallest():
    schedule = build_schedule({"name": "Cosine", "warmup_epochs": 1}, 5e-7, 10, 3)
    assert {schedule(step) for step in range(30)} == {5e-7}


def test_constant():
    schedule = build_schedule(
        {"name": "Constant", "warmup_epochs": 1, "warmup_lr": 0.0}, 0.1, 10, 3
    )
    assert [schedule(step) for step in (0, 5, 10, 29)] == pytest.approx([0, 0.05, 0.1, 0.1])


def test_refusals():
    with pytest.raises(ValueError, match="warmup_epochs 5 must lie between 0 and the 3 epochs"):
        build_schedule({"name": "Cosine", "warmup_epochs": 5}, 0.1, 10, 3)
    with pytest.raises(ConfigError, match="there is no optimizer 'AdamX'; did you mean 'AdamW'"):
        build_optimizer({"name": "AdamX", "lr": 1.0}, model(CVT))
