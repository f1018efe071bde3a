"""Gradient clipping, seen through a step of SGD from weights that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from passl.optim.optimizers import build_optimizer, trainable
from passl.utils.errors import ConfigError


@pytest.fixture
def clipped(make_model, give_gradients):
    """(weights, gradients, gradients as the optimizer sees them) by name, for a `grad_clip`."""

    def run(clip: dict, backbone: str = "CvT", scale: float = 1.0, **section):
        model = make_model(backbone)
        section = {"name": "SGD", "lr": 1.0, "grad_clip": clip, **section}
        optimizer = build_optimizer(section, model)
        weights = {n: p.numpy().astype("float64") for n, p in trainable(model)}
        rng = np.random.default_rng(3)
        chosen = {n: scale * rng.standard_normal(w.shape) for n, w in weights.items()}
        gradients = give_gradients(model, 0, chosen)
        # A rate of 2 ** 20 leaves nothing of the weights' own rounding in the difference.
        optimizer.set_lr(2.0**20)
        optimizer.step()
        after = dict(trainable(model))
        seen = {n: (weights[n] - after[n].numpy()) / 2.0**20 for n in weights}
        return weights, gradients, seen

    return run


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_all_gradients_are_clipped_by_one_norm(clipped, layer_decay):
    """Decayed or not, and whatever rate its layer has: a gradient is divided by the norm of all."""
    clip = {"name": "global_norm", "value": 2.0}
    _, gradients, seen = clipped(clip, "ConViT", layer_decay=layer_decay)
    norm = math.sqrt(
        sum((gradient.astype("float64") ** 2).sum() for gradient in gradients.values())
    )
    assert norm > 2.0
    depth = {"backbone.norm": 0, "head": 0, "backbone.blocks.1": 1, "backbone.blocks.0": 2}
    for n, gradient in gradients.items():
        layers = next((depth[part] for part in depth if n.startswith(part)), 3)
        rate = 1.0 if layer_decay is None else layer_decay**layers
        np.testing.assert_allclose(seen[n], rate * gradient * 2.0 / norm, rtol=1e-5, atol=1e-7)


def test_a_small_norm_is_left_alone(clipped):
    _, gradients, seen = clipped({"name": "global_norm", "value": 1e6}, "ConViT")
    for n, gradient in gradients.items():
        np.testing.assert_allclose(seen[n], gradient, rtol=1e-5, atol=1e-6)


def test_every_number_is_clipped(clipped):
    _, gradients, seen = clipped({"name": "value", "value": 0.5})
    for n, gradient in gradients.items():
        np.testing.assert_allclose(seen[n], np.clip(gradient, -0.5, 0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("backbone", "scale"), [("ConViT", 1.0), ("CvT", 1.0), ("CvT", 2e-3)])
def test_units_are_clipped_by_their_weights(clipped, backbone, scale):
    """The paper's formula, with the units that its code and timm's have, and without the
    classifier. The scales reach both sides of the limit.
    """
    factor, eps = 0.1, 0.02
    clip = {"name": "adaptive", "clip_factor": factor, "eps": eps}
    weights, gradients, seen = clipped(clip, backbone, scale)
    shortened = left = 0
    for n, gradient in gradients.items():
        expected = gradient.astype("float64")
        if not n.startswith("head.fc_cls."):
            axes = {1: 0, 2: 0, 3: (1, 2), 4: (1, 2, 3)}[gradient.ndim]  # a Linear is [in, out]
            limit = factor * np.maximum(_norm(weights[n], axes), eps)
            norm = _norm(expected, axes)
            expected = np.where(norm > limit, expected * limit / norm, expected)
            shortened, left = shortened + (norm > limit).sum(), left + (norm <= limit).sum()
        np.testing.assert_allclose(seen[n], expected, rtol=1e-5, atol=1e-6 * scale, err_msg=n)
    assert shortened
    assert bool(left) == (scale < 1)


def test_what_is_excluded_can_be_chosen(clipped):
    clip = {"name": "adaptive", "exclude": ["*.bias"]}
    _, gradients, seen = clipped(clip)
    for n, gradient in gradients.items():
        untouched = np.allclose(seen[n], gradient, rtol=1e-5, atol=1e-6)
        assert untouched == n.endswith(".bias"), n


def _norm(array, axes):
    return np.sqrt((array**2).sum(axis=axes, keepdims=True))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"name": "global_norm", "value": 0}, "grad_clip.value 0 must be above 0"),
        ({"name": "value", "value": -1}, "grad_clip.value -1 must be above 0"),
        ({"name": "adaptive", "clip_factor": 0}, "grad_clip.clip_factor 0 must be above 0"),
        ({"name": "adaptive", "eps": 0}, "grad_clip.eps 0 must be above 0"),
        (
            {"name": "adaptive", "exclude": ["head.fc.*"]},
            "grad_clip.exclude: 'head.fc.*' matches no parameter; the closest name is 'head.fc_cls",
        ),
    ],
)
def test_refusals(make_model, clip, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer({"name": "SGD", "lr": 1.0, "grad_clip": clip}, make_model())
