"""The networks compute what the authors' code computed: values, features, gradients, five steps of
training.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from passl.modeling import Model
from passl.modeling.losses import CrossEntropy
from passl.optim.optimizers import build_optimizer, trainable
from passl.porting import load_weights

HERE = Path(__file__).parent
CONVIT = ["convit_fb", "convit_fb_training_checkpoint", "convit_timm"]
CVT = ["cvt_ms", "cvt_ms_rectangular", "cvt_ms_avg_no_cls"]
# What two correct implementations agree to, relative to the largest value (golden cases' own
# statement).
VALUES, GRADIENTS, LOSSES = 1e-5, 1e-4, 1e-5
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


def assert_close(ours, theirs: np.ndarray, tolerance: float, name: str = "") -> None:
    """Equal within `tolerance` of the largest value."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error <= tolerance, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("name", CONVIT + CVT)
def test_values(name):
    case = Case(name)
    assert_close(case.model(case.images), case.expected["logits"], VALUES)
    assert_close(case.loss(), case.expected["loss"], VALUES)
    if "feature/pooled" in case.expected:
        assert_close(case.model.backbone(case.images), case.expected["feature/pooled"], VALUES)


@pytest.mark.parametrize("name", CONVIT + CVT)
def test_gradients(name):
    case = Case(name)
    case.images.stop_gradient = False
    case.loss().backward()
    assert_close(case.images.grad, case.expected["image_grad"], GRADIENTS)
    expected = case.gradients()
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for parameter_name, parameter in trainable(case.model):
        theirs, ours = expected[parameter_name], parameter.grad.numpy()
        if np.abs(theirs).max() < ROUNDING * largest:
            assert np.abs(ours).max() < ROUNDING * largest, parameter_name
        else:
            assert_close(ours, theirs, GRADIENTS, parameter_name)


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
    assert_close(losses, case.expected["losses_frozen_bn"], LOSSES)


@pytest.mark.parametrize("name", ["convit_fb", "convit_fb_training_checkpoint"])
def test_attention_of_the_first_block(name):
    case = Case(name)
    (attention,) = case.model.backbone.attention_maps(case.images, [0])
    assert_close(attention, case.expected["feature/attention_block0"], VALUES)


@pytest.mark.parametrize("name", CVT)
def test_feature_maps_of_the_stages(name):
    case = Case(name)
    maps = case.model.backbone.forward_features(case.images)
    assert len(maps) == 3
    for index, found in enumerate(maps):
        assert_close(found, case.expected[f"feature/stage{index}"], VALUES, f"stage {index}")


def test_soft_targets_are_a_distribution():
    """The losses above mean what they say: the stored targets are soft, and the loss is -sum(t log
    p).
    """
    case = Case("cvt_ms")
    np.testing.assert_allclose(case.expected["targets"].sum(-1), 1, atol=1e-6)
    by_hand = (
        -(
            case.expected["targets"]
            * F.log_softmax(paddle.to_tensor(case.expected["logits"]), -1).numpy()
        )
        .sum(-1)
        .mean()
    )
    np.testing.assert_allclose(by_hand, case.expected["loss"], rtol=1e-6)
