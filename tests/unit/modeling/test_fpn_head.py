"""Models of segmentation: FPNHead on the maps of both backbones."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from passl.errors import ConfigError
from passl.modeling import Model
from passl.modeling.heads import build_head
from passl.modeling.layers import resized
from passl.optim.parameters import layer_rates

ARCHITECTURES = {
    "cvt": {"name": "CvT", "embed_dim": [8, 12, 16], "depth": [1, 1, 1], "num_heads": [1, 2, 4]},
    "convit": {
        "name": "ConViT",
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 5,
        "num_heads": 2,
        "local_up_to_layer": 3,
    },
}
HEADS = {"cvt": {}, "convit": {"out_indices": [0, 2, 3, -1]}}
NAMES = list(ARCHITECTURES)


def model(name: str, **head) -> Model:
    paddle.seed(0)
    options = {"num_classes": 5, "fpn_channels": 8, "channels": 8, **HEADS[name], **head}
    node = {"name": "FPNHead", **options}
    return Model({"model": {"architecture": ARCHITECTURES[name], "head": node}})


def images(height: int, width: int, batch: int = 2):
    rng = np.random.default_rng(0)
    return paddle.to_tensor(rng.standard_normal((batch, 3, height, width)).astype("float32"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(32, 32), (48, 32), (37, 51), (5, 7)])
def test_logits_of_every_pixel(name, size):
    net = model(name)
    net.eval()
    assert net(images(*size)).shape == [2, 5, *size]


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [("cvt", [8, 12, 16], [4, 8, 16]), ("convit", [16] * 4, [8] * 4)],
)
def test_what_is_derived(name, channels, strides):
    net = model(name)
    assert net.derived == {"in_channels": channels, "strides": strides, "num_classes": 5}
    assert model(name, **net.derived).derived == net.derived


@pytest.mark.parametrize("name", NAMES)
def test_size_of_the_finest_level(name):
    """A quarter of the stride of ConViT's maps, as ViTDet; CvT's first map as it is."""
    net = model(name)
    maps = net.backbone.forward_features(images(32, 48), net.out_indices)
    finest = {"cvt": 4, "convit": 2}[name]
    assert net.head(maps).shape == [2, 5, 32 // finest, 48 // finest]


@pytest.mark.parametrize("name", NAMES)
def test_another_size_is_padded_with_zeros(name):
    net = model(name)
    net.eval()
    padded = paddle.zeros([2, 3, 48, 48])  # a multiple of both strides, 16 and 8
    padded[:, :, :44, :42] = images(44, 42)
    np.testing.assert_array_equal(net(images(44, 42)).numpy(), net(padded)[:, :, :44, :42].numpy())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_all_but_the_final_norm(name):
    """Which the maps do not pass."""
    net = model(name, drop_rate=0.0)
    net.train()
    (net(images(32, 32)) ** 2).sum().backward()
    without = [n for n, p in net.named_parameters() if p.grad is None and not p.stop_gradient]
    assert without == ["backbone.norm.weight", "backbone.norm.bias"]


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_the_head_by_finite_differences(name):
    net = model(name, drop_rate=0.0).head
    net.to(dtype="float64")
    net.eval()
    rng = np.random.default_rng(1)
    shapes = {"cvt": [(8, 8, 8), (12, 4, 4), (16, 2, 2)], "convit": [(16, 4, 4)] * 4}[name]
    maps = [paddle.to_tensor(rng.standard_normal((1, *shape))) for shape in shapes]
    for each in maps:
        each.stop_gradient = False
    cotangent = paddle.to_tensor(rng.standard_normal(net(maps).shape))
    (net(maps) * cotangent).sum().backward()
    for place, each in enumerate(maps):
        direction = paddle.to_tensor(rng.standard_normal(each.shape))
        step, values = 1e-6, []
        for sign in (1, -1):
            moved = list(maps)
            moved[place] = each.detach() + sign * step * direction
            values.append((net(moved) * cotangent).sum().item())
        expected = (each.grad * direction).sum().item()
        # Central differences in float64: 1e-16 / 1e-6 of sums of some hundred values.
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("size", [(8, 10), (7, 3), (4, 5)])
def test_resized_is_bilinear(size):
    x = images(4, 5)
    expected = F.interpolate(x, size, mode="bilinear", align_corners=False).numpy()
    np.testing.assert_allclose(resized(x, size).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_recompute_changes_nothing(name):
    gradients = []
    for recompute in (False, True):
        net = model(name)
        net.train()
        net.backbone.recompute = recompute
        paddle.seed(3)
        (net(images(32, 32)) ** 2).sum().backward()
        gradients.append([p.grad.numpy() for p in net.parameters() if p.grad is not None])
    for plain, again in zip(*gradients, strict=True):
        np.testing.assert_array_equal(plain, again)


def test_layer_wise_rates_of_the_head_are_the_largest():
    rates = layer_rates(model("convit"), 0.5)
    assert {rate for name, rate in rates.items() if name.startswith("head.")} == {1.0}
    assert rates["backbone.blocks.0.norm1.weight"] < rates["backbone.blocks.4.norm1.weight"] < 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("convit", {"out_indices": None}, "5 maps of one stride make no pyramid; choose up to 4"),
        ("convit", {"out_indices": [0, 9]}, "there is no feature map 9"),
        ("cvt", {"out_indices": [0, 2]}, r"strides \[4, 16\] must double"),
        ("cvt", {"strides": [4, 8, 32]}, r"model.head.strides .* is not the backbone's strides"),
        ("cvt", {"in_channels": [8, 12]}, r"set it to \[8, 12, 16\], or leave it out"),
    ],
)
def test_maps_that_do_not_fit(name, options, message):
    with pytest.raises(ConfigError, match=message):
        model(name, **options)


def test_one_map_is_enough():
    head = build_head({"name": "FPNHead", "num_classes": 3, "in_channels": [8], "strides": [16]})
    assert head([paddle.zeros([1, 8, 2, 3])]).shape == [1, 3, 8, 12]
