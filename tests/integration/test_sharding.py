"""Sharding is the same run: every process has the weights that it would have without."""

from __future__ import annotations

import pytest

BFLOAT16 = "amp={level: O2, dtype: bfloat16}"
FREEZE = "freeze={names: [backbone.*], epochs: 1}"
LEARNERS = r"""
import numpy as np
import paddle

from passl.engine.optimizer_state import gather_optimizer_state
from passl.engine.learner import build_learner
from passl.engine.step import train_step
from passl.modeling import Model
from passl.utils.config import get_config


def learner_of(*overrides):
    cfg = get_config(CONFIG, overrides)
    paddle.seed(7)
    learner = build_learner(cfg, Model(cfg), ranks, global_batch=8, steps_per_epoch=3)
    learner.begin_epoch(0)
    return learner


def step(learner, number):
    rng = np.random.default_rng((number, ranks.rank))
    images = paddle.to_tensor(rng.standard_normal((4, 3, 32, 32)).astype("float32"))
    return train_step(learner, images, paddle.to_tensor(rng.integers(10, size=4)), number).loss


def weights(learner):
    return {name: p.numpy() for name, p in learner.model.named_parameters()}


def assert_same(ours, theirs, what):
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=f"{what}: {name}")
"""

OPTIMIZERS = (
    LEARNERS
    + r"""
for options in OPTIONS:
    plain, sharded = learner_of(*options), learner_of(*options, "sharding.stage=1")
    before = weights(plain)
    for number in range(4):
        assert step(plain, number) == step(sharded, number), options
        if number == 2:  # what was frozen thaws
            plain.begin_epoch(1)
            sharded.begin_epoch(1)
    assert_same(weights(sharded), weights(plain), options)
    assert not np.array_equal(weights(plain)["head.fc_cls.weight"], before["head.fc_cls.weight"])
    sharded.ranks.check_same(sharded.model, 3)
    # Each rank keeps a part of the state, together they have all of it, once.
    expected = gather_optimizer_state(plain)
    own, whole = len(sharded.optimizer.state_dict()), len(plain.optimizer.state_dict())
    assert ranks.sum([own]) == [whole], options
    assert own < 0.8 * whole or not whole, options
    found = gather_optimizer_state(sharded)
    expected = expected if ranks.is_first else {}
    assert found.keys() == expected.keys(), options
    assert_same(found, expected, options)
"""
)


@pytest.fixture
def config(tiny_config):
    return tiny_config("ConViT", drop=0.0)


def test_every_optimizer_and_clipping(run_ranks, config):
    """Bit for bit: gradients are averaged before, so nothing is added up in another order."""
    options = [
        ("optimizer.weight_decay=0.1", "accumulate=2", "optimizer.layer_decay=0.7", BFLOAT16),
        *(
            (f"optimizer={{name: {name}, lr: {lr}, weight_decay: 0.1{more}}}", *others)
            for name, lr, more, *others in [
                ("Momentum", 0.1, ", nesterov: true"),
                ("SGD", 0.1, ", grad_clip: {name: global_norm, value: 0.1}"),
                ("Adam", 0.01, ", grad_clip: {name: adaptive, clip_factor: 0.01}"),
                ("RMSProp", 0.01, ", momentum: 0.5"),
                ("Lamb", 0.01, "", "amp={level: O1, dtype: bfloat16}", "recompute=true"),
                ("Lion", 0.01, ", grad_clip: {name: value, value: 0.1}", FREEZE),
                ("Muon", 0.01, ""),
            ]
        ),
    ]
    run_ranks(f"CONFIG = {str(config)!r}\nOPTIONS = {options!r}\n{OPTIMIZERS}")


OVERFLOW = (
    LEARNERS
    + r"""
from types import SimpleNamespace

from paddle.amp import grad_scaler
from paddle.amp.auto_cast import amp_global_state

from passl.engine.precision import LossScaler


class Overflow(paddle.autograd.PyLayer):
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float("inf")


# Paddle switches its scaler off on a CPU.
place = SimpleNamespace(is_gpu_place=lambda: True)
grad_scaler._dygraph_tracer = lambda: SimpleNamespace(_expected_place=place)
amp_global_state().amp_dtype = "float16"
learner = learner_of("sharding.stage=1", "optimizer={name: SGD, lr: 0.1}")
learner.precision.scaler = scaler = LossScaler(init_loss_scaling=256.0)
step(learner, 0)
after_one = weights(learner)
usual = learner.objective.loss
if ranks.rank == 1:
    learner.objective.loss = lambda *inputs: Overflow.apply(usual(*inputs))
step(learner, 1)
assert_same(weights(learner), after_one, "after an overflow")
assert scaler.state_dict()["scale"].item() == 128.0
learner.objective.loss = usual
step(learner, 2)
learner.ranks.check_same(learner.model, 3)
changed = weights(learner)
assert not np.array_equal(changed["head.fc_cls.weight"], after_one["head.fc_cls.weight"])
assert all(np.isfinite(array).all() for array in changed.values())
"""
)


def test_an_overflow_of_one_process_is_one_of_all(run_ranks, config):
    """As float16 has them: no process makes the update, and all halve the loss scale."""
    run_ranks(f"CONFIG = {str(config)!r}\n{OVERFLOW}")
