"""Losses of multi-label data against their formulas in NumPy and numerical gradients."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl.modeling.losses import Supervised, balanced_pos_weight, build_loss

RNG = np.random.default_rng(0)
LOGITS = np.float32(RNG.normal(scale=3, size=(6, 5)))
TARGETS = (RNG.random((6, 5)) < 0.4).astype(np.float32)
MIXED = 0.3 * TARGETS + 0.7 * TARGETS[::-1]


def asymmetric(x, y, gamma_neg=4.0, gamma_pos=0.0, clip=0.05):
    """Equations 1, 5 and 7 of arXiv 2009.14119 as they are printed, in double precision."""
    p = 1 / (1 + np.exp(-np.float64(x)))
    p_m = np.maximum(p - clip, 0)
    positive = (1 - p) ** gamma_pos * np.log(p)
    negative = p_m**gamma_neg * np.log(1 - p_m)
    return -(y * positive + (1 - y) * negative)


@pytest.mark.parametrize("targets", [TARGETS, MIXED])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gamma_neg": 2.0, "gamma_pos": 1.0, "clip": 0.2},
        {"gamma_neg": 0.5, "gamma_pos": 0.5},
        {"clip": 0.0},
    ],
)
def test_asymmetric_loss(options, targets):
    losses = asymmetric(LOGITS, targets, **options)
    loss, tensors = build_loss({"name": "AsymmetricLoss", **options}), paddle.to_tensor(LOGITS)
    tensors.stop_gradient = False
    value = loss(tensors, paddle.to_tensor(np.float32(targets)))
    value.backward()
    np.testing.assert_allclose(value.item(), losses.mean(), rtol=1e-5)
    step = 1e-6
    slopes = asymmetric(np.float64(LOGITS) + step, targets, **options)
    slopes = (slopes - asymmetric(np.float64(LOGITS) - step, targets, **options)) / (2 * step)
    # The central difference is off by about 1e-10; float32 rounds a dozen operations.
    np.testing.assert_allclose(tensors.grad.numpy(), slopes / LOGITS.size, rtol=2e-5, atol=1e-8)
    summed = build_loss({"name": "AsymmetricLoss", "sum_classes": True, **options})
    value = summed(paddle.to_tensor(LOGITS), paddle.to_tensor(np.float32(targets)))
    np.testing.assert_allclose(value.item(), losses.sum(-1).mean(), rtol=1e-5)


def test_without_focus_it_is_the_binary_cross_entropy():
    section = {"name": "AsymmetricLoss", "gamma_neg": 0.0, "gamma_pos": 0.0, "clip": 0.0}
    arguments = paddle.to_tensor(LOGITS), paddle.to_tensor(TARGETS)
    expected = build_loss({"name": "BinaryCrossEntropy"})(*arguments).item()
    np.testing.assert_allclose(build_loss(section)(*arguments).item(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_extreme_logits_have_a_finite_loss_and_gradient(dtype, gamma, clip):
    """As far as half precision reaches: there a probability is 0 or 1."""
    section = {"name": "AsymmetricLoss", "gamma_neg": gamma, "gamma_pos": gamma, "clip": clip}
    logits = paddle.to_tensor([[-6e4, -100.0, -20.0, 0.0, 20.0, 100.0, 6e4]]).astype(dtype)
    for target in (0.0, 1.0):
        logits = logits.detach()
        logits.stop_gradient = False
        targets = paddle.full([1, 7], target)
        value = Supervised(build_loss(section))(lambda images: images, logits, targets)
        value.backward()
        assert np.isfinite(value.item())
        assert np.isfinite(logits.grad.astype("float32").numpy()).all()


def test_absent_label_below_the_clip_has_no_loss():
    loss = build_loss({"name": "AsymmetricLoss"})
    logits = paddle.to_tensor([[-4.0, -10.0]])
    assert loss(logits, paddle.zeros([1, 2])).item() == pytest.approx(0, abs=1e-11)


def test_pos_weight():
    """PyTorch's definition: -(w * y * log p + (1 - y) * log(1 - p))."""
    weights = np.array([1.0, 2.0, 0.5, 4.0, 3.0])
    p = 1 / (1 + np.exp(-np.float64(LOGITS)))
    expected = -(weights * TARGETS * np.log(p) + (1 - TARGETS) * np.log(1 - p)).mean()
    section = {"name": "BinaryCrossEntropy", "pos_weight": weights.tolist()}
    value = build_loss(section)(paddle.to_tensor(LOGITS), paddle.to_tensor(TARGETS))
    np.testing.assert_allclose(value.item(), expected, rtol=1e-5)
    assert balanced_pos_weight([2, 0, 8], 8) == [3.0, 1.0, 1.0]
