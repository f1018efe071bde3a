"""Averages, accumulated gradients, frozen parameters and distillation in training steps."""

from __future__ import annotations

import logging

import numpy as np
import paddle
import pytest

from passl.data.datasets.digits import Digits
from passl.distributed.ranks import Ranks
from passl.engine.average import WeightAverage
from passl.engine.freezing import Freezing
from passl.engine.learner import Learner, build_learner
from passl.engine.step import train_step
from passl.errors import ConfigError
from passl.modeling import Model
from passl.utils.config import get_config
from tests.learners import batch, learner_of
from tests.numerics import GRADIENTS, Rounded, check_network


def weights(learner: Learner) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in learner.model.state_dict().items()}


class Second(Ranks):
    """The second of two ranks, where the first one's counts are 7, 7, ... 7."""

    def sum(self, values):
        return [value + 7 for value in values]

    def wrap(self, model):
        return model


def test_balanced_weights_are_of_the_first_rank(tiny_config):
    cfg = get_config(tiny_config(), ["loss.class_weights=balanced"])
    digits = Digits(split="train")
    for ranks, counts in ((Ranks(), np.bincount(digits.labels)), (Second(1, 2), np.full(10, 7))):
        learner = build_learner(cfg, Model(cfg), ranks, 12, 5, digits)
        expected = counts.min() / counts  # in proportion to 1 / count, the largest 1
        np.testing.assert_allclose(learner.objective.loss.class_weights, expected, rtol=1e-6)


def test_class_without_samples_is_refused(tiny_config):
    cfg = get_config(tiny_config(), ["loss.class_weights=balanced"])
    digits = Digits(split="train")
    digits.labels = digits.labels[digits.labels != 7]
    with pytest.raises(ConfigError, match="no sample of 7"):
        build_learner(cfg, Model(cfg), Ranks(), 12, 5, digits)


# --------------------------------------------------------------------------------------------------
# Accumulation
# --------------------------------------------------------------------------------------------------
WEIGHTS = "loss.class_weights=[1, 9, 1, 0, 2, 3, 0.1, 1, 5, 4]"
BINARY = "loss.name=BinaryCrossEntropy"


@pytest.mark.parametrize(
    ("parts", "loss"),
    [(2, []), (5, []), (12, []), (40, []), (5, [WEIGHTS]), (5, [BINARY, WEIGHTS])],
)
def test_accumulated_gradients_are_those_of_the_whole_batch(tiny_config, parts, loss):
    """Also where the parts are not equal (12 in 5), or more than the samples. Nothing random is on,
    and ConViT has no statistics of a batch. SGD, since AdamW makes a step of any size of what is
    rounding in a gradient that should be zero.
    """
    path = tiny_config("ConViT", drop=0.0, optimizer={"name": "SGD", "lr": 0.5})
    whole, apart = learner_of(path, *loss), learner_of(path, *loss, f"accumulate={parts}")
    before = weights(whole)
    images, labels = batch(12)
    for step in range(3):
        losses = [train_step(learner, images, labels, step).loss for learner in (whole, apart)]
        check_network(losses[1], losses[0])
    moves = {name: np.abs(value - before[name]).max() for name, value in weights(whole).items()}
    assert moves["head.fc_cls.weight"] > 1e-3
    for name, expected in weights(whole).items():  # a step is in proportion to the gradient
        check_network(weights(apart)[name], expected, GRADIENTS, max(moves.values()))


def test_soft_targets_are_split_too(tiny_config):
    path = tiny_config("ConViT", drop=0.0)
    images, labels = batch(12)
    targets = paddle.nn.functional.one_hot(labels, 10) * 0.7 + 0.03
    losses = [
        train_step(learner_of(path, f"accumulate={parts}"), images, targets, 0).loss
        for parts in (1, 3)
    ]
    check_network(*losses)


# --------------------------------------------------------------------------------------------------
# Averages
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("warmup", [False, True])
def test_average_follows_the_formula(tiny_config, warmup):
    learner = learner_of(tiny_config("CvT"), f"ema={{decay: 0.9, warmup: {warmup}}}".lower())
    expected = {name: Rounded(value) for name, value in weights(learner).items()}
    images, labels = batch(12)
    for step in range(4):
        train_step(learner, images, labels, step)
        decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        for name, value in weights(learner).items():
            decayed, added = decay * Rounded(1), (1 - decay) * Rounded(1)  # as float32 has them
            expected[name] = decayed * expected[name] + added * value
    trained = weights(learner)
    assert any(name.endswith("bn._mean") for name in expected)
    with learner.average.applied():
        for name, value in weights(learner).items():
            expected[name].check(value)
    for name, value in weights(learner).items():
        np.testing.assert_array_equal(value, trained[name], name)


def test_weights_are_restored_after_an_error(tiny_config):
    learner = learner_of(tiny_config(), "ema={decay: 0.5}")
    train_step(learner, *batch(12), 0)
    trained = weights(learner)
    with pytest.raises(RuntimeError), learner.average.applied():
        raise RuntimeError
    np.testing.assert_array_equal(
        weights(learner)["head.fc_cls.weight"], trained["head.fc_cls.weight"]
    )


def test_without_decay_there_is_no_average(tiny_config):
    learner = learner_of(tiny_config())
    before = weights(learner)
    train_step(learner, *batch(12), 0)
    trained = weights(learner)
    with learner.average.applied():
        for name, value in weights(learner).items():
            np.testing.assert_array_equal(value, trained[name], name)
    assert not np.array_equal(trained["head.fc_cls.weight"], before["head.fc_cls.weight"])


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_average_refuses(decay):
    with pytest.raises(ValueError, match=r"decay: must be a number of at least 0 and below 1"):
        WeightAverage(paddle.nn.Linear(1, 1), decay=decay)


# --------------------------------------------------------------------------------------------------
# Freezing
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ConViT", "CvT"])
def test_linear_probe_then_thaw(tiny_config, name):
    learner = learner_of(tiny_config(name), "freeze={names: [backbone.*], epochs: 1}")
    before = weights(learner)
    for step in range(2):
        train_step(learner, *batch(12), step)
    after = weights(learner)
    for key in before:  # running statistics of CvT included
        same = np.array_equal(after[key], before[key])
        assert same == key.startswith("backbone."), key
    learner.begin_epoch(1)
    train_step(learner, *batch(12), 2)
    thawed = weights(learner)
    unchanged = {key for key in thawed if np.array_equal(thawed[key], after[key])}
    # Some gradients are 0 by the formulas: the softmax cancels a position bias, and the class
    # token's query is not convolved, so in CvT's last block nothing moves its norm.
    query = "backbone.stage2.blocks.0.attn.conv_proj_q.bn"
    idle = {
        "ConViT": {"backbone.blocks.0.attn.pos_proj.bias"},
        "CvT": {f"{query}.weight", f"{query}.bias"},
    }
    assert unchanged == idle[name]


def test_freezing_for_the_whole_run_and_refusals(tiny_config):
    learner = learner_of(tiny_config(), "freeze={names: ['backbone.blocks.0.*']}")
    learner.begin_epoch(100)
    before = weights(learner)
    train_step(learner, *batch(12), 1)
    after = weights(learner)
    frozen = {key for key in before if np.array_equal(before[key], after[key])}
    assert frozen == {key for key in before if key.startswith("backbone.blocks.0.")}
    model = Model(get_config(tiny_config()))
    with pytest.raises(ConfigError, match="matches no parameter; the closest name is 'head"):
        Freezing(model, names=["head.fc.*"])
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        Freezing(model, names=["*"])
    with pytest.raises(ValueError, match="epochs: must be a whole number"):
        Freezing(model, names=["head.*"], epochs=0)


# --------------------------------------------------------------------------------------------------
# Statistics, recomputation, distillation
# --------------------------------------------------------------------------------------------------
def test_sync_bn_with_one_process_changes_nothing(tiny_config, caplog):
    path = tiny_config("CvT")
    with caplog.at_level(logging.INFO, logger="passl"):
        with_sync = learner_of(path, "sync_bn=true")
    assert "sync_bn: does nothing with one process" in caplog.text
    outcomes = [train_step(one, *batch(12), 0).loss for one in (with_sync, learner_of(path))]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("name", ["ConViT", "CvT"])
def test_recompute_changes_no_step(tiny_config, name):
    path = tiny_config(name)
    learners = [learner_of(path, f"recompute={value}") for value in ("false", "true")]
    assert learners[1].model.backbone.recompute
    for step in range(2):
        for learner in learners:
            train_step(learner, *batch(12), step)
    for key, value in weights(learners[0]).items():
        np.testing.assert_array_equal(weights(learners[1])[key], value, key)


def test_distillation_from_a_config(tiny_config, tmp_path):
    from passl.engine.checkpoint import save_checkpoint
    from passl.engine.progress import Progress

    teacher_config = tiny_config("CvT")
    teacher = learner_of(teacher_config)
    save_checkpoint(tmp_path / "teacher.safetensors", teacher, Progress(), {}, [])
    section = f"{{teacher: '{teacher_config}', weights: '{tmp_path / 'teacher.safetensors'}'"
    student = learner_of(tiny_config(drop=0.0), f"distillation={section}, alpha: 1.0}}")
    images, labels = batch(12)
    teacher.model.eval()
    guesses = teacher.model(images).argmax(-1).numpy()
    logs = Rounded(student.model(images).numpy()).log_softmax()
    expected = -logs[np.arange(len(guesses)), guesses].mean()
    expected[0].check(train_step(student, images, labels, 0).loss, np.float32)
    named = {name for name, _ in student.model.named_parameters()}
    assert not any("teacher" in name for name in named)


def test_teacher_of_another_number_of_classes(tiny_config, tmp_path):
    from passl.engine.checkpoint import save_checkpoint
    from passl.engine.progress import Progress

    teacher_config = tiny_config("CvT")
    save_checkpoint(tmp_path / "t.safetensors", learner_of(teacher_config), Progress(), {}, [])
    section = f"{{teacher: '{teacher_config}', weights: '{tmp_path / 't.safetensors'}'}}"
    with pytest.raises(
        ConfigError, match="distillation.teacher: 10 classes, but the student has 7"
    ):
        learner_of(tiny_config(), f"distillation={section}", "model.head.num_classes=7")


def test_teacher_with_classes_in_another_order(tiny_config, tmp_path):
    from passl.engine.checkpoint import save_checkpoint
    from passl.engine.progress import Progress

    config, names = tiny_config("CvT"), [f"class {n}" for n in range(10)]
    path = tmp_path / "t.safetensors"
    teacher = learner_of(config)
    save_checkpoint(path, teacher, Progress(), {}, names)
    cfg = get_config(config, [f"distillation={{teacher: '{config}', weights: '{path}'}}"])

    def student(classes: list[str]) -> Learner:
        return build_learner(cfg, Model(cfg, classes=classes), Ranks(), 4, 5)

    images, _ = batch(12)
    teacher.model.eval()
    own = student(names[::-1]).objective.teacher(images).numpy()
    np.testing.assert_array_equal(own, teacher.model(images).numpy()[:, ::-1])
    with pytest.raises(ConfigError, match="distillation: .*only the data has class 10"):
        student([*names[:9], "class 10"])
