"""Head and the layers that both networks share."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from passl.modeling.heads import build_head
from passl.modeling.layers import Attention, DropPath, activation
from tests.numerics import Rounded, attention, layer_norm


def normal(*shape: int):
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape).astype("float32"))


@pytest.mark.parametrize("name", ["ClsHead", "CvTClsHead"])
def test_head(name):
    head = build_head({"name": name, "num_classes": 5, "in_channels": 8})
    x = normal(3, 8)
    weight, bias = head.fc_cls.weight.numpy(), head.fc_cls.bias.numpy()
    (Rounded(x.numpy()) @ weight + bias).check(head(x).numpy())
    with pytest.raises(ValueError, match="takes 8 features, not 9; set head.in_channels"):
        head(normal(3, 9))


def test_head_with_a_hidden_layer():
    head = build_head({"name": "ClsHead", "num_classes": 5, "in_channels": 8, "act": "relu"})
    x = normal(3, 8)
    hidden = np.maximum(head.hidden.fc(x).numpy(), 0)
    expected = layer_norm(hidden, 1e-5) @ head.fc_cls.weight.numpy() + head.fc_cls.bias.numpy()
    expected.check(head(x).numpy())


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"in_channels": 0}, {"drop_rate": 1.0}])
def test_wrong_options_of_the_head(options):
    with pytest.raises(ValueError, match="must be a (whole )?number of at least"):
        build_head({"name": "ClsHead", "num_classes": 5, "in_channels": 8, **options})


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    layer = DropPath(0.25)
    paddle.seed(0)
    out = layer(paddle.ones([4000, 3, 2])).numpy()
    per_sample = out.reshape(4000, -1)
    assert (per_sample == per_sample[:, :1]).all()
    (Rounded([0, 1]) / 0.75).check(np.unique(out))
    assert abs(out.mean() - 1) < 0.05
    layer.eval()
    np.testing.assert_array_equal(layer(paddle.ones([2, 3])).numpy(), 1)


@pytest.mark.parametrize("scale", [8**-0.5, 0.1, 1.0])
def test_attention_with_any_scale(scale):
    q, k, v = normal(2, 5, 3, 8), normal(2, 7, 3, 8) * 2, normal(2, 7, 3, 8) + 1
    _, attended = attention(*(np.swapaxes(t.numpy(), 1, 2) for t in (q, k, v)), scale)
    attended.map(lambda array: np.swapaxes(array, 1, 2)).check(Attention(scale)(q, k, v).numpy())


def test_gelu_by_tanh():
    x = np.linspace(-4, 4, 41).astype("float32")
    exact = Rounded(x)
    inner = math.sqrt(2 / math.pi) * (exact + 0.044715 * exact * exact * exact)
    expected = 0.5 * exact * (1 + inner.tanh())
    expected.check(activation("gelu_tanh")(paddle.to_tensor(x)).numpy())
    difference = activation("gelu")(paddle.to_tensor(x)).numpy() - expected.value
    assert np.abs(difference).max() > 1e-4
