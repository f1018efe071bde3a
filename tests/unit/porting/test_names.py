"""The rename tables are total on both sides and can be read both ways."""

from __future__ import annotations

import pytest
from paddle import nn

from passl.modeling import Model
from passl.porting.names import SOURCES, unwrapped
from passl.porting.weight_file import to_official

SMALL = {
    "ConViT": {
        "img_size": 16,
        "patch_size": 8,
        "embed_dim": 8,
        "depth": 2,
        "local_up_to_layer": 1,
        "qkv_bias": True,
    },
    "CvT": {"embed_dim": [4, 4, 8], "depth": [1, 1, 12], "num_heads": 1},
}


def keys(family: str) -> list[str]:
    head = {"name": "ClsHead", "num_classes": 3, "in_channels": 8}
    model = Model({"model": {"architecture": {"name": family, **SMALL[family]}, "head": head}})
    return [to_official(name) for name in model.state_dict()]


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: f"{s.name}-{s.family}")
def test_every_weight_has_a_unique_name(source):
    """Total on our side; and no two weights of ours share a name of theirs."""
    names = [part for name in keys(source.family) for part in source.theirs(name)]
    assert len(names) == len(set(names))
    assert source.anchor in names


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: f"{s.name}-{s.family}")
def test_every_name_is_reversible(source):
    for name in keys(source.family):
        for part in source.theirs(name):
            back = source.ours(part)
            # MindCV calls parts of `qk`, `v` and `qkv` alike; which it is depends on the block.
            alike = (name, name.replace(".qkv.", ".qk."), name.replace(".qkv.", ".v."))
            assert back in (alike if source.name == "mindcv" else (name,))


def test_names_of_the_sources():
    """Against section 5 of the table of names, one of each rule."""
    by_name = {source.name: source for source in SOURCES if source.name != "own"}
    for source, ours, theirs in (
        ("mindcv", "blocks.3.attn.qk.weight", ("blocks.3.attn.q.weight", "blocks.3.attn.k.weight")),
        ("mindcv", "blocks.11.norm2.bias", ("blocks.11.norm2.beta",)),
        ("mindcv", "norm.weight", ("norm.gamma",)),
        ("mindcv", "head.weight", ("classifier.weight",)),
        ("mindcv", "blocks.0.attn.gating_param", ("blocks.0.attn.gating_param",)),
        (
            "microsoft",
            "stage1.blocks.0.attn.conv_proj_q.bn._mean",
            ("stage1.blocks.0.attn.conv_proj_q.bn.running_mean",),
        ),
        (
            "paddleclas",
            "stage1.blocks.0.attn.conv_proj_q.bn._mean",
            ("stage1.blocks.0.attn.conv_proj_q.bn._mean",),
        ),
        (
            "passl",
            "stage2.blocks.9.attn.conv_proj_k.bn._variance",
            ("backbone.stage2.blocks.9.attn.conv_proj_k.1._variance",),
        ),
        ("passl", "head.bias", ("head.fc_cls.bias",)),
        ("huggingface", "stage2.cls_token", ("cvt.encoder.stages.2.cls_token",)),
        ("huggingface", "norm.bias", ("layernorm.bias",)),
        (
            "huggingface",
            "stage2.blocks.9.attn.proj.weight",
            ("cvt.encoder.stages.2.layers.9.attention.output.dense.weight",),
        ),
        (
            "huggingface",
            "stage0.blocks.0.mlp.fc2.bias",
            ("cvt.encoder.stages.0.layers.0.output.dense.bias",),
        ),
    ):
        assert by_name[source].theirs(ours) == theirs


def test_wrappers_are_removed_if_all_names_have_them():
    assert unwrapped(["module.model.a", "module.model.b"]) == {
        "module.model.a": "a",
        "module.model.b": "b",
    }
    assert unwrapped(["module.a", "b"]) == {"module.a": "module.a", "b": "b"}
    assert unwrapped([]) == {}


def test_all_matrices_are_linear_weights():
    """The converter takes every matrix for a Linear's; so it is, in both networks."""
    for family, options in SMALL.items():
        head = {"name": "ClsHead", "num_classes": 3, "in_channels": 8}
        model = Model({"model": {"architecture": {"name": family, **options}, "head": head}})
        linear = {
            f"{n}.weight" for n, layer in model.named_sublayers() if isinstance(layer, nn.Linear)
        }
        assert linear == {n for n, p in model.named_parameters() if p.ndim == 2}
