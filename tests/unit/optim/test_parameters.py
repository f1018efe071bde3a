"""Which parameters decay, how fast each layer learns, and the rate of a run."""

from __future__ import annotations

import pytest

from passl.errors import ConfigError
from passl.optim.optimizers import build_optimizer, scaled_lr
from passl.optim.parameters import decayed_names, layer_rates, trainable


def test_parameters_of_convit_that_decay(make_model):
    net = make_model("ConViT")
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


def test_parameters_of_cvt_that_decay(make_model):
    net = make_model("CvT")
    decayed = decayed_names(net)
    names = {name for name, _ in trainable(net)}
    assert not any(name.endswith(("_mean", "_variance")) for name in names)
    assert names - decayed == {
        name
        for name in names
        if name.endswith(("bias", "cls_token")) or ".norm" in name or ".bn." in name
    }
    assert "backbone.stage0.blocks.0.attn.conv_proj_q.conv.weight" in decayed


def test_decay_by_patterns(make_model):
    net = make_model("ConViT")
    names = {name for name, _ in trainable(net)}
    assert decayed_names(net, []) == names  # MindCV's recipes
    assert decayed_names(net, ["default"]) == decayed_names(net)
    biases = {name for name in names if name.endswith(".bias")}
    assert names - decayed_names(net, ["*.bias"]) == biases
    assert names - decayed_names(net, ["*.bias", "backbone.pos_embed"]) == biases | {
        "backbone.pos_embed"
    }
    more = decayed_names(net) - decayed_names(net, ["*.pos_proj.weight", "default"])
    assert more == {"backbone.blocks.0.attn.pos_proj.weight"}


def test_pattern_can_match_frozen_parameters(make_model):
    net = make_model("ConViT")
    net.backbone.pos_embed.stop_gradient = True
    decayed = decayed_names(net, ["backbone.pos_embed"])
    assert decayed == {name for name, _ in trainable(net)}
    assert "backbone.pos_embed" not in decayed


def test_pattern_without_a_match_is_refused(make_model):
    section = {"name": "SGD", "lr": 1.0, "no_weight_decay": ["default", "backbone.pos_emb"]}
    message = (
        "optimizer.no_weight_decay: 'backbone.pos_emb' matches no parameter; the closest name is "
        "'backbone.pos_embed'"
    )
    with pytest.raises(ConfigError, match=message):
        build_optimizer(section, make_model())


def test_layer_rates_of_convit(make_model):
    """BEiT's: embeddings are layer 0, block i is i + 1, final norm and head come last with 1."""
    rates = layer_rates(make_model("ConViT"), 0.5)
    expected = {
        "backbone.cls_token": 0.125,
        "backbone.pos_embed": 0.125,
        "backbone.patch_embed.proj.weight": 0.125,
        "backbone.blocks.0.attn.gating_param": 0.25,
        "backbone.blocks.1.mlp.fc2.bias": 0.5,
        "backbone.norm.weight": 1.0,
        "head.fc_cls.weight": 1.0,
    }
    assert {name: rates[name] for name in expected} == expected
    assert set(rates) == {name for name, _ in trainable(make_model("ConViT"))}


def test_layer_rates_of_cvt(make_model):
    """Blocks are counted over the stages of 1, 1 and 2; what embeds a later stage goes with its
    first block.
    """
    rates = layer_rates(make_model("CvT"), 0.5)
    expected = {
        "backbone.stage0.patch_embed.proj.weight": 0.5**5,
        "backbone.stage0.blocks.0.norm1.weight": 0.5**4,
        "backbone.stage1.patch_embed.norm.bias": 0.5**3,
        "backbone.stage1.blocks.0.attn.conv_proj_q.bn.weight": 0.5**3,
        "backbone.stage2.patch_embed.proj.bias": 0.5**2,
        "backbone.stage2.cls_token": 0.5**2,
        "backbone.stage2.blocks.0.mlp.fc1.weight": 0.5**2,
        "backbone.stage2.blocks.1.mlp.fc1.weight": 0.5,
        "backbone.norm.bias": 1.0,
        "head.fc_cls.bias": 1.0,
    }
    assert {name: rates[name] for name in expected} == expected


@pytest.mark.parametrize("layer_decay", [None, 1, 1.0])
def test_one_rate_for_all(make_model, layer_decay):
    assert set(layer_rates(make_model("CvT"), layer_decay).values()) == {1.0}


@pytest.mark.parametrize("layer_decay", [0, -0.5, 1.1, float("nan")])
def test_layer_decay_outside_its_range(make_model, layer_decay):
    section = {"name": "SGD", "lr": 1.0, "layer_decay": layer_decay}
    with pytest.raises(ConfigError, match="layer_decay: must be a .*number above 0 and at most 1"):
        build_optimizer(section, make_model())


def test_learning_rate_follows_the_global_batch():
    assert scaled_lr({"lr": 5e-4}, 1024) == 5e-4
    assert scaled_lr({"lr": 5e-4, "lr_base_batch": 512}, 1024) == pytest.approx(1e-3)
    assert scaled_lr({"lr": 2e-3, "lr_base_batch": 2048}, 128) == pytest.approx(1.25e-4)


def test_learning_rate_follows_the_root_of_the_batch():
    section = {"lr": 1e-3, "lr_base_batch": 256, "lr_scale": "sqrt"}
    assert scaled_lr(section, 1024) == pytest.approx(2e-3)
    assert scaled_lr(section, 64) == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"lr_scale": "sqrt"}, "lr_scale sqrt scales nothing without lr_base_batch"),
        ({"lr_base_batch": 0}, "lr_base_batch: must be a whole number of at least 1"),
    ],
)
def test_scaling_needs_a_batch_to_start_from(make_model, options, rule):
    with pytest.raises(ConfigError, match=rule):
        build_optimizer({"name": "SGD", "lr": 1e-3, **options}, make_model())
