"""Optimizers, clipping, layer-wise rates and schedules against PyTorch's and timm's, where these
are installed (`make test-parity`).
"""

from __future__ import annotations

import sys

import numpy as np
import paddle
import pytest

from passl.modeling.classifier import create_model
from passl.optim import OPTIMIZERS
from passl.optim.clips import AdaptiveClip
from passl.optim.parameters import decayed_names, layer_rates, trainable
from passl.optim.schedules import build_schedule

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
SHAPE, STEPS = (6, 5), 12
ALONE = {"alpha": 0.95, "centered": True}


@pytest.fixture(scope="module")
def timm():
    """timm imports torchvision; a build for another torch asks for two operators then."""
    library = None
    if "torchvision" not in sys.modules:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    timm = pytest.importorskip("timm")
    pytest.importorskip("timm.optim")
    pytest.importorskip("timm.scheduler")
    yield timm
    del library


def rmsprop_tf(timm, parameters, **options):
    """timm's with the mean square from 0, as the paper and Paddle have it, not from 1."""
    optimizer = timm.optim.RMSpropTF(parameters, **options)
    for group in parameters:
        for parameter in group["params"]:
            names = ("square_avg", "momentum_buffer", "grad_avg")
            state = {name: torch.zeros_like(parameter) for name in names}
            optimizer.state[parameter].update(state, step=torch.tensor(0.0))
    return optimizer


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("node", "theirs"),
    [
        ({"name": "SGD"}, lambda timm, p: torch.optim.SGD(p)),
        ({"name": "Momentum"}, lambda timm, p: torch.optim.SGD(p, momentum=0.9)),
        (
            {"name": "Momentum", "momentum": 0.8, "nesterov": True},
            lambda timm, p: torch.optim.SGD(p, momentum=0.8, nesterov=True),
        ),
        ({"name": "Adam"}, lambda timm, p: torch.optim.Adam(p)),
        (
            {"name": "Adam", "betas": [0.8, 0.9], "eps": 1e-3},
            lambda timm, p: torch.optim.Adam(p, betas=(0.8, 0.9), eps=1e-3),
        ),
        ({"name": "AdamW"}, lambda timm, p: torch.optim.AdamW(p)),
        (
            {"name": "AdamW", "betas": [0.8, 0.9], "eps": 1e-3},
            lambda timm, p: torch.optim.AdamW(p, betas=(0.8, 0.9), eps=1e-3),
        ),
        ({"name": "Lamb"}, lambda timm, p: timm.optim.Lamb(p, max_grad_norm=None)),
        (
            {"name": "Lamb", "always_adapt": True, "eps": 1e-3},
            lambda timm, p: timm.optim.Lamb(p, max_grad_norm=None, always_adapt=True, eps=1e-3),
        ),
        ({"name": "Lion"}, lambda timm, p: timm.optim.Lion(p, betas=(0.9, 0.99))),
        (
            {"name": "Lion", "betas": [0.95, 0.98]},
            lambda timm, p: timm.optim.Lion(p, betas=(0.95, 0.98)),
        ),
        ({"name": "RMSProp"}, lambda timm, p: rmsprop_tf(timm, p, eps=1e-8)),
        (
            {"name": "RMSProp", "momentum": 0.7, "eps": 0.01, **ALONE},
            lambda timm, p: rmsprop_tf(timm, p, momentum=0.7, eps=0.01, **ALONE),
        ),
        # Where eps does not count and nothing is carried on, PyTorch's is the same.
        (
            {"name": "RMSProp", "alpha": 0.95, "eps": 1e-12},
            lambda timm, p: torch.optim.RMSprop(p, alpha=0.95, eps=1e-12),
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_optimizer(timm, node, theirs, weight_decay):
    """Two parameters, one of which does not decay."""
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(SHAPE).astype("float32") for _ in range(2)]
    ours = [paddle.create_parameter(list(SHAPE), "float32") for _ in start]
    others = [torch.nn.Parameter(torch.tensor(array)) for array in start]
    for parameter, array in zip(ours, start, strict=True):
        parameter.set_value(array)
    optimizer = OPTIMIZERS.build(
        {**node, "weight_decay": weight_decay}, ours, lambda name: name == ours[0].name, None
    )
    groups = [
        {"params": [others[0]], "weight_decay": weight_decay},
        {"params": [others[1]], "weight_decay": 0.0},
    ]
    step_both(rng, optimizer, theirs(timm, groups), ours, others)
    for parameter, twin, array in zip(ours, others, start, strict=True):
        assert np.abs(twin.detach().numpy() - array).max() > 0.01
        np.testing.assert_allclose(parameter.numpy(), twin.detach().numpy(), rtol=1e-5, atol=1e-6)


def step_both(rng, optimizer, other, ours, others):
    """Twelve steps of two optimizers, with the same gradients and a rate that changes."""
    for step in range(STEPS):
        lr = 0.02 / (step + 1)
        optimizer.set_lr(lr)
        for group in other.param_groups:
            group["lr"] = lr
        for parameter, twin in zip(ours, others, strict=True):
            gradient = rng.standard_normal(parameter.shape).astype("float32")
            parameter.clear_gradient(False)
            (parameter * paddle.to_tensor(gradient)).sum().backward()
            twin.grad = torch.tensor(gradient)
        optimizer.step()
        other.step()


@pytest.mark.parametrize("shape", [(24, 16), (16, 40)])
def test_muon(monkeypatch, shape):
    """PyTorch's orthogonalizes in bfloat16; in float32, as ours does, both agree."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    rng = np.random.default_rng(0)
    start = rng.standard_normal(shape).astype("float32")
    ours = paddle.create_parameter(list(shape), "float32")
    ours.set_value(start)
    theirs = torch.nn.Parameter(torch.tensor(start))
    optimizer = OPTIMIZERS.build(
        {"name": "Muon", "weight_decay": 0.1}, [ours], lambda name: True, None
    )
    other = torch.optim.Muon([theirs], weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    step_both(rng, optimizer, other, [ours], [theirs])
    assert np.abs(theirs.detach().numpy() - start).max() > 0.01
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_adaptive_clipping(timm, scale):
    """Linear weights lie the other way round, [in, out]."""
    from timm.utils.agc import adaptive_clip_grad

    rng = np.random.default_rng(0)
    pairs = []
    for shape in [(5,), (7, 4), (3, 2, 3, 3), (1, 6, 4)]:
        weight, gradient = (rng.standard_normal(shape).astype("float32") for _ in range(2))
        weight[..., 0] *= 1e-4  # below eps
        pairs.append((weight, gradient * np.float32(scale)))
    parameters = [torch.nn.Parameter(torch.tensor(_turned(weight))) for weight, _ in pairs]
    for parameter, (_, gradient) in zip(parameters, pairs, strict=True):
        parameter.grad = torch.tensor(_turned(gradient))
    adaptive_clip_grad(parameters, clip_factor=0.01, eps=1e-3)
    clip = AdaptiveClip(0.01, 1e-3, set())
    clipped = clip([(paddle.to_tensor(w), paddle.to_tensor(g)) for w, g in pairs])
    for (_, ours), parameter, (_, gradient) in zip(clipped, parameters, pairs, strict=True):
        expected = _turned(parameter.grad.numpy())
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-9)
        assert scale < 1 or not np.allclose(expected, gradient)


def _turned(array):
    return np.ascontiguousarray(array.T) if array.ndim == 2 else array


def test_layers_and_decay_of_convit(timm):
    """timm's groups. It counts the final norm with the last block; ours, like BEiT's, with the
    head.
    """
    theirs = timm.create_model("convit_tiny")
    groups = timm.optim.param_groups_layer_decay(
        theirs,
        weight_decay=0.05,
        layer_decay=0.75,
        no_weight_decay_list=theirs.no_weight_decay(),
    )
    names = {id(parameter): name for name, parameter in theirs.named_parameters()}
    scales, decays = {}, set()
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            own = name.replace("head.", "head.fc_cls.") if "head" in name else f"backbone.{name}"
            scales[own] = group["lr_scale"]
            decays |= {own} if group["weight_decay"] else set()
    ours = create_model("convit_tiny")
    assert decayed_names(ours) == decays
    rates = layer_rates(ours, 0.75)
    assert set(rates) == set(scales) == {name for name, _ in trainable(ours)}
    for name, rate in rates.items():
        expected = 1.0 if name.startswith("backbone.norm.") else scales[name]
        assert rate == pytest.approx(expected), name


def _theirs(make, lr, epochs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    return [scheduler._get_lr(epoch)[0] for epoch in range(epochs)]


WARM = {"warmup_epochs": 5, "warmup_lr": 1e-6}
WARM_T = {"warmup_t": 5, "warmup_lr_init": 1e-6}


@pytest.mark.parametrize(
    ("section", "name", "options"),
    [
        # Both papers' recipes at their batches.
        (
            {"name": "Cosine", "min_lr": 1e-5, **WARM},
            "CosineLRScheduler",
            {"t_initial": 300, "lr_min": 1e-5, **WARM_T},
        ),
        # MindCV's convit_tiny_gpu.
        (
            {
                "name": "Cosine",
                "min_lr": 1e-5,
                "decay_epochs": 200,
                "warmup_prefix": True,
                "warmup_epochs": 10,
                "warmup_lr": 0.0,
            },
            "CosineLRScheduler",
            {
                "t_initial": 200,
                "lr_min": 1e-5,
                "warmup_t": 10,
                "warmup_lr_init": 0.0,
                "warmup_prefix": True,
            },
        ),
        (
            {"name": "Cosine", "min_lr": 1e-6, "cooldown_epochs": 10, **WARM},
            "CosineLRScheduler",
            {"t_initial": 290, "lr_min": 1e-6, **WARM_T},
        ),
        (
            {"name": "Step", "decay_epochs": 30, "gamma": 0.2, **WARM},
            "StepLRScheduler",
            {"decay_t": 30, "decay_rate": 0.2, "warmup_prefix": False, **WARM_T},
        ),
        # timm's milestones come into force an epoch early.
        (
            {"name": "MultiStep", "milestones": [30, 60, 200], "gamma": 0.2, **WARM},
            "MultiStepLRScheduler",
            {"decay_t": [31, 61, 201], "decay_rate": 0.2, "warmup_prefix": False, **WARM_T},
        ),
        (
            {"name": "Polynomial", "power": 0.9, "min_lr": 1e-5, **WARM},
            "PolyLRScheduler",
            {"t_initial": 300, "power": 0.9, "lr_min": 1e-5, **WARM_T},
        ),
        (
            {"name": "Linear", "min_lr": 1e-5, **WARM},
            "PolyLRScheduler",
            {"t_initial": 300, "power": 1.0, "lr_min": 1e-5, **WARM_T},
        ),
    ],
    ids=lambda value: value["name"] if "name" in value and isinstance(value, dict) else "",
)
@pytest.mark.parametrize("lr", [1e-3, 2e-3])
def test_schedule(timm, section, name, options, lr):
    """At the first step of every epoch; with per_epoch at every step."""
    make = getattr(timm.scheduler, name)
    expected = _theirs(lambda optimizer: make(optimizer, **options), lr, 300)
    schedule = build_schedule(section, lr, 7, 300)
    assert [schedule(7 * epoch) for epoch in range(300)] == pytest.approx(expected, rel=1e-9)
    if section["name"] == "Cosine":
        constant = build_schedule({**section, "per_epoch": True}, lr, 7, 300)
        every = [constant(step) for step in range(2100)]
        assert every == pytest.approx(np.repeat(expected, 7).tolist(), rel=1e-9)


def test_milestones_are_pytorch_s():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60, 80])
    schedule = build_schedule({"name": "MultiStep", "milestones": [30, 60, 80]}, 0.1, 3, 90)
    for epoch in range(90):
        assert schedule(3 * epoch) == pytest.approx(scheduler.get_last_lr()[0]), epoch
        optimizer.step()
        scheduler.step()
