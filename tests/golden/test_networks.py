"""The networks compute what the authors' code computed: values, features, gradients, five steps of
training.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from passl.modeling import Model
from passl.modeling.losses import CrossEntropy
from passl.optim.optimizers import build_optimizer
from passl.optim.parameters import trainable
from passl.porting import load_weights
from tests.numerics import GRADIENTS, Rounded, check_network

HERE = Path(__file__).parent
CONVIT = ["convit_fb", "convit_fb_training_checkpoint", "convit_timm"]
CVT = ["cvt_ms", "cvt_ms_rectangular", "cvt_ms_avg_no_cls"]
# Gradients that are zero in exact arithmetic, because a softmax does not see what is added to all
# its scores: what is left is rounding, below this part of the network's largest gradient.
ROUNDING = 1e-6


class Case:
    """A golden case: the model with its weights, and what the source computed."""

    def __init__(self, name: str):
        facts = json.loads((HERE / name / "case.json").read_text())
        architecture = convit(facts) if name.startswith("convit") else cvt(facts)
        head = {
            "name": "ClsHead",
            "num_classes": facts["num_classes"],
            "in_channels": facts["width"],
        }
        self.model = Model(
            {"model": {"architecture": {**architecture, "drop_path_rate": 0.0}, "head": head}}
        )
        (weights,) = (
            path for path in (HERE / name).iterdir() if path.suffix in (".pth", ".safetensors")
        )
        load_weights(self.model, weights)
        self.model.eval()
        self.expected = dict(np.load(HERE / name / "case.npz"))
        self.images = paddle.to_tensor(self.expected["images"])
        self.targets = paddle.to_tensor(self.expected["targets"])

    def loss(self):
        return CrossEntropy()(self.model(self.images), self.targets)

    def gradients(self) -> dict[str, np.ndarray]:
        """The source's gradients under our names and in our layout."""
        linear = {
            f"{name}.weight"
            for name, layer in self.model.named_sublayers()
            if isinstance(layer, paddle.nn.Linear)
        }
        found = {}
        for name, _ in trainable(self.model):
            official = name.removeprefix("backbone.").replace("head.fc_cls.", "head.")
            gradient = self.expected.pop(f"grad/{official}")
            found[name] = gradient.T if name in linear else gradient
        assert not [name for name in self.expected if name.startswith("grad/")], (
            "a gradient of the source has no partner"
        )
        return found


def convit(facts: dict) -> dict:
    facts["width"] = facts["embed_dim"]
    keys = [
        "img_size",
        "patch_size",
        "embed_dim",
        "depth",
        "num_heads",
        "local_up_to_layer",
        "norm_eps",
    ]
    return {
        "name": "ConViT",
        **{key: facts[key] for key in keys},
        "qkv_bias": facts.get("qkv_bias", False),
    }


def cvt(facts: dict) -> dict:
    facts["width"] = facts["embed_dim"][-1]
    keys = ["embed_dim", "depth", "num_heads", "norm_eps", "stride_kv"]
    named = {"method": facts["qkv_proj_method"], "with_cls_token": facts["cls_token"]}
    return {"name": "CvT", **{key: facts[key] for key in keys}, **named}


@pytest.mark.parametrize("name", CONVIT + CVT)
def test_values(name):
    case = Case(name)
    check_network(case.model(case.images), case.expected["logits"])
    check_network(case.loss(), case.expected["loss"])
    if "feature/pooled" in case.expected:
        check_network(case.model.backbone(case.images), case.expected["feature/pooled"])


@pytest.mark.parametrize("name", CONVIT + CVT)
def test_gradients(name):
    case = Case(name)
    case.images.stop_gradient = False
    case.loss().backward()
    check_network(case.images.grad, case.expected["image_grad"], GRADIENTS)
    expected = case.gradients()
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for parameter_name, parameter in trainable(case.model):
        theirs, ours = expected[parameter_name], parameter.grad.numpy()
        if np.abs(theirs).max() < ROUNDING * largest:
            assert np.abs(ours).max() < ROUNDING * largest, parameter_name
        else:
            check_network(ours, theirs, GRADIENTS)


@pytest.mark.parametrize("name", CONVIT + CVT)
def test_five_steps_of_adamw(name):
    case = Case(name)
    optimizer = build_optimizer({"name": "AdamW", "lr": 1e-3, "weight_decay": 0.05}, case.model)
    optimizer.set_lr(1e-3)
    losses = []
    for _ in range(5):
        loss = case.loss()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
    check_network(losses, case.expected["losses_frozen_bn"])


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
