"""CPU operations against formulas in numpy, and their gradients against differences of
those formulas.
"""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle.distributed.fleet.utils import recompute

from passl.accelerate import cpu_ops
from passl.accelerate.cpu_layers import Attention
from tests import numerics


def linear(x, weight, bias):
    return x @ weight + bias


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + bias


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def attention(q, k, v):
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) * 0.3
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhnm,bmhd->bnhd", weights / weights.sum(-1, keepdims=True), v)


CASES = {
    "linear": (linear, cpu_ops.Linear.apply, [(2, 3, 5), (5, 4), (4,)]),
    "layer_norm": (
        layer_norm,
        lambda *inputs: cpu_ops.LayerNorm.apply(*inputs, 1e-6),
        [(2, 3, 5), (5,), (5,)],
    ),
    "gelu": (gelu, cpu_ops.Gelu.apply, [(2, 3, 5)]),
    "quick_gelu": (quick_gelu, cpu_ops.QuickGelu.apply, [(2, 3, 5)]),
    "attention": (
        attention,
        lambda *inputs: cpu_ops.Attention.apply(*inputs, 0.3),
        [(2, 7, 3, 4), (2, 5, 3, 4), (2, 5, 3, 4)],
    ),
}


def arrays_of(shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in shapes]


TOLERANCE = 1e-8
"""Of a difference. With a step h of 1e-5 it is off by h^2 / 6 times the third derivative and by the
rounding of float64 over h, 1e-11 each for derivatives and sums of size 1; these are below 100.
"""


def differences(formula, arrays, index, upstream):
    """The gradient of sum(formula * upstream) with respect to one input, by central differences."""
    gradient = np.zeros_like(arrays[index])
    for place in np.ndindex(gradient.shape):
        values = []
        for step in (1e-5, -1e-5):
            moved = [array.copy() for array in arrays]
            moved[index][place] += step
            values.append((formula(*moved) * upstream).sum())
        gradient[place] = (values[0] - values[1]) / 2e-5
    return gradient


@pytest.mark.parametrize("scores", [1, 12, 80, 2**18])  # one query at a time, two; two heads, all
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients(name, scores, monkeypatch):
    monkeypatch.setattr(cpu_ops, "SCORES", scores)
    formula, operation, shapes = CASES[name]
    arrays = arrays_of(shapes)
    inputs = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]
    out = operation(*inputs)
    numerics.check_forms(out.numpy(), formula(*arrays))
    upstream = np.cos(np.arange(out.size)).reshape(out.shape)
    gradients = paddle.grad(out, inputs, paddle.to_tensor(upstream))
    for index, gradient in enumerate(gradients):
        expected = differences(formula, arrays, index, upstream)
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "index"),
    [(name, index) for name, case in CASES.items() for index in range(len(case[2]))],
)
def test_frozen_inputs_change_no_other_gradient(name, index):
    """One input alone wants a gradient; the rest are frozen, as a frozen backbone's weights are."""
    formula, operation, shapes = CASES[name]
    arrays = arrays_of(shapes)
    inputs = [paddle.to_tensor(array) for array in arrays]
    inputs[index].stop_gradient = False
    operation(*inputs).sum().backward()
    expected = differences(formula, arrays, index, 1.0)
    np.testing.assert_allclose(inputs[index].grad.numpy(), expected, rtol=0, atol=TOLERANCE)
    assert all(tensor.grad is None for i, tensor in enumerate(inputs) if i != index)


def test_recomputed_attention_has_the_same_gradients():
    _, operation, shapes = CASES["attention"]
    found = []
    for wrap in (operation, lambda *inputs: recompute(operation, *inputs, use_reentrant=False)):
        inputs = [paddle.to_tensor(array, stop_gradient=False) for array in arrays_of(shapes)]
        wrap(*inputs).square().sum().backward()
        found.append([tensor.grad.numpy() for tensor in inputs])
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("training", [True, False])
def test_large_heads_go_in_blocks(monkeypatch, training):
    monkeypatch.setattr(cpu_ops, "SCORES", 10)
    shapes = []
    softmax = cpu_ops.onednn.softmax

    def watched(scores):
        shapes.append(scores.shape)
        return softmax(scores)

    monkeypatch.setattr(cpu_ops.onednn, "softmax", watched)
    q, k, v = arrays_of(CASES["attention"][2])
    with paddle.set_grad_enabled(training):
        out = Attention(0.3)(*(paddle.to_tensor(array) for array in (q, k, v)))
    numerics.check_forms(out.numpy(), attention(q, k, v))
    assert shapes and max(math.prod(shape) for shape in shapes) <= 10
