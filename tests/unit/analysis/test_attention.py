"""Attention is taken from the network as it computes."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl.accelerate import accelerate
from passl.analysis.attention import attention_maps, choose_blocks
from passl.errors import ConfigError
from passl.evaluation.attention import attention_blocks
from passl.modeling.classifier import Model
from tests.attention_nets import CONVIT, CVT, images_of, model_of

CASES = [
    pytest.param(CONVIT, (40, 24), id="convit"),
    pytest.param({**CONVIT, "pre_norm": False}, (40, 24), id="post-norm"),
    pytest.param(
        {**CONVIT, "local_up_to_layer": 3, "global_pool": "avg"}, (24, 40), id="no-class-token"
    ),
    pytest.param({**CONVIT, "local_up_to_layer": 0}, (32, 32), id="class-token-everywhere"),
    pytest.param(CVT, (35, 61), id="cvt"),
    pytest.param({**CVT, "method": "avg"}, (35, 61), id="cvt-average"),
    pytest.param({**CVT, "method": "linear"}, (32, 48), id="cvt-linear"),
]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("architecture", "size"), CASES)
def test_maps_are_those_of_the_forward_pass(architecture, size, fast):
    """The input of each attention is caught in the forward pass; the weights times v, projected,
    are its output there.
    """
    model, images = model_of(architecture), images_of(2, *size)
    model.train()
    if fast:
        accelerate(model)
    found = attention_maps(model, images)
    assert model.training
    calls = {}
    for name, layer in model.backbone.named_sublayers():
        if name.endswith(".attn"):
            layer.register_forward_post_hook(
                lambda _, given, out, name=name: calls.update({name: (given, out)})
            )
    model.eval()
    model(images)
    assert [f"{one.block.name}.attn" for one in found] == list(calls)
    for one in found:
        (x_BNC, grid), expected = calls[f"{one.block.name}.attn"]
        attn = one.block.attn
        assert tuple(grid) == tuple(one.block.query_grid)
        assert one.maps_BHNM.shape == (2, one.block.heads, one.block.queries, one.block.keys)
        *_, v_BMHD = attn.project_qkv(x_BNC, grid)
        out_BHND = paddle.to_tensor(one.maps_BHNM) @ v_BMHD.transpose([0, 2, 1, 3])
        out = attn.proj(out_BHND.transpose([0, 2, 1, 3]).flatten(2)).numpy()
        np.testing.assert_allclose(out, expected.numpy(), rtol=0, atol=2e-6 * np.abs(out).max())


def test_one_query_is_a_row_of_the_map():
    model, images = model_of(CONVIT), images_of(2, 40, 24)
    whole = attention_maps(model, images)
    # Patches of 8 pixels, 3 in a row: the point (17, 8) is in row 2, column 1.
    one = attention_maps(model, images, query=(17, 8))
    for all_rows, row in zip(whole, one, strict=True):
        token = 2 * 3 + 1 + all_rows.block.has_class_token
        np.testing.assert_allclose(row.maps_BHNM[:, :, 0], all_rows.maps_BHNM[:, :, token], 1e-6)
        assert row.to_patches_BHNYX.shape == (2, 4, 1, 5, 3)
    (of_class,) = attention_maps(model, images, query="class")
    np.testing.assert_allclose(of_class.maps_BHNM, whole[2].maps_BHNM[:, :, :1], 1e-6)


def test_blocks_are_named():
    blocks = attention_blocks(model_of(CVT), 35, 61)
    assert [(b.name, b.query_grid, b.key_grid, b.heads, b.has_class_token) for b in blocks] == [
        ("stage0.blocks.0", (9, 15), (5, 8), 1, False),
        ("stage1.blocks.0", (5, 8), (3, 4), 2, False),
        ("stage2.blocks.0", (3, 4), (2, 2), 4, True),
        ("stage2.blocks.1", (3, 4), (2, 2), 4, True),
    ]
    assert [b.name for b in choose_blocks(blocks, ["stage2.blocks.1", "stage1.blocks.0"])] == [
        "stage1.blocks.0",
        "stage2.blocks.1",
    ]
    with pytest.raises(ConfigError, match=r"stage3\.blocks\.0.*did you mean 'stage\d.blocks.0'"):
        choose_blocks(blocks, ["stage3.blocks.0"])


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ConfigError, match="Linear has no attention"):
        attention_maps(paddle.nn.Linear(3, 3), images_of(1, 32, 32))
    model = model_of(CONVIT)
    with pytest.raises(ConfigError, match="37x32 does not divide into patches of 8"):
        attention_maps(model, images_of(1, 37, 32))
    with pytest.raises(ConfigError, match=r"y 32, x 3 lies outside.*y is 0 to 31"):
        attention_maps(model, images_of(1, 32, 32), query=(32, 3))
    with pytest.raises(ConfigError, match=r"class token.*blocks\.2$"):
        attention_maps(model, images_of(1, 32, 32), ["blocks.0"], query="class")


def test_maps_that_are_too_large_are_refused_before_anything_is_computed(monkeypatch):
    model, images = model_of(CONVIT), images_of(1, 64, 32)
    monkeypatch.setattr(type(model.backbone), "_embed", lambda *_: pytest.fail("computed"))
    size = 4 * 4 * 32 * 32  # bytes of a float32, heads, queries, keys
    with pytest.raises(ConfigError, match=r"1 image\(s\) of 64x32.*4 heads, 32 queries.*one query"):
        attention_maps(model, images, ["blocks.0"], max_bytes=size - 1)
    monkeypatch.undo()
    attention_maps(model, images, ["blocks.0"], max_bytes=size)


@pytest.mark.parametrize("method", ["dw_bn", "avg", "linear"])
@pytest.mark.parametrize(("stride", "padding"), [(2, 1), (3, 0), (2, 2)])
def test_the_grid_of_keys_is_that_of_the_convolution(method, stride, padding):
    model = model_of({**CVT, "method": method, "stride_kv": stride, "padding_kv": padding})
    attn = model.backbone.stage0.blocks[0].attn
    for grid in ((5, 8), (6, 7), (9, 4)):
        made = attn.conv_proj_k(paddle.zeros([1, 8, *grid]))
        assert attn.key_grid(grid) == tuple(made.shape[-2:])


def test_the_size_of_a_huge_image_costs_nothing():
    for architecture in (CONVIT, CVT):
        assert attention_blocks(model_of(architecture), 2**20, 2**20)[0].queries >= 2**34


def test_a_head_that_takes_maps_pads_the_image():
    head = {"name": "FPNHead", "num_classes": 3, "channels": 8}
    model = Model({"model": {"architecture": {"name": "CvT", **CVT}, "head": head}})
    assert attention_blocks(model, 35, 61)[0].query_grid == (12, 16)  # of 48 x 64
    assert len(attention_maps(model, images_of(1, 35, 61))) == 4
