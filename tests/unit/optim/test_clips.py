"""Gradient clipping, seen through a step of SGD from weights that are known."""

from __future__ import annotations

import numpy as np
import pytest

from passl.errors import ConfigError
from passl.optim.optimizers import build_optimizer
from passl.optim.parameters import trainable
from tests.numerics import Rounded

RATE = 2.0**20
"""Of the step: it leaves nothing of the weights' own rounding in the difference."""


@pytest.fixture
def clipped(make_model, give_gradients):
    """`clipped(grad_clip, ...)` makes a step. It gives the weights before, the gradients, and
    `check(name, gradient)`, which fails unless the step was that of this gradient.
    """

    def run(clip: dict, backbone: str = "CvT", scale: float = 1.0, **section):
        model = make_model(backbone)
        section = {"name": "SGD", "lr": 1.0, "grad_clip": clip, **section}
        optimizer = build_optimizer(section, model)
        weights = {n: p.numpy() for n, p in trainable(model)}
        rng = np.random.default_rng(3)
        # Eighths, so that float32 holds the sum of their squares exactly, in whatever order.
        drawn = {n: np.round(8 * rng.standard_normal(w.shape)) / 8 for n, w in weights.items()}
        gradients = give_gradients(model, 0, {n: scale * array for n, array in drawn.items()})
        optimizer.set_lr(RATE)
        optimizer.step()
        after = {n: p.numpy() for n, p in trainable(model)}

        def check(name: str, gradient) -> None:
            (Rounded(weights[name]) - RATE * Rounded(1) * gradient).check(after[name])

        return weights, gradients, check

    return run


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_all_gradients_are_clipped_by_one_norm(clipped, layer_decay):
    """Decayed or not, and whatever rate its layer has: a gradient is divided by the norm of all."""
    clip = {"name": "global_norm", "value": 2.0}
    _, gradients, check = clipped(clip, "ConViT", layer_decay=layer_decay)
    squares = sum((gradient.astype("float64") ** 2).sum() for gradient in gradients.values())
    assert 4.0 < squares < 2**24 / 64
    norm = Rounded(squares).sqrt()
    depth = {"backbone.norm": 0, "head": 0, "backbone.blocks.1": 1, "backbone.blocks.0": 2}
    for n, gradient in gradients.items():
        layers = next((depth[part] for part in depth if n.startswith(part)), 3)
        rate = 1.0 if layer_decay is None else layer_decay**layers
        check(n, rate * Rounded(gradient) * 2.0 / norm)


def test_small_norm_is_not_clipped(clipped):
    _, gradients, check = clipped({"name": "global_norm", "value": 1e6}, "ConViT")
    for n, gradient in gradients.items():
        check(n, gradient)


def test_every_number_is_clipped(clipped):
    _, gradients, check = clipped({"name": "value", "value": 0.5})
    for n, gradient in gradients.items():
        check(n, np.clip(gradient, -0.5, 0.5))


@pytest.mark.parametrize(("backbone", "size"), [("ConViT", 1.0), ("CvT", 1.0), ("CvT", 2e-3)])
def test_units_are_clipped_by_their_weights(clipped, backbone, size):
    """The paper's formula, with the units that its code and timm's have, and without the
    classifier. The scales reach both sides of the limit.
    """
    factor, eps = 0.1, 0.02
    clip = {"name": "adaptive", "clip_factor": factor, "eps": eps}
    weights, gradients, check = clipped(clip, backbone, size)
    shortened = left = 0
    for n, gradient in gradients.items():
        if n.startswith("head.fc_cls."):
            check(n, gradient)
            continue
        axes = {1: 0, 2: 0, 3: (1, 2), 4: (1, 2, 3)}[gradient.ndim]  # a Linear is [in, out]
        limit = factor * norm_of(weights[n], axes).map(lambda norm: np.maximum(norm, eps))
        norm = norm_of(gradient, axes)
        is_long = norm.value > limit.value
        scale = limit / norm
        scale = Rounded(np.where(is_long, scale.value, 1), np.where(is_long, scale.error, 0))
        check(n, gradient * scale)
        shortened, left = shortened + is_long.sum(), left + (~is_long).sum()
    assert shortened
    assert bool(left) == (size < 1)


def test_excluded_parameters_can_be_chosen(clipped):
    clip = {"name": "adaptive", "exclude": ["*.bias"]}
    _, gradients, check = clipped(clip)
    for n, gradient in gradients.items():
        if n.endswith(".bias"):
            check(n, gradient)
        else:
            with pytest.raises(AssertionError):
                check(n, gradient)


def norm_of(array: np.ndarray, axes) -> Rounded:
    return (Rounded(array) ** 2).sum(axes).sqrt()


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"name": "global_norm", "value": 0}, "value: must be a number above 0"),
        ({"name": "value", "value": -1}, "value: must be a number above 0"),
        ({"name": "adaptive", "clip_factor": 0}, "clip_factor: must be a number above 0"),
        ({"name": "adaptive", "eps": 0}, "eps: must be a number above 0"),
        (
            {"name": "adaptive", "exclude": ["head.fc.*"]},
            "grad_clip.exclude: 'head.fc.*' matches no parameter; the closest name is 'head.fc_cls",
        ),
    ],
)
def test_refusals(make_model, clip, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer({"name": "SGD", "lr": 1.0, "grad_clip": clip}, make_model())
