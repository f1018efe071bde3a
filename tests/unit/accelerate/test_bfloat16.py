"""Linear layers that multiply in bfloat16, against exact sums and float32."""

from __future__ import annotations

import os

import numpy as np
import paddle
import pytest

from passl.accelerate import SWITCH, accelerate, onednn
from passl.engine.precision import Precision
from passl.engine.step import train_step
from tests.learners import batch, learner_of

BFLOAT16, FLOAT32 = 2.0**-8, 2.0**-24
"""Half a unit in the last place, relative: 8 and 24 bits count."""
needs_bfloat16 = pytest.mark.skipif(
    os.environ.get(SWITCH) == "0" or not onednn.multiplies_bfloat16(),
    reason="this processor or oneDNN has no bfloat16, or Paddle's own operations are asked for",
)


def in_bfloat16(array: np.ndarray) -> np.ndarray:
    return paddle.to_tensor(array).astype("bfloat16").astype("float32").numpy().astype("float64")


def assert_rounded_product(found, left: np.ndarray, right: np.ndarray) -> None:
    """A product of bfloat16 matrices, added up in float32 and rounded to bfloat16."""
    exact, sizes = left @ right, np.abs(left) @ np.abs(right)
    allowed = BFLOAT16 * np.abs(exact) + 2 * (left.shape[1] + 1) * FLOAT32 * sizes
    assert (np.abs(found - exact) <= allowed).all()


def prepared(layer: paddle.nn.Layer) -> Precision:
    precision = Precision(False, level="O1", dtype="bfloat16")
    precision.prepare(accelerate(layer))
    return precision


@needs_bfloat16
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("x",), ("weight", "bias")])
def test_linear_multiplies_in_bfloat16(has_bias, frozen):
    """Also when the layer is used again before the backward pass."""
    rng = np.random.default_rng(0)
    layer = paddle.nn.Linear(40, 24, bias_attr=None if has_bias else False)
    precision = prepared(layer)
    x, other, grad = (
        rng.standard_normal(shape).astype("float32") for shape in ((3, 5, 40), (2, 40), (3, 5, 24))
    )
    images = paddle.to_tensor(x, stop_gradient="x" in frozen)
    for name in {"weight", "bias"}.intersection(frozen):
        if getattr(layer, name) is not None:
            getattr(layer, name).stop_gradient = True
    with precision.autocast():
        y = layer(images)
        layer(paddle.to_tensor(other))
    assert y.dtype == paddle.float32
    x16, w16, g16 = (in_bfloat16(a) for a in (x.reshape(15, 40), layer.weight.numpy(), grad))
    g16 = g16.reshape(15, 24)
    bias = layer.bias.numpy() if has_bias else 0.0
    # The bias comes last, in float32: one more rounding of the sum.
    product = y.numpy().reshape(15, 24).astype("float64") - bias
    exact = x16 @ w16
    allowed = (
        BFLOAT16 * np.abs(exact)
        + 2 * 41 * FLOAT32 * (np.abs(x16) @ np.abs(w16))
        + 2 * FLOAT32 * (np.abs(exact) + np.abs(bias))
    )
    assert (np.abs(product - exact) <= allowed).all()
    assert np.abs(product - x.reshape(15, 40) @ layer.weight.numpy()).max() > 1e-4  # not float32
    if not y.stop_gradient:
        y.backward(paddle.to_tensor(grad))
    for name, found, pair in (
        ("x", images.grad, (g16, w16.T)),
        ("weight", layer.weight.grad, (x16.T, g16)),
    ):
        assert (found is None) == (name in frozen)
        if found is not None:
            assert found.dtype == paddle.float32
            assert_rounded_product(found.numpy().reshape(-1, pair[1].shape[1]), *pair)
    if has_bias and "bias" not in frozen:
        np.testing.assert_allclose(layer.bias.grad.numpy(), grad.sum((0, 1)), rtol=1e-5, atol=1e-5)


@needs_bfloat16
@pytest.mark.parametrize("name", ["ConViT", "CvT"])
def test_networks_keep_eight_bits(tiny_config, name):
    """About 60 tensors are rounded on the way through the network: inputs, weights and outputs of
    its linear layers. Errors of roundings, of which one is BFLOAT16 at most, add up like random
    numbers, and gradients go the way back too.
    """
    path = tiny_config(name, drop=0.0)
    images, labels = batch()
    found = []
    for options in ((), ("amp={level: O1, dtype: bfloat16}",)):
        learner = learner_of(path, *options)
        with learner.precision.autocast():
            logits = learner.model(images)
            loss = learner.objective(lambda _: logits, images, labels)  # noqa: B023
        loss.backward()
        grads = [p.grad.numpy().ravel() for p in learner.model.parameters() if p.grad is not None]
        found.append((logits.numpy(), np.concatenate(grads)))
    (exact, exact_grads), (logits, grads) = found
    tolerance = 60**0.5 * BFLOAT16
    assert 0 < np.linalg.norm(logits - exact) <= tolerance * np.linalg.norm(exact)
    error = np.linalg.norm(grads - exact_grads)
    assert 0 < error <= 2 * tolerance * np.linalg.norm(exact_grads)


@needs_bfloat16
@pytest.mark.parametrize("name", ["ConViT", "CvT"])
def test_recomputed_blocks_multiply_in_bfloat16(tiny_config, name):
    """The recomputed forward pass, which runs after the context, equals the first one."""
    path = tiny_config(name)
    learners = [
        learner_of(path, "amp={level: O1, dtype: bfloat16}", f"recompute={value}")
        for value in ("false", "true")
    ]
    for learner in learners:
        train_step(learner, *batch(), 0)
    plain, recomputed = (dict(learner.model.named_parameters()) for learner in learners)
    for key, parameter in plain.items():
        np.testing.assert_array_equal(parameter.numpy(), recomputed[key].numpy())


def test_wrong_products_are_not_used(monkeypatch, caplog):
    """A Paddle whose oneDNN has no such products, or wrong ones, rounds instead."""
    monkeypatch.setattr(onednn, "cpu_features", lambda: {"avx512_bf16"})
    monkeypatch.setattr(onednn, "usable", lambda: True)
    monkeypatch.delenv(onednn.ISA_SWITCH, raising=False)
    monkeypatch.setattr(onednn, "linear16_grad", lambda *_: (paddle.zeros([3, 5]),) * 2)
    for broken in (lambda *_: (paddle.zeros([3, 2]),) * 3, lambda *_: ()):
        monkeypatch.setattr(onednn, "linear16", broken)
        assert not onednn.multiplies_bfloat16.__wrapped__()
        assert "without oneDNN's products" in caplog.text
        caplog.clear()
    # oneDNN must not be asked where it would end the process.
    monkeypatch.setattr(onednn, "linear16", lambda *_: pytest.fail("asked"))
    monkeypatch.setenv(onednn.ISA_SWITCH, "AVX2")
    assert not onednn.multiplies_bfloat16.__wrapped__()
    monkeypatch.delenv(onednn.ISA_SWITCH)
    monkeypatch.setattr(onednn, "cpu_features", lambda: {"avx2"})
    assert not onednn.multiplies_bfloat16.__wrapped__()
    assert not caplog.text
