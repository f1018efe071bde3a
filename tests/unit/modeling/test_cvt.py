"""CvT: its quirks are kept, and each option does what it says."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modeling.backbones import build_backbone
from passl.modeling.conv_attention import ConvProjection, projection
from tests.numerics import Rounded, attention, gelu, quick_gelu


def small(**options):
    paddle.seed(1)
    defaults = {
        "embed_dim": [8, 12, 16],
        "depth": [1, 1, 2],
        "num_heads": [1, 2, 4],
        "drop_path_rate": 0.0,
    }
    backbone = build_backbone({"name": "CvT", **defaults, **options})
    backbone.eval()
    return backbone


def normal(*shape: int, seed: int = 0):
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


def test_scale_uses_the_full_width():
    """QUIRK of the original: dim^-0.5, not head_dim^-0.5."""
    backbone = small()
    attn = backbone.stage2.blocks[0].attn
    attn.proj_q.weight.set_value(normal(16, 16, seed=5))
    attn.proj_k.weight.set_value(normal(16, 16, seed=6))
    x = normal(2, 5, 16)
    q, k, v = (t.transpose([0, 2, 1, 3]).numpy() for t in attn.project_qkv(x, (2, 2)))
    weights, attended = attention(q, k, v, 16**-0.5)
    weights.check(attn.attention_map(x, (2, 2)).numpy())
    joined = attended.map(lambda array: array.transpose(0, 2, 1, 3).reshape(2, 5, 16))
    expected = joined @ attn.proj.weight.numpy() + attn.proj.bias.numpy()
    expected.check(attn(x, (2, 2)).numpy())


def test_activation_and_norm_defaults():
    backbone = small()
    x = normal(7)
    act = backbone.stage0.blocks[0].mlp.act
    quick_gelu(x.numpy()).check(act(x).numpy())
    assert backbone.norm._epsilon == 1e-5
    assert small(norm_eps=1e-3).stage1.blocks[0].norm2._epsilon == 1e-3
    gelu(x.numpy()).check(small(act="gelu").stage0.blocks[0].mlp.act(x).numpy())


def test_batch_norm_matches_pytorch():
    bn = ConvProjection(4, kernel=3, stride=1, padding=1).bn
    assert (bn._momentum, bn._epsilon) == (0.9, 1e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (3, 1, 1), (2, 2, 0)])
@pytest.mark.parametrize(("height", "width"), [(5, 5), (6, 8), (7, 4), (2, 3)])
def test_average_projection_counts_padding_only(height, width, kernel, stride, padding):
    """PyTorch's AvgPool2d(ceil_mode=True, count_include_pad=True), from its definition."""
    x = np.float64(normal(1, 2, height, width).numpy())

    def starts(length):
        count = math.ceil((length + 2 * padding - kernel) / stride) + 1
        if (count - 1) * stride >= length + padding:  # a window must not begin beyond the image
            count -= 1
        return [i * stride - padding for i in range(count)]

    def window(x, top, left):
        bottom, right = min(top + kernel, height + padding), min(left + kernel, width + padding)
        inside = x[:, :, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        return inside.sum((2, 3)) / ((bottom - top) * (right - left))

    def windows(x):
        rows = [[window(x, top, left) for left in starts(width)] for top in starts(height)]
        return np.array(rows).transpose(2, 3, 0, 1)

    expected = Rounded(windows(x), (kernel**2 + 1) * windows(np.abs(x)))
    pool = projection("avg", 2, kernel=kernel, stride=stride, padding=padding)
    expected.check(pool(paddle.to_tensor(np.float32(x))).numpy())


def test_methods():
    assert isinstance(small().stage0.blocks[0].attn.conv_proj_q, ConvProjection)
    avg = small(method="avg").stage0.blocks[0].attn
    assert isinstance(avg.conv_proj_k, nn.AvgPool2D)
    assert not list(avg.conv_proj_q.parameters())
    linear = small(method="linear")
    images = normal(2, 3, 32, 32)
    assert linear(images).shape == [2, 16]
    assert linear.attention_maps(images)[0][0].shape == [2, 1, 64, 64]  # k and v on the full grid
    assert small(method=["dw_bn", "avg", "linear"])(images).shape == [2, 16]


def test_feature_maps_have_strides_4_8_16():
    maps = small().forward_features(normal(1, 3, 64, 96))
    assert [m.shape for m in maps] == [[1, 8, 16, 24], [1, 12, 8, 12], [1, 16, 4, 6]]


def test_any_image_size():
    """No position embedding ties CvT to a size; convolutions round odd ones up."""
    backbone = small()
    assert backbone(normal(1, 3, 50, 70)).shape == [1, 16]
    assert [m.shape[2:] for m in backbone.forward_features(normal(1, 3, 50, 70))] == [
        [12, 17],
        [6, 9],
        [3, 5],
    ]


def test_class_token_or_mean_of_the_tokens():
    backbone, images = small(with_cls_token=False), normal(2, 3, 32, 32)
    assert not backbone.no_weight_decay()
    tokens = backbone.forward_features(images, [2])[0].flatten(2).transpose([0, 2, 1])
    Rounded(backbone.norm(tokens).numpy()).mean(1)[:, 0].check(backbone(images).numpy())
    everywhere = small(with_cls_token=True)
    assert everywhere.no_weight_decay() == {
        "stage0.cls_token",
        "stage1.cls_token",
        "stage2.cls_token",
    }
    assert everywhere(images).shape == [2, 16]


def test_keys_and_values_on_a_coarser_grid():
    images = normal(1, 3, 32, 32)
    assert [maps[0].shape for maps in small().attention_maps(images)] == [
        [1, 1, 64, 16],
        [1, 2, 16, 4],
        [1, 4, 5, 2],
    ]
    full = small(stride_kv=1).attention_maps(images)
    assert [maps[0].shape for maps in full] == [[1, 1, 64, 64], [1, 2, 16, 16], [1, 4, 5, 5]]
    assert [len(maps) for maps in full] == [1, 1, 2]


def test_other_numbers_of_stages():
    two = build_backbone(
        {
            "name": "CvT",
            "num_stages": 2,
            "embed_dim": [8, 12],
            "depth": 1,
            "num_heads": 1,
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [2, 1],
            "drop_path_rate": 0.0,
            "with_cls_token": False,
        }
    )
    assert two(normal(2, 3, 32, 32)).shape == [2, 12]
    assert two.feature_strides[-1] == 8


def test_drop_path_restarts_in_each_stage():
    backbone = small(depth=[2, 1, 3], drop_path_rate=[0.1, 0.2, 0.3])
    rates = [
        [round(block.drop_path.rate, 6) for block in stage.blocks] for stage in backbone.stages
    ]
    assert rates == [[0, 0.1], [0], [0, 0.15, 0.3]]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"depth": [1, 2]}, r"depth \[1, 2\] has 2 values for 3 stages"),
        ({"num_stages": 4}, "num_stages 4 is not the length of embed_dim"),
        ({"num_heads": [1, 5, 4]}, "embed_dim 12 of stage 1 does not divide into 5 heads"),
        ({"method": "conv"}, "method: must be one of dw_bn, avg, linear"),
        ({"stride_q": 2}, "stage 0: stride_q 2, .* use stride_q 1 and padding_q 1"),
        ({"kernel_size": 5}, "use stride_q 1 and padding_q 2"),
        ({"drop_rate": 1.5}, "drop_rate: must be a number of at least 0 and below 1"),
    ],
)
def test_conflicting_options_are_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        small(**options)


def test_initial_weights():
    backbone = small(embed_dim=[32, 64, 64], num_heads=[1, 2, 4])
    linear = backbone.stage2.blocks[0].mlp.fc1
    assert abs(linear.weight.numpy().std() - 0.02) < 0.001
    assert np.abs(linear.bias.numpy()).max() == 0
    depthwise = backbone.stage1.blocks[0].attn.conv_proj_k.conv.weight.numpy()
    assert 0.95 / 3 < np.abs(depthwise).max() <= 1 / 3  # fan_in of a depthwise 3 x 3 is 9
    xavier = (
        small(embed_dim=[32, 64, 64], num_heads=[1, 2, 4], init="xavier")
        .stage2.blocks[0]
        .mlp.fc1.weight.numpy()
    )
    bound = math.sqrt(6 / (64 + 256))
    assert 0.97 * bound < np.abs(xavier).max() <= bound
