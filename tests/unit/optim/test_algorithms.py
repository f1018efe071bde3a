"""Each optimizer against its published formula in float64, its decay, its rates and its resume."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl.errors import ConfigError
from passl.optim import OPTIMIZERS
from passl.optim.optimizers import build_optimizer
from passl.optim.parameters import decayed_names, trainable
from tests.numerics import Rounded


# --------------------------------------------------------------------------------------------------
# The formulas of the papers, of numbers that float32 has rounded. `s` keeps what an algorithm
# remembers, from one step to the next.
# --------------------------------------------------------------------------------------------------
def sgd(s, w, g, lr, t, wd):
    return w - lr * (g + wd * w)


def momentum(s, w, g, lr, t, wd, *, momentum=0.9, nesterov=False):
    g = g + wd * w
    s["v"] = momentum * s.get("v", 0.0) + g
    return w - lr * (g + momentum * s["v"] if nesterov else s["v"])


def rmsprop(s, w, g, lr, t, wd, *, alpha=0.9, eps=1e-8, momentum=0.0, centered=False):
    g = g + wd * w
    s["square"] = alpha * s.get("square", 0.0) + (1 - alpha) * g**2
    s["mean"] = alpha * s.get("mean", 0.0) + (1 - alpha) * g
    spread = s["square"] - (s["mean"] ** 2 if centered else 0.0)
    s["v"] = momentum * s.get("v", 0.0) + lr * g / (spread + eps).sqrt()
    return w - s["v"]


def adam_direction(s, g, t, betas, eps):
    s["m"] = betas[0] * s.get("m", 0.0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0.0) + (1 - betas[1]) * g**2
    return s["m"] / (1 - betas[0] ** t) / ((s["v"] / (1 - betas[1] ** t)).sqrt() + eps)


def adam(s, w, g, lr, t, wd, *, betas=(0.9, 0.999), eps=1e-8):
    return w - lr * adam_direction(s, g + wd * w, t, betas, eps)


def adamw(s, w, g, lr, t, wd, *, betas=(0.9, 0.999), eps=1e-8):
    return w * (1 - lr * wd) - lr * adam_direction(s, g, t, betas, eps)


def lamb(s, w, g, lr, t, wd, *, betas=(0.9, 0.999), eps=1e-6, always_adapt=False):
    r = adam_direction(s, g, t, betas, eps) + wd * w
    adapts = (wd.value or always_adapt) and w.value.any()
    ratio = ((w**2).sum(None) / (r**2).sum(None)).sqrt() if adapts else 1.0
    return w - lr * ratio * r


def lion(s, w, g, lr, t, wd, *, betas=(0.9, 0.99)):
    m = s.get("m", 0.0)
    s["m"] = betas[1] * m + (1 - betas[1]) * g
    sign = np.sign((betas[0] * m + (1 - betas[0]) * g).value)  # of numbers far from 0
    return w - lr * (sign + wd * w)


def muon(s, w, g, lr, t, wd, *, betas=(0.9, 0.95), eps=1e-8):
    """Of these small networks, no weight counts as a matrix."""
    return w - lr * (adam_direction(s, g, t, betas, eps) + wd * w)


CASES = [
    ("SGD", sgd, {}),
    ("Momentum", momentum, {}),
    ("Momentum", momentum, {"momentum": 0.8, "nesterov": True}),
    ("RMSProp", rmsprop, {}),
    ("RMSProp", rmsprop, {"alpha": 0.95, "eps": 0.01, "momentum": 0.7, "centered": True}),
    ("Adam", adam, {}),
    ("Adam", adam, {"betas": [0.8, 0.9], "eps": 1e-3}),
    ("AdamW", adamw, {}),
    ("AdamW", adamw, {"betas": [0.8, 0.9], "eps": 1e-3}),
    ("Lamb", lamb, {}),
    ("Lamb", lamb, {"betas": [0.8, 0.9], "eps": 1e-3, "always_adapt": True}),
    ("Lion", lion, {}),
    ("Lion", lion, {"betas": [0.95, 0.98]}),
    ("Muon", muon, {}),
    ("Muon", muon, {"betas": [0.8, 0.9], "eps": 1e-3}),
]
NAMES = OPTIMIZERS.names()


def test_every_optimizer_has_its_formula():
    assert NAMES
    assert {name for name, _, _ in CASES} == set(NAMES)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("name", "formula", "options"), CASES)
def test_optimizer_follows_its_formula(
    make_model, give_gradients, name, formula, options, weight_decay
):
    """Twelve steps with a rate that changes, on every parameter, decayed or not."""
    model = make_model()
    section = {"name": name, "lr": 1.0, "weight_decay": weight_decay, **options}
    optimizer = build_optimizer(section, model)
    decayed = decayed_names(model)
    constants = {
        key: in_float32(value) for key, value in ((formula.__kwdefaults__ or {}) | options).items()
    }
    expected = {n: Rounded(p.numpy()) for n, p in trainable(model)}
    memory: dict[str, dict] = {n: {} for n in expected}
    for t in range(1, 13):
        lr = 0.01 / t
        gradients = give_gradients(model, seed=t)
        optimizer.set_lr(lr)
        optimizer.step()
        for n, w in expected.items():
            wd = in_float32(weight_decay if n in decayed else 0.0)
            g = Rounded(gradients[n])
            expected[n] = formula(memory[n], w, g, in_float32(lr), t, wd, **constants)
    for n, parameter in trainable(model):
        expected[n].check(parameter.numpy())


@pytest.mark.parametrize("shape", [(16, 24), (40, 16), (16, 2, 3, 3)])
def test_muon_steps_along_the_singular_vectors(shape):
    """Two steps of a matrix and a convolution, with a momentum and a rate of their own.

    The reference takes the iteration's polynomial of each singular value, in float64. An iteration
    multiplies what rounding has done by at most its slope at 0, 3.4445, and adds three products of
    `columns` terms, each with a coefficient of at most 4.775: together below 0.006 for a matrix
    with singular values around 1.
    """
    rng = np.random.default_rng(0)
    start, *gradients = rng.standard_normal((3, *shape)).astype("float32")
    weight = paddle.create_parameter(list(shape), "float32")
    weight.set_value(start)
    section = {"name": "Muon", "weight_decay": 0.1, "momentum": 0.9}
    optimizer = OPTIMIZERS.build(section, [weight], lambda name: True, None)
    expected, moment = start.astype("float64"), np.zeros(shape)
    for lr, gradient in zip((0.5, 0.25), gradients, strict=True):
        optimizer.set_lr(lr)
        weight.clear_gradient(False)
        (weight * paddle.to_tensor(gradient)).sum().backward()
        optimizer.step()
        moment = 0.9 * moment + 0.1 * gradient
        matrix = (0.9 * moment + 0.1 * gradient).reshape(shape[0], -1)
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        values /= np.linalg.norm(values)
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        assert (values > 0.6).all()
        assert (values < 1.3).all()
        step = 0.2 * np.sqrt(max(matrix.shape)) * (left * values) @ right
        expected = expected - lr * (step.reshape(shape) + 0.1 * expected)
    assert np.abs(weight.numpy() - expected).max() < 0.75 * 0.2 * np.sqrt(max(shape)) * 0.006


def test_muon_leaves_vectors_small_and_depthwise_weights_to_adamw():
    """A first step of AdamW has the size of the rate everywhere."""
    shapes = [(64,), (8, 64), (64, 8), (64, 1, 5, 5)]
    weights = [paddle.create_parameter(list(shape), "float32") for shape in shapes]
    before = [weight.numpy().copy() for weight in weights]
    section = {"name": "Muon", "weight_decay": 0.0}
    optimizer = OPTIMIZERS.build(section, weights, lambda name: True, None)
    sum((weight * weight).sum() + weight.sum() for weight in weights).backward()
    optimizer.set_lr(0.01)
    optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        np.testing.assert_allclose(np.abs(weight.numpy() - old), 0.01, rtol=1e-3)


def in_float32(value):
    """A number of the config, or two, as float32 holds it; 1 - 0.999 has three digits less."""
    if isinstance(value, float):
        return Rounded(value, value)
    return [in_float32(part) for part in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backbone", ["ConViT", "CvT"])
def test_decay_changes_only_the_parameters_that_decay(make_model, give_gradients, name, backbone):
    """With gradients of zero, decay is all that moves a weight."""
    model = make_model(backbone)
    optimizer = build_optimizer({"name": name, "lr": 1.0, "weight_decay": 0.1}, model)
    for _, parameter in trainable(model):
        parameter.set_value(np.ones(parameter.shape, "float32"))
    give_gradients(model, seed=0, gradients=dict.fromkeys(dict(trainable(model)), 0.0))
    optimizer.set_lr(0.5)
    optimizer.step()
    moved = {n for n, parameter in trainable(model) if (parameter.numpy() != 1.0).any()}
    assert moved == decayed_names(model)
    assert moved


@pytest.mark.parametrize("name", ["AdamW", "Lion", "SGD", "Momentum"])
def test_decay_shrinks_weights_by_rate_times_decay(make_model, give_gradients, name):
    model = make_model()
    optimizer = build_optimizer({"name": name, "lr": 1.0, "weight_decay": 0.1}, model)
    weight = model.head.fc_cls.weight
    weight.set_value(np.ones(weight.shape, "float32"))
    give_gradients(model, seed=0, gradients=dict.fromkeys(dict(trainable(model)), 0.0))
    optimizer.set_lr(0.5)
    optimizer.step()
    shrunk = Rounded(np.ones(weight.shape)) * (1 - 0.5 * in_float32(0.1))
    shrunk.check(weight.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_each_layer_has_its_own_rate(make_model, give_gradients, name):
    """From weights of zero, a first step is in proportion to the rate: exactly that of one rate for
    all, times 0.5 for each layer that lies behind.
    """
    moves = []
    for layer_decay in (None, 0.5):
        model = make_model()
        for _, parameter in trainable(model):
            parameter.set_value(np.zeros(parameter.shape, "float32"))
        section = {"name": name, "lr": 1.0, "layer_decay": layer_decay}
        optimizer = build_optimizer(section, model)
        give_gradients(model, seed=1)
        optimizer.set_lr(0.1)
        optimizer.step()
        moves.append({n: parameter.numpy() for n, parameter in trainable(model)})
    behind = {"backbone.blocks.0": 2, "backbone.blocks.1": 1, "backbone.norm": 0, "head": 0}
    for n, move in moves[0].items():
        layers = next((behind[part] for part in behind if n.startswith(part)), 3)
        np.testing.assert_array_equal(moves[1][n], move * 0.5**layers, n)
        assert move.any()


@pytest.mark.parametrize(("name", "formula", "options"), CASES)
def test_state_resumes_exactly(make_model, give_gradients, name, formula, options):
    """The state is kept under the parameters' own names, as checkpoints do, and goes on in another
    network, whose generated names are others.
    """
    clip = {"name": "global_norm", "value": 1.0}
    section = {"name": name, "lr": 1.0, "weight_decay": 0.1, "layer_decay": 0.7, **options}
    section["grad_clip"] = clip

    def run(model, optimizer, steps):
        for t in steps:
            give_gradients(model, seed=t)
            optimizer.set_lr(0.1 / (t + 1))
            optimizer.step()

    def start():
        model = make_model()
        return model, build_optimizer(section, model)

    straight, optimizer = start()
    run(straight, optimizer, range(4))
    first, optimizer = start()
    run(first, optimizer, range(2))
    saved = {}
    for n, parameter in trainable(first):
        prefix = f"{parameter.name}_"
        for key, tensor in optimizer.state_dict().items():
            if key.startswith(prefix):
                saved[n, key.removeprefix(prefix)] = tensor.numpy().copy()
    assert len(saved) == len(optimizer.state_dict())
    assert bool(saved) == (name != "SGD")  # which remembers nothing

    second, optimizer = start()
    second.set_state_dict({n: p.numpy().copy() for n, p in first.state_dict().items()})
    names = {n: parameter.name for n, parameter in trainable(second)}
    state = {f"{names[n]}_{key}": paddle.to_tensor(array) for (n, key), array in saved.items()}
    optimizer.set_state_dict(state)
    run(second, optimizer, range(2, 4))
    expected = dict(trainable(straight))
    for n, parameter in trainable(second):
        np.testing.assert_array_equal(parameter.numpy(), expected[n].numpy(), err_msg=n)


def test_earlier_optimizer_leaves_no_settings(make_model, give_gradients):
    model = make_model()
    build_optimizer({"name": "SGD", "lr": 1.0, "weight_decay": 0.3, "layer_decay": 0.5}, model)
    optimizer = build_optimizer({"name": "SGD", "lr": 1.0}, model)
    before = {n: parameter.numpy().copy() for n, parameter in trainable(model)}
    gradients = give_gradients(model, seed=0)
    optimizer.set_lr(0.25)
    optimizer.step()
    for n, parameter in trainable(model):
        (Rounded(before[n]) - 0.25 * Rounded(gradients[n])).check(parameter.numpy())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "AdamX"}, "there is no optimizer 'AdamX'; did you mean 'Adam'"),
        (
            {"name": "AdamW", "betas": [0.9, 1.0]},
            "betas: must be a list of 2, each a number of at least 0 and below 1",
        ),
        ({"name": "Adam", "eps": 0}, "eps: must be a number above 0"),
        (
            {"name": "Lion", "weight_decay": -0.1},
            "weight_decay: must be a number of at least 0",
        ),
        (
            {"name": "Lamb", "weight_decay": -0.1},
            "weight_decay: must be a number of at least 0",
        ),
        (
            {"name": "SGD", "weight_decay": -0.1},
            "weight_decay: must be a number of at least 0",
        ),
        ({"name": "SGD", "momentum": 0.9}, "'momentum' is not an option of SGD"),
        (
            {"name": "Momentum", "momentum": 1},
            "momentum: must be a number of at least 0 and below 1",
        ),
        (
            {"name": "RMSProp", "alpha": -1},
            "alpha: must be a number of at least 0 and below 1",
        ),
    ],
)
def test_refusals(make_model, section, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer({"lr": 1.0, **section}, make_model())
