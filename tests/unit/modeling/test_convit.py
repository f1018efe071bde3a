"""ConViT: the separable form of GPSA equals the dense one, and each option does what it says."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from passl.modeling.backbones import build_backbone
from passl.modeling.backbones.convit import resample_positions
from passl.modeling.gpsa import GPSA
from tests.numerics import Rounded, attention, check_forms, quick_gelu


def small(**options):
    defaults = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 3,
        "num_heads": 4,
        "local_up_to_layer": 2,
    }
    paddle.seed(1)
    backbone = build_backbone({"name": "ConViT", **defaults, "drop_path_rate": 0.0, **options})
    backbone.eval()
    return backbone


def normal(*shape: int, seed: int = 0, dtype: str = "float32"):
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def randomised(layer: nn.Layer) -> nn.Layer:
    """With weights far from their start, biases included, so that nothing cancels by chance."""
    rng = np.random.default_rng(3)
    for parameter in layer.parameters():
        parameter.set_value(rng.standard_normal(parameter.shape).astype("float32") * 0.4)
    return layer


def gpsa_by_definition(attn: GPSA, x_BNC, rows: int, columns: int):
    """The formula of the paper, token by token: relative positions [N, N, 3], two softmaxes, gate,
    renormalisation.
    """
    y, x = np.divmod(np.arange(rows * columns), columns)
    dx, dy = x[None] - x[:, None], y[None] - y[:, None]
    relative = paddle.to_tensor(np.stack([dx, dy, dx**2 + dy**2], -1)).astype(x_BNC.dtype)
    batch, tokens, width = x_BNC.shape
    heads, head_width = attn.num_heads, width // attn.num_heads

    def split(t):
        return t.reshape([batch, tokens, heads, head_width]).transpose([0, 2, 1, 3])

    q, k = (split(part) for part in attn.qk(x_BNC).chunk(2, axis=-1))
    v = split(attn.v(x_BNC))
    content = F.softmax(q @ k.transpose([0, 1, 3, 2]) * head_width**-0.5, -1)
    position = F.softmax(attn.pos_proj(relative).transpose([2, 0, 1]), -1)
    gate = F.sigmoid(attn.gating_param).reshape([1, -1, 1, 1])
    weights = (1 - gate) * content + gate * position
    weights = weights / weights.sum(-1, keepdim=True)
    return attn.proj((weights @ v).transpose([0, 2, 1, 3]).flatten(2)), weights


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (6, 2), (1, 7), (1, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_gpsa_equals_its_definition_in_value_and_gradient(grid, bias):
    """In double precision, where two forms of one formula agree to the last few digits."""
    attn = randomised(GPSA(16, 4, qkv_bias=bias, scale=4**-0.5)).to(dtype="float64")
    x = normal(2, grid[0] * grid[1], 16, dtype="float64")
    results = []
    for forward in (lambda: attn(x, grid), lambda: gpsa_by_definition(attn, x, *grid)[0]):
        x.stop_gradient = False
        attn.clear_gradients()
        x.clear_gradient()
        out = forward()
        (out * normal(*out.shape, seed=9, dtype="float64")).sum().backward()
        gradients = {name: p.grad.numpy().copy() for name, p in attn.named_parameters()}
        results.append({"out": out.numpy(), "input": x.grad.numpy().copy(), **gradients})
    ours, theirs = results
    assert len(theirs) >= 9
    largest = max(np.abs(expected).max() for expected in theirs.values())
    for name, expected in theirs.items():
        check_forms(ours[name], expected, largest)  # the gradient of a bias of scores is zero


def test_attention_map_equals_its_definition():
    attn = randomised(GPSA(16, 4, qkv_bias=False, scale=4**-0.5))
    attn, x = attn.to(dtype="float64"), normal(2, 15, 16, dtype="float64")
    ours = attn.attention_map(x, (3, 5)).numpy()
    check_forms(ours, gpsa_by_definition(attn, x, 3, 5)[1].numpy())
    check_forms(ours.sum(-1), np.ones((2, 4, 15)))


def test_attention_dropout_takes_the_dense_form():
    """In training it drops weights of the mixture; on the average that is the attention without
    dropout.
    """
    attn = randomised(GPSA(8, 4, qkv_bias=False, scale=2**-0.5, attn_drop=0.3))
    x, grid = normal(1, 6, 8), (2, 3)
    attn.eval()
    expected = attn(x, grid).numpy()
    attn.train()
    paddle.seed(0)
    draws = np.stack([attn(x, grid).numpy() for _ in range(2000)])
    assert draws.std(0).min() > 0
    error = np.abs(draws.mean(0) - expected) / (draws.std(0) / math.sqrt(len(draws)))
    assert error.max() < 5  # standard errors


@pytest.mark.parametrize("heads", [4, 9, 16])
def test_local_initialisation_attends_to_a_window(heads):
    """Each head of a fresh ConViT attends most to one neighbour, and together they cover a K x K
    window.
    """
    size = math.isqrt(heads)
    backbone = small(embed_dim=heads * 4, num_heads=heads, img_size=72)
    attn = backbone.blocks[0].attn
    np.testing.assert_array_equal(attn.v.weight.numpy(), np.eye(heads * 4))
    y_HYY, x_HXX = attn.positions((9, 9))
    # From the middle of the grid: how far, along each axis, the most attended patch lies. Heads of
    # an even window look between two patches, half a step away.
    steps = np.arange(9) - 4
    found = [
        (float(p_x[4] @ steps), float(p_y[4] @ steps))
        for p_x, p_y in zip(x_HXX.numpy(), y_HYY.numpy(), strict=True)
    ]
    center = (size - 1) / 2 if size % 2 == 0 else size // 2
    expected = [(h1 - center, h2 - center) for h1 in range(size) for h2 in range(size)]
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=1e-3)


def test_local_initialisation_formula():
    """row = h1 + K h2 of pos_proj is [2 (h2 - c), 2 (h1 - c), -1] * strength (convit.py:124-137 of
    the original).
    """
    backbone = small(locality_strength=0.5)
    weight = backbone.blocks[1].attn.pos_proj.weight.numpy().T
    expected = [[2 * (h2 - 0.5), 2 * (h1 - 0.5), -1] for h2 in range(2) for h1 in range(2)]
    np.testing.assert_array_equal(weight, 0.5 * np.array(expected))
    np.testing.assert_array_equal(backbone.blocks[1].attn.pos_proj.bias.numpy(), 0)


def test_heads_beyond_the_square_keep_random_weights():
    weight = small(embed_dim=12, num_heads=6).blocks[0].attn.pos_proj.weight.numpy()
    assert set(weight[2, :4]) == {-1.0}
    assert (np.abs(weight[:, 4:]) < 0.2).all()
    assert weight[:, 4:].std() > 0


def test_without_locality_strength_nothing_is_local():
    attn = small(locality_strength=None).blocks[0].attn
    assert np.abs(attn.pos_proj.weight.numpy()).max() < 0.2
    assert not np.allclose(attn.v.weight.numpy(), np.eye(16))


def test_the_class_token_joins_before_the_first_non_local_block():
    backbone = small()
    images = normal(1, 3, 32, 32)
    shapes = [attention.shape for attention in backbone.attention_maps(images)]
    assert shapes == [[1, 4, 16, 16], [1, 4, 16, 16], [1, 4, 17, 17]]
    assert [type(block.attn).__name__ for block in backbone.blocks] == ["GPSA", "GPSA", "MHSA"]


def test_only_local_blocks_need_average_pooling():
    with pytest.raises(
        ValueError, match="local_up_to_layer 3 leaves no block .* set global_pool: avg"
    ):
        small(local_up_to_layer=3)
    backbone = small(local_up_to_layer=3, global_pool="avg")
    assert backbone.cls_token is None
    assert backbone(normal(2, 3, 32, 32)).shape == [2, 16]
    assert small(local_up_to_layer=0)(normal(1, 3, 32, 32)).shape == [1, 16]


def test_average_pooling_leaves_the_class_token_out():
    backbone = small(global_pool="avg")
    images = normal(2, 3, 32, 32)
    patches = backbone.forward_features(images)[0].flatten(2).transpose([0, 2, 1])
    Rounded(backbone.norm(patches).numpy()).mean(1)[:, 0].check(backbone(images).numpy())


def test_position_embedding_is_resampled_for_another_size():
    backbone = small().to(dtype="float64")
    images = normal(1, 3, 48, 24, dtype="float64")
    expected = resample_positions(backbone.pos_embed, (4, 4), (6, 3))
    other = small(img_size=[48, 24]).to(dtype="float64")
    state = {name: tensor.numpy() for name, tensor in backbone.state_dict().items()}
    other.set_state_dict(state | {"pos_embed": expected.numpy()})
    check_forms(backbone(images).numpy(), other(images).numpy())


def cubic(t: float) -> float:
    """Keys' kernel with a = -0.75, PyTorch's."""
    t, a = abs(t), -0.75
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def bicubic_matrix(old: int, new: int) -> np.ndarray:
    """[new, old] weights of bicubic interpolation with align_corners=False and repeated borders."""
    matrix = np.zeros((new, old))
    for i in range(new):
        position = (i + 0.5) * old / new - 0.5
        for j in range(math.floor(position) - 1, math.floor(position) + 3):
            matrix[i, min(max(j, 0), old - 1)] += cubic(position - j)
    return matrix


@pytest.mark.parametrize("new", [(24, 24), (7, 20), (14, 14), (10, 5)])
def test_resampling_is_bicubic(new):
    pos_embed = normal(1, 196, 3)
    ours = resample_positions(pos_embed, (14, 14), new).numpy()
    # A position, up to 14, is off by two roundings; the kernel's slope is 1.35 at most, and it has
    # ten operations.
    rows, columns = (Rounded(bicubic_matrix(14, count), 14 * 2 * 1.35 + 10) for count in new)
    grid = pos_embed.numpy().reshape(14, 14, 3).transpose(2, 0, 1)
    expected = rows @ grid @ columns.map(np.transpose)
    expected.map(lambda array: array.transpose(1, 2, 0).reshape(1, -1, 3)).check(ours)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"img_size": 30}, "30x30 does not divide into patches of 8 pixels; .* for example 32x32"),
        ({"embed_dim": 18}, "embed_dim 18 does not divide into 4 heads"),
        ({"num_heads": 2, "head_dim": 4}, "embed_dim 16 does not divide into 2 heads of 4"),
        ({"local_up_to_layer": 4}, "local_up_to_layer 4 must lie between 0 and depth 3"),
        ({"drop_path_rate": 1.0}, "drop_path_rate: must be a number of at least 0 and below 1"),
        ({"token_dropout": -0.1}, "token_dropout: must be a number of at least 0 and below 1"),
    ],
)
def test_conflicting_options_are_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        small(**options)


def test_image_size_must_be_a_multiple_of_the_patch_size():
    with pytest.raises(ValueError, match="33x32 does not divide into patches of 8"):
        small()(normal(1, 3, 33, 32))


def test_head_dim_replaces_num_heads():
    assert small(num_heads=None, head_dim=8).blocks[0].attn.num_heads == 2
    assert small(num_heads=None, embed_dim=192).blocks[0].attn.num_heads == 4


def test_feed_forward_width_and_activation():
    backbone = small(ff_dim=24, act="quick_gelu")
    assert backbone.blocks[0].mlp.fc1.weight.shape == [16, 24]
    x = normal(5)
    quick_gelu(x.numpy()).check(backbone.blocks[0].mlp.act(x).numpy())
    assert small(mlp_ratio=2.0).blocks[0].mlp.fc1.weight.shape == [16, 32]


def test_post_norm_follows_the_sum():
    block, other = (
        small(pre_norm=before).to(dtype="float64").blocks[0] for before in (False, True)
    )
    x, grid = normal(2, 16, 16, dtype="float64"), (4, 4)
    attended = block.norm1(x + block.attn(x, grid))
    expected = block.norm2(attended + block.mlp(attended))
    check_forms(block(x, grid).numpy(), expected.numpy())
    assert np.abs(block(x, grid).numpy().mean(-1)).max() < 1e-12  # of numbers of size 1
    assert not np.allclose(block(x, grid).numpy(), other(x, grid).numpy())


def test_token_dropout_drops_whole_patches():
    backbone = small(token_dropout=0.5)
    backbone.train()
    paddle.seed(0)
    tokens = backbone._embed(normal(4, 3, 32, 32))[0].numpy()
    dropped = (tokens == 0).all(-1)
    assert 0.2 < dropped.mean() < 0.8
    assert ((tokens == 0).any(-1) == dropped).all()


def test_drop_path_rises_over_the_depth():
    backbone = small(depth=5, drop_path_rate=0.2)
    assert [round(block.drop_path.rate, 6) for block in backbone.blocks] == [
        0,
        0.05,
        0.1,
        0.15,
        0.2,
    ]


def test_dropout_rates_of_each_layer():
    block = small(drop_rate=0.1).blocks[0]
    assert (block.attn.proj_drop.p, block.mlp.drop.p, block.attn.attn_drop.p) == (0.1, 0.1, 0.0)
    block = small(drop_rate=0.1, proj_drop_rate=0.2, ff_dropout=0.3, attn_drop_rate=0.4).blocks[0]
    assert (block.attn.proj_drop.p, block.mlp.drop.p, block.attn.attn_drop.p) == (0.2, 0.3, 0.4)
    assert small(pos_drop_rate=0.5).pos_drop.p == 0.5


def test_qk_scale_and_no_position_embedding():
    backbone = small(qk_scale=0.3, use_pos_embed=False)
    assert backbone.pos_embed is None
    assert "pos_embed" not in backbone.no_weight_decay()
    block = backbone.blocks[2]
    x = normal(1, 17, 16)
    q, k, v = (t.transpose([0, 2, 1, 3]).numpy() for t in block.attn.project_qkv(x, (4, 4)))
    _, attended = attention(q, k, v, 0.3)
    joined = attended.map(lambda array: array.transpose(0, 2, 1, 3).reshape(1, 17, 16))
    expected = joined @ block.attn.proj.weight.numpy() + block.attn.proj.bias.numpy()
    expected.check(block.attn(x, (4, 4)).numpy())


def test_rms_norm_and_other_channels():
    backbone = small(norm_layer="rms_norm", in_chans=1)
    assert backbone(normal(2, 1, 32, 32)).shape == [2, 16]
    x = normal(3, 16)
    exact = Rounded(x.numpy())
    (exact / ((exact * exact).mean() + 1e-6).sqrt()).check(backbone.norm(x).numpy())


def test_hybrid_backbone():
    cvt = {"name": "CvT", "embed_dim": [8, 8, 12], "depth": [1, 1, 1], "num_heads": [1, 1, 1]}
    backbone = small(hybrid_backbone=cvt, img_size=64)
    assert backbone.grid == (4, 4)
    assert backbone(normal(2, 3, 64, 64)).shape == [2, 16]
    assert backbone(normal(1, 3, 32, 64)).shape == [1, 16]
    with pytest.raises(ValueError, match="patches of 16 pixels"):
        backbone(normal(1, 3, 40, 64))


def test_initial_weights():
    """Truncated normal of deviation 0.02 for Linear and tokens, zero biases, PyTorch's uniform for
    the patch convolution.
    """
    backbone = small(embed_dim=64, num_heads=4, local_up_to_layer=1)
    for tensor in (
        backbone.pos_embed,
        backbone.blocks[0].mlp.fc1.weight,
        backbone.blocks[2].attn.qkv.weight,
    ):
        assert abs(tensor.numpy().std() - 0.02) < 0.002
    assert np.abs(backbone.blocks[0].mlp.fc1.bias.numpy()).max() == 0
    weight = backbone.patch_embed.proj.weight.numpy()
    bound = 1 / math.sqrt(3 * 8 * 8)
    assert 0.97 * bound < np.abs(weight).max() <= bound
    assert abs(weight.std() - bound / math.sqrt(3)) < 0.03 * bound
    np.testing.assert_array_equal(backbone.blocks[0].attn.gating_param.numpy(), 1)


def test_xavier_initialisation():
    """Glorot and Bengio's uniform for Linear, below sqrt(6 / (in + out)); v and the positions of
    local blocks start as a convolution all the same.
    """
    backbone = small(embed_dim=64, num_heads=4, local_up_to_layer=1, init="xavier")
    for weight in (backbone.blocks[0].mlp.fc1.weight, backbone.blocks[2].attn.qkv.weight):
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.97 * bound < np.abs(weight.numpy()).max() <= bound
    np.testing.assert_array_equal(backbone.blocks[0].attn.v.weight.numpy(), np.eye(64))
    assert abs(backbone.pos_embed.numpy().std() - 0.02) < 0.002
