"""The networks compute what the authors' code computed: values, features, gradients, five steps of
training.
"""

from __future__ import annotations

import numpy as np
import pytest

from passl.check.golden import ROUNDING, WITH_GRADIENTS, Case
from passl.optim.parameters import trainable
from tests.numerics import GRADIENTS, Rounded, check_network

CVT = ["cvt_ms", "cvt_ms_rectangular", "cvt_ms_avg_no_cls"]


def loss_of(case: Case):
    return case.loss(case.model(case.images))


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_values(name):
    case = Case(name)
    check_network(case.model(case.images), case.expected["logits"])
    check_network(loss_of(case), case.expected["loss"])
    if "feature/pooled" in case.expected:
        check_network(case.model.backbone(case.images), case.expected["feature/pooled"])


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_gradients(name):
    case = Case(name)
    loss_of(case).backward()
    check_network(case.images.grad, case.expected["image_grad"], GRADIENTS)
    expected = case.expected_gradients()
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for parameter_name, parameter in trainable(case.model):
        theirs, ours = expected[parameter_name], parameter.grad.numpy()
        if np.abs(theirs).max() < ROUNDING * largest:
            assert np.abs(ours).max() < ROUNDING * largest, parameter_name
        else:
            check_network(ours, theirs, GRADIENTS)


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_five_steps_of_adamw(name):
    case = Case(name)
    check_network(case.steps_of_adamw(), case.expected["losses_frozen_bn"])


@pytest.mark.parametrize("name", ["convit_fb", "convit_fb_training_checkpoint"])
def test_attention_of_the_first_block(name):
    case = Case(name)
    (attention,) = case.model.backbone.attention_maps(case.images, [0])
    check_network(attention, case.expected["feature/attention_block0"])


@pytest.mark.parametrize("name", CVT)
def test_feature_maps_of_the_stages(name):
    case = Case(name)
    maps = case.model.backbone.forward_features(case.images)
    assert len(maps) == 3
    for index, found in enumerate(maps):
        check_network(found, case.expected[f"feature/stage{index}"])


def test_soft_targets_are_a_distribution():
    """The losses above mean what they say: the stored targets are soft, and the loss is -sum(t log
    p).
    """
    case = Case("cvt_ms")
    targets = Rounded(case.expected["targets"], case.expected["targets"])
    one = Rounded(np.ones((len(targets.value), 1)), targets.sum().error)
    one.check(case.expected["targets"].sum(-1, keepdims=True))
    by_hand = -(targets * Rounded(case.expected["logits"]).log_softmax()).sum().mean(None)
    by_hand[0, 0].check(case.expected["loss"])
