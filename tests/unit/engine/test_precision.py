"""Mixed precision: bfloat16 on a CPU against exact sums, float32 where it must stay, and the loss
scale.
"""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle.amp import grad_scaler
from paddle.amp.auto_cast import amp_global_state

from passl.accelerate import onednn
from passl.engine.precision import LossScaler, Precision
from passl.engine.step import train_step
from tests.learners import batch, learner_of

BFLOAT16, FLOAT32 = 2.0**-8, 2.0**-24
"""Half a unit in the last place, relative: 8 and 24 bits count."""
LEVELS = ("O1", "O2")


@pytest.fixture(autouse=True)
def _rounding(monkeypatch):
    """As on a processor without instructions for bfloat16; tests/unit/accelerate has the others."""
    monkeypatch.setattr(onednn, "multiplies_bfloat16", lambda: False)


def amp(level: str) -> str:
    return f"amp={{level: {level}, dtype: bfloat16}}"


def in_bfloat16(array: np.ndarray) -> np.ndarray:
    """The nearest numbers whose lower 16 bits are 0; halves go to the even one."""
    bits = np.float32(array).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return bits.astype(np.uint32).view(np.float32)


def assert_rounded_sum(found, terms: np.ndarray) -> None:
    """A sum over the last axis of `terms`, added up in float32 and rounded to bfloat16."""
    exact, count = terms.sum(-1), terms.shape[-1]
    allowed = BFLOAT16 * np.abs(exact) + 2 * count * FLOAT32 * np.abs(terms).sum(-1)
    assert (np.abs(found - exact) <= allowed).all()


@pytest.mark.parametrize("level", LEVELS)
def test_linear_rounds_to_bfloat16(level):
    """Inputs, weights, outputs and all gradients have 8 bits, sums are exact to 24."""
    rng = np.random.default_rng(0)
    x, w, b, g = (
        rng.standard_normal(shape).astype("float32") for shape in ((6, 9), (9, 4), 4, (6, 4))
    )
    layer = paddle.nn.Linear(9, 4)
    layer.weight.set_value(w)
    layer.bias.set_value(b)
    precision = Precision(False, level=level, dtype="bfloat16")
    precision.prepare(layer)
    images = paddle.to_tensor(x, stop_gradient=False)
    with precision.weights(layer):
        with precision.autocast():
            y = layer(input=images)
            loss = (y.astype("float32") * paddle.to_tensor(g)).sum()
        loss.backward()
    assert y.dtype == paddle.bfloat16
    x, w, b, g = (in_bfloat16(array).astype("float64") for array in (x, w, b, g))
    products = x[:, None, :] * w.T[None]
    biases = np.broadcast_to(b[:, None], (6, 4, 1))
    assert_rounded_sum(y.astype("float32").numpy(), np.concatenate([products, biases], -1))
    for tensor, terms in (
        (images, g[:, None, :] * w[None]),
        (layer.weight, x.T[:, None, :] * g.T[None]),
        (layer.bias, g.T),
    ):
        assert tensor.grad.dtype == paddle.float32
        grad = tensor.grad.numpy()
        np.testing.assert_array_equal(grad, in_bfloat16(grad))
        assert_rounded_sum(grad, terms)
    assert layer.weight.dtype == paddle.float32
    np.testing.assert_array_equal(layer.weight.numpy().shape, (9, 4))
    assert layer(images).dtype == paddle.float32  # nothing is left of it


@pytest.mark.parametrize("name", ["ConViT", "CvT"])
@pytest.mark.parametrize("level", LEVELS)
def test_networks_keep_eight_bits(tiny_config, name, level):
    """On the way through the network about 60 tensors are rounded: the patches, of each of a
    block's six layers inputs, weights and outputs, and the sums. Norms and residuals pass errors on
    as they are; errors of roundings, of which one is BFLOAT16 at most, add up like random numbers.
    Gradients go the way back too.
    """
    path = tiny_config(name, drop=0.0)
    images, labels = batch()
    found = []
    for options in ((), (amp(level),)):
        learner = learner_of(path, *options)
        with learner.precision.weights(learner.model):
            with learner.precision.autocast():
                logits = learner.model(images)
                loss = learner.objective(lambda _: logits, images, labels)  # noqa: B023
            loss.backward()
        parameters = [p for p in learner.model.parameters() if p.grad is not None]
        grads = [p.grad.numpy().ravel() for p in parameters]
        found.append((logits.astype("float32").numpy(), np.concatenate(grads), logits.dtype))
    (exact, exact_grads, _), (logits, grads, dtype) = found
    assert dtype == paddle.bfloat16
    np.testing.assert_array_equal(logits, in_bfloat16(logits))
    tolerance = 60**0.5 * BFLOAT16
    assert np.linalg.norm(logits - exact) <= tolerance * np.linalg.norm(exact)
    assert grads.shape == exact_grads.shape
    error = np.linalg.norm(grads - exact_grads)
    assert 0 < error <= 2 * tolerance * np.linalg.norm(exact_grads)


def test_small_steps_add_up(tiny_config):
    """A step of 1e-4 on weights of 1 is lost in bfloat16; in float32 ten of them add up."""
    path = tiny_config(drop=0.0, optimizer={"name": "Lion", "lr": 1e-4})
    learner = learner_of(path, amp("O2"), "lr_scheduler={name: Constant}")
    parameters = dict(learner.model.named_parameters())
    weight = parameters["backbone.blocks.1.mlp.fc1.weight"]
    weight.set_value(paddle.ones(weight.shape))
    for step in range(10):
        train_step(learner, *batch(), step)
    assert dict(learner.model.named_parameters()) == parameters  # the same objects
    assert {p.dtype for p in parameters.values()} == {paddle.float32}
    moved = np.abs(weight.numpy() - 1)
    np.testing.assert_array_equal(in_bfloat16(moved[moved < 2e-3] + 1), 1)
    assert moved.max() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["ConViT", "CvT"])
def test_recompute_and_parts_in_bfloat16(tiny_config, name, level):
    """What is recomputed is rounded as before; the recomputed block runs after the context."""
    path = tiny_config(name)
    learners = [
        learner_of(path, amp(level), "accumulate=2", f"recompute={value}")
        for value in ("false", "true")
    ]
    for step in range(2):
        for learner in learners:
            train_step(learner, *batch(), step)
    plain, recomputed = (dict(learner.model.named_parameters()) for learner in learners)
    for key, tensor in plain.items():
        np.testing.assert_array_equal(recomputed[key].numpy(), tensor.numpy(), key)


def test_norms_and_positions_stay_float32(tiny_config):
    for name in ("ConViT", "CvT"):
        model = learner_of(tiny_config(name, drop=0.0)).model
        with Precision(False, level="O2", dtype="bfloat16").weights(model):
            kept = {key for key, p in model.named_parameters() if p.dtype == paddle.float32}
        kinds = ("norm", ".bn.", "pos_proj")
        assert kept == {
            key for key, _ in model.named_parameters() if any(kind in key for kind in kinds)
        }


@pytest.mark.parametrize("level", LEVELS)
def test_custom_loss_gets_float32(tiny_config, level):
    learner, seen = learner_of(tiny_config("CvT"), amp(level)), []

    def loss(logits, targets):
        seen.append((logits.dtype, paddle.nn.functional.softmax(logits).dtype))
        return paddle.nn.functional.cross_entropy(logits, targets)

    learner.objective.loss = loss
    assert train_step(learner, *batch(), 0).is_finite
    assert seen == [(paddle.float32, paddle.float32)]


@pytest.mark.parametrize("level", LEVELS)
def test_teacher_uses_the_same_precision(tiny_config, tmp_path, level):
    from passl.engine.checkpoint import save_checkpoint
    from passl.engine.progress import Progress

    config = tiny_config("CvT")
    save_checkpoint(tmp_path / "t.safetensors", learner_of(config), Progress(), {}, [])
    section = f"distillation={{teacher: '{config}', weights: '{tmp_path / 't.safetensors'}'}}"
    learner = learner_of(tiny_config(), section, amp(level))
    teacher, seen = learner.objective.teacher, []
    teacher.register_forward_post_hook(lambda layer, inputs, output: seen.append(output.dtype))
    before = {name: p.numpy() for name, p in learner.model.named_parameters()}
    assert train_step(learner, *batch(), 0).is_finite
    assert seen == [paddle.bfloat16]
    key = "head.fc_cls.weight"
    assert (dict(learner.model.named_parameters())[key].numpy() != before[key]).any()


# --------------------------------------------------------------------------------------------------
# float16, whose kernels need a GPU; its loss scale does not
# --------------------------------------------------------------------------------------------------
def test_float16_on_a_cpu_changes_nothing(tiny_config, caplog):
    path = tiny_config()
    with caplog.at_level(logging.INFO, logger="passl"):
        mixed = learner_of(path, "amp={level: O2, dtype: float16}")
    assert "amp: O2 in float16 does nothing on a CPU; training in float32" in caplog.text
    losses = [train_step(learner, *batch(), 0).loss for learner in (mixed, learner_of(path))]
    assert losses[0] == losses[1]


@pytest.fixture
def scaler(monkeypatch) -> LossScaler:
    """As on a GPU: on a CPU Paddle switches it off."""
    place = SimpleNamespace(is_gpu_place=lambda: True)
    tracer = SimpleNamespace(_expected_place=place)
    monkeypatch.setattr(grad_scaler, "_dygraph_tracer", lambda: tracer)
    monkeypatch.setattr(amp_global_state(), "amp_dtype", "float16")
    return LossScaler(init_loss_scaling=64.0, incr_every_n_steps=2)


def test_loss_scale(tiny_config, scaler, caplog, capfd):
    """Powers of two scale without rounding: the step is that of float32. An overflow halves the
    scale and changes nothing else; two steps without one double it.
    """
    path = tiny_config(drop=0.0)
    learner, plain = learner_of(path), learner_of(path)
    learner.precision.scaler = scaler

    def weights(one):
        return {name: p.numpy() for name, p in one.model.named_parameters()}

    for one in (learner, plain):
        train_step(one, *batch(), 0)
    for name, array in weights(plain).items():
        np.testing.assert_array_equal(weights(learner)[name], array, name)
    before = weights(learner)
    usual, learner.objective.loss = learner.objective.loss, overflowing(learner.objective.loss)
    with caplog.at_level(logging.INFO, logger="passl"):
        assert train_step(learner, *batch(), 1).is_finite
    assert "a gradient has overflowed with loss scale 64" in caplog.text
    assert capfd.readouterr().out == ""
    for name, array in before.items():
        np.testing.assert_array_equal(weights(learner)[name], array, name)
    assert scaler.state_dict()["scale"].item() == 32.0
    learner.objective.loss = usual
    for step in (2, 3):
        train_step(learner, *batch(), step)
    assert scaler.state_dict()["scale"].item() == 64.0
    # Through a checkpoint's JSON.
    state = {key: np.asarray(value).tolist() for key, value in scaler.state_dict().items()}
    state = json.loads(json.dumps(state))
    other = LossScaler(init_loss_scaling=8.0, incr_every_n_steps=2)
    other.restore(state)
    assert other.state_dict() == scaler.state_dict()
    # The settings are those of the config.
    fixed = LossScaler(init_loss_scaling=8.0, use_dynamic_loss_scaling=False)
    slower = LossScaler(incr_every_n_steps=500)
    for one in (fixed, slower):
        one.restore(state)
        one.restore({})
    assert fixed.state_dict()["scale"].item() == 8.0
    assert not fixed.state_dict()["use_dynamic_loss_scaling"]
    assert slower.state_dict()["scale"].item() == 64.0
    assert slower.state_dict()["incr_every_n_steps"] == 500


def overflowing(loss):
    class Overflow(paddle.autograd.PyLayer):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("inf")

    return lambda *inputs: Overflow.apply(loss(*inputs))
