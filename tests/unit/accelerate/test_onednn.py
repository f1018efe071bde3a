"""oneDNN's kernels against formulas in float64 and Paddle's own convolution."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle.base import core
from paddle.nn import functional as F

from passl.accelerate import cpu_ops, onednn
from passl.accelerate.cpu_layers import GELU, Conv2D, QuickGELU
from passl.engine.rounding import autocast_on_cpu
from tests.numerics import Rounded

pytestmark = pytest.mark.skipif(
    not core.is_compiled_with_onednn(), reason="this Paddle is built without oneDNN"
)
gelu, quick_gelu = GELU(), QuickGELU()
GEOMETRIES = {  # channels in and out, kernel, stride, padding, groups, height, width
    "first patches of CvT": (3, 16, 7, 4, 2, 1, 32, 28),
    "later patches": (16, 32, 3, 2, 1, 1, 9, 8),
    "three of three": (3, 5, 3, 1, 1, 1, 4, 6),  # the weight's shape does not tell its axes apart
    "depthwise": (32, 32, 3, 1, 1, 32, 7, 5),
    "depthwise on a coarser grid": (32, 32, 3, 2, 1, 32, 7, 6),
    "depthwise, odd": (5, 5, 5, 3, 0, 5, 11, 8),
    "groups": (8, 12, 3, 1, 0, 4, 5, 5),
    "one by one": (6, 4, 1, 1, 0, 1, 3, 2),
}


def normal(*shape):
    array = np.random.default_rng(math.prod(shape)).standard_normal(shape)
    return paddle.to_tensor(array.astype("float32"))


def upstream(shape):
    """Positive, so that sums of it do not cancel and leave their rounding."""
    return 1.5 + np.cos(np.arange(math.prod(shape))).reshape(shape)


def in_float64(function, *tensors):
    """What Paddle's own kernels make of it in float64, and the gradients of a weighted sum."""
    inputs = [paddle.to_tensor(t.numpy().astype("float64"), stop_gradient=False) for t in tensors]
    out = function(*inputs)
    weights = paddle.to_tensor(upstream(out.shape))
    return [t.numpy() for t in (out, *paddle.grad([out], inputs, [weights]))]


def in_float32(function, *tensors):
    inputs = [t.clone() for t in tensors]
    for tensor in inputs:
        tensor.stop_gradient = False
    out = function(*inputs)
    weights = paddle.to_tensor(upstream(out.shape).astype("float32"))
    out.backward(weights)
    return [t.numpy() for t in (out, *(tensor.grad for tensor in inputs))]


def check(found, expected):
    for one, other in zip(found, expected, strict=True):
        other.check(one)


def test_usable(monkeypatch):
    assert onednn.usable()
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")  # where graphs would run
    assert not onednn.usable()


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("batch", [1, 3])
def test_convolution(name, batch):
    channels, made, kernel, stride, padding, groups, height, width = GEOMETRIES[name]
    tensors = [
        normal(batch, channels, height, width),
        normal(made, channels // groups, kernel, kernel),
    ]

    def own(x, weight):
        return F.conv2d(x, weight, None, stride, padding, 1, groups)

    def ours(*inputs):
        return cpu_ops.Conv2D.apply(*inputs, stride, padding, groups)

    exact = in_float64(own, *tensors)
    # Each is a sum of products: over the kernel, or over the maps. Of absolute values it is the sum
    # of theirs, and `upstream` is positive.
    terms = in_float64(own, *(tensor.abs() for tensor in tensors))
    made_of = made // groups, channels // groups
    counts = made_of[1] * kernel**2, made_of[0] * kernel**2, batch * math.prod(exact[0].shape[2:])
    expected = [
        Rounded(value, (count + 1) * size)
        for value, count, size in zip(exact, counts, terms, strict=True)
    ]
    check(in_float32(ours, *tensors), expected)


@pytest.mark.parametrize("needed", [(True, False), (False, True), (False, False)])
def test_frozen_inputs_of_a_convolution(needed):
    # Small whole numbers, whose sums no order rounds.
    tensors = [(normal(*shape) * 2).round() for shape in ((2, 3, 8, 8), (4, 3, 3, 3))]
    bias = (normal(4) * 2).round()
    bias.stop_gradient = False
    found = []
    for function in (cpu_ops.Conv2D.apply, lambda x, w, *how: F.conv2d(x, w, None, *how[:2])):
        inputs = [tensor.clone().detach() for tensor in tensors]
        for tensor, is_needed in zip(inputs, needed, strict=True):
            tensor.stop_gradient = not is_needed
        ((function(*inputs, 2, 1, 1) + bias.reshape([-1, 1, 1])) ** 2).sum().backward()
        found.append([tensor.grad for tensor in inputs])
    for ours, own, is_needed in zip(*found, needed, strict=True):
        assert (ours is not None) == is_needed
        if is_needed:
            np.testing.assert_array_equal(ours.numpy(), own.numpy())


def test_convolution_uses_new_weights_and_keeps_earlier_outputs():
    """A graph keeps weights that it takes for constants, and hands the same memory out again."""
    layer = Conv2D(4, 4, 3, 1, 1, groups=4)
    x = normal(1, 4, 5, 5)
    first = layer(x)
    copy = first.numpy().copy()
    layer.weight.set_value(layer.weight * 2)
    layer.bias.set_value(layer.bias * 2)
    np.testing.assert_array_equal(layer(x).numpy(), 2 * copy)  # twice a number has its digits
    np.testing.assert_array_equal(first.numpy(), copy)


def gelu_and_slope(x: Rounded):
    """x P(x), P the normal distribution, and P(x) + x p(x) with its density p."""
    integral = (1 + (x / math.sqrt(2)).erf()) / 2
    density = (x * x / -2).exp() / math.sqrt(2 * math.pi)
    return x * integral, integral + x * density


def quick_gelu_and_slope(x: Rounded):
    s = (1.702 * x).sigmoid()
    return x * s, s * (1 + 1.702 * x * (1 - s))


def with_gradient(function, x):
    value, slope = function(Rounded(x.numpy()))
    return value, slope * upstream(x.shape)


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 8), (2, 4, 4, 16)])
def test_activations_of_any_rank(shape):
    x = normal(*shape)
    check(in_float32(gelu, x), with_gradient(gelu_and_slope, x))
    check(in_float32(quick_gelu, x), with_gradient(quick_gelu_and_slope, x))


@pytest.mark.parametrize("shape", [(4, 9), (2, 3, 7)])
def test_softmax(shape):
    x = normal(*shape) * 20
    Rounded(x.numpy()).softmax().check(onednn.softmax(x).numpy())


def test_activations_of_large_inputs():
    x = paddle.to_tensor([-1e4, -60.0, -1e-30, 0.0, 1e-30, 60.0, 1e4])
    check(in_float32(gelu, x), with_gradient(gelu_and_slope, x))
    check(in_float32(quick_gelu, x), with_gradient(quick_gelu_and_slope, x))


def test_float64_uses_paddles_kernel():
    x = normal(3, 4).astype("float64")
    assert onednn.gelu(x).dtype == paddle.float64
    np.testing.assert_array_equal(onednn.gelu(x).numpy(), F.gelu(x).numpy())


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_graphs_are_made_and_run_without_autocast(level, caplog):
    """The first use may be in bfloat16 training."""
    caches = (onednn._is_right, onednn._convolution, onednn._gradients)
    for cache in caches:
        cache.cache_clear()
    x, grad = normal(2, 3, 40), normal(2, 3, 40)
    with autocast_on_cpu(level).applied():
        assert onednn.usable()
        found = [onednn.gelu(x), onednn.gelu_grad(x, grad)]
    expected = [onednn.gelu(x), onednn.gelu_grad(x, grad)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert not caplog.records


def test_making_graphs_draws_no_random_numbers():
    paddle.seed(3)
    expected = paddle.rand([4]).numpy()
    paddle.seed(3)
    onednn._is_right.__wrapped__()
    np.testing.assert_array_equal(paddle.rand([4]).numpy(), expected)


def test_fallback_where_graphs_cannot_be_made(monkeypatch, caplog):
    class Other:
        def __init__(self):
            raise AttributeError("no such thing any more")

    onednn._convolution.cache_clear()
    monkeypatch.setattr(onednn, "PassManager", Other)
    monkeypatch.setattr(onednn.get_logger(), "propagate", True)
    assert not onednn._is_right.__wrapped__()
    assert "oneDNN" in caplog.text and "no such thing any more" in caplog.text
    monkeypatch.setattr(onednn, "usable", lambda: False)
    x = normal(2, 3, 4)
    np.testing.assert_array_equal(gelu(x).numpy(), F.gelu(x).numpy())
    layer = Conv2D(4, 4, 3, 1, 1)
    maps = normal(1, 4, 5, 5)
    expected = F.conv2d(maps, layer.weight, layer.bias, 1, 1)
    np.testing.assert_array_equal(layer(maps).numpy(), expected.numpy())


def test_wrong_gradients_are_detected(monkeypatch):
    """The result is compared, not only its presence."""
    real = onednn.conv2d_grad

    def turned(*arguments):
        dx_BCYX, dweight_OIKK = real(*arguments)
        return dx_BCYX, dweight_OIKK.transpose([0, 1, 3, 2])

    monkeypatch.setattr(onednn, "conv2d_grad", turned)
    assert not onednn._is_right.__wrapped__()


def test_convolutions_do_not_permute_axes_of_other_graphs():
    """A convolution with its channels last would turn all larger tensors that oneDNN sees later."""
    x = normal(2, 3, 5)
    graph = onednn.Graph(_activated, [[-1, -1, -1]])
    Conv2D(16, 16, 3, 1, 1, groups=16)(normal(1, 16, 4, 4))
    (out,) = graph(x)
    assert "onednn_op.swish" in [operation.name() for operation in graph.operations]
    (x.numpy() * Rounded(x.numpy()).sigmoid()).check(out.numpy())


def _activated(x):
    return [F.swish(x)]
