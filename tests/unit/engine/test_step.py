"""When the host reads what a training step has computed."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from passl.distributed.ranks import Ranks
from passl.engine import step as step_module
from passl.engine import train as train_module
from passl.engine.step import HostCopy, Outcome, train_step
from passl.step_times import StepTimes
from passl.utils.config import get_config
from tests.learners import batch, learner_of


@pytest.fixture
def events(monkeypatch):
    """What happens in a run, in order: ("queued", step) and ("read", step)."""
    found, kept, steps = [], [], {}
    init, values = HostCopy.__init__, HostCopy.values

    def initialised(self, tensor, times):
        init(self, tensor, times)
        steps[id(self)] = len(steps) + 1
        kept.append(self)  # so that no other one gets its id

    def read(self):
        if ("read", steps[id(self)]) not in found:
            found.append(("read", steps[id(self)]))
        return values(self)

    def queue(*arguments):
        outcome = train_step(*arguments)
        found.append(("queued", arguments[3] + 1))
        return outcome

    monkeypatch.setattr(HostCopy, "__init__", initialised)
    monkeypatch.setattr(HostCopy, "values", read)
    monkeypatch.setattr(train_module, "train_step", queue)
    return found


@pytest.mark.parametrize("nonfinite", ["stop", "skip"])
def test_a_loss_is_read_when_the_next_step_is_queued(tiny_config, tmp_path, events, nonfinite):
    """At once only before a checkpoint, at the end of an epoch, and to decide on the update."""
    small = ("dataset.fraction=0.1", "sampler.batch_size=32")  # four steps are an epoch
    overrides = [f"dataloader.train.{option}" for option in small]
    overrides += [f"output_dir={tmp_path / 'run'}", "epochs=2", "checkpoint={interval: 3}"]
    overrides += ["dataloader.val.dataset.fraction=0.1", f"on_nonfinite={nonfinite}"]
    train_module.train(get_config(tiny_config("CvT"), overrides))
    steps = range(1, 9)
    order = {event: place for place, event in enumerate(events)}
    at_once = {3, 6, 4, 8} if nonfinite == "stop" else set(steps)
    for step in steps:
        before = order["read", step] < order.get(("queued", step + 1), math.inf)
        assert before == (step in at_once)
        assert order["read", step] < order.get(("queued", step + 2), math.inf)
        assert (order["read", step] < order["queued", step]) == (nonfinite == "skip")


def test_statistics_are_copied_only_where_a_step_may_be_skipped(tiny_config):
    images, labels = batch()
    images[2] = float("inf")
    for nonfinite, changes in (("skip", False), ("stop", True)):
        learner = learner_of(tiny_config("CvT"), f"on_nonfinite={nonfinite}")
        before = [statistic.numpy() for statistic in learner.statistics]
        assert len(before) > 4
        assert not train_step(learner, images, labels, 0).is_finite
        same = [np.array_equal(s, b) for s, b in zip(learner.statistics, before, strict=True)]
        assert (not any(same)) if changes else all(same)
    assert learner_of(tiny_config("ConViT")).statistics == []


def test_an_outcome_has_loss_and_stop_flag_of_all_ranks():
    class Two(Ranks):
        """The first of two ranks; the other one has loss 3 and was asked to stop."""

        def all_reduce(self, tensor):
            return tensor + paddle.to_tensor([3.0, 1.0], "float64")

    outcome = Outcome(paddle.to_tensor(2.0), False, 0.1, Two(0, 2))
    assert (outcome.loss, outcome.own_loss, outcome.stop, outcome.lr) == (2.5, 2.0, True, 0.1)
    assert outcome.is_finite
    alone = Outcome(paddle.to_tensor(float("nan")), False, 0.1, Ranks())
    assert not alone.is_finite
    assert not alone.stop


def test_the_copy_of_a_gpu_is_waited_for_when_it_is_read(monkeypatch):
    """With stand-ins, since no GPU was at hand."""
    calls = []

    class Event:
        def record(self):
            calls.append("record")

        def synchronize(self):
            calls.append("synchronize")

    def pin_memory(blocking):
        calls.append(f"copy, blocking={blocking}")
        return paddle.to_tensor([1.0, 2.0])

    monkeypatch.setattr(step_module.paddle.device, "Event", Event)
    place = SimpleNamespace(is_gpu_place=lambda: True)
    times = StepTimes(is_queued=True)
    copy = HostCopy(SimpleNamespace(place=place, pin_memory=pin_memory), times)
    assert calls == ["copy, blocking=False", "record"]
    assert times.take()["device"] == 0
    assert copy.values() == [1.0, 2.0]
    assert calls[2:] == ["synchronize"]
    assert times.take()["device"] > 0  # the wait, by the host's clock
