"""Probes of numbers: the golden cases in each number format, and an exported network.

The rule of the limits. In float32 they are those of the golden cases: 1e-5 of the largest logit
(1e-4 for MindSpore's case), 1e-4 of the largest gradient of a parameter. In a format with unit
roundoff u, 2^-11 for TF32 and float16 and 2^-8 for bfloat16, about `ROUNDINGS` tensors are rounded
in a block: of each of its six layers inputs, weights and outputs, and the sums. Each is off by at
most u, and products are accumulated in float32. Errors of R roundings add up like random numbers,
to u sqrt(R) of the logits in the Euclidean norm. A network may magnify errors: attention does.
So the limit is twice that; gradients go the way back too, and have 2 R roundings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import paddle

from passl.accelerate import accelerate
from passl.check.findings import Findings, NotRun, Row, Setup
from passl.check.golden import (
    CASES,
    GRADIENTS,
    ROUNDING,
    VALUES,
    WITH_GRADIENTS,
    Case,
    model_section,
    weights_of,
)
from passl.deploy import Predictor
from passl.deploy.export import export
from passl.deploy.from_weights import load
from passl.engine.precision import Precision
from passl.modeling.tf32 import tf32
from passl.optim.parameters import trainable

ROUNDINGS = 25
"""Of a block, of tensors on the way from its input to its output; see above."""
Level = Literal["O0", "O1", "O2"]
_SCALE = 1024.0
"""Of the loss in float16: the golden gradients then lie in its range."""


@dataclass(frozen=True)
class Format:
    """A number format of layers.

    Args:
        name: for the report.
        roundoff: its unit roundoff u.
        dtype: of autocast; empty for float32 and TF32.
        capability: of the first GPUs that have it.
    """

    name: str
    roundoff: float
    dtype: Literal["float16", "bfloat16", ""] = ""
    capability: tuple[int, int] = (0, 0)


FP32 = Format("float32", 2.0**-24)
TF32 = Format("TF32", 2.0**-11, capability=(8, 0))
FP16 = Format("float16", 2.0**-11, "float16", (7, 0))
BF16 = Format("bfloat16", 2.0**-8, "bfloat16", (8, 0))


def golden_fp32(setup: Setup) -> Findings:
    """Logits, loss, gradients of images and of every parameter, and five steps of AdamW, against
    what the source's own code computed.
    """
    with tf32(False):
        rows = [
            Row(f"part of 2^-12 that a {kind} loses of 1 + 2^-12", lost, 0.5, note="1 in TF32")
            for kind, lost in zip(("product", "convolution"), _products(), strict=True)
        ]
        for name in CASES[::4] if setup.quick else CASES:
            rows += _exact(name)
    return Findings(rows)


def golden_tf32(setup: Setup) -> Findings:
    """The same with TF32 products and convolutions, which a GPU may take for float32 ones."""
    _need(setup, TF32)
    with tf32(True):
        rows = [
            Row(f"part of 2^-12 that a {kind} loses of 1 + 2^-12", lost, note="0: no TF32 was used")
            for kind, lost in zip(("product", "convolution"), _products(), strict=True)
        ]
        return Findings([*rows, *_rounded(setup, TF32, ("O0",))])


def golden_fp16(setup: Setup) -> Findings:
    """Logits and gradients under autocast, O1 and O2, in float16."""
    _need(setup, FP16)
    return Findings(list(_rounded(setup, FP16, ("O1", "O2"))))


def golden_bf16(setup: Setup) -> Findings:
    """Logits and gradients under autocast, O1 and O2, in bfloat16, as a training run computes
    on this device.
    """
    _need(setup, BF16)
    return Findings(list(_rounded(setup, BF16, ("O1", "O2"))))


def exported(setup: Setup) -> Findings:
    """Exported networks, run by `Predictor` on this device, against what the source computed."""
    rows = []
    for name in ("convit_timm", "cvt_ms"):
        expected = Case(name).expected
        model, description = load(
            weights_of(name),
            model_section(name),
            [{"name": "Normalize"}],
            expected["images"].shape[2:],
        )
        predictor = Predictor(export(model, description, setup.folder / name))
        with tf32(False):
            logits = predictor.run(expected["images"])
        rows.append(Row(f"{name}: logits", _of_largest(logits, expected["logits"]), VALUES))
        is_there = predictor.device.startswith(setup.device)
        note = f"it computed on {predictor.device}"
        rows.append(Row(f"{name}: runs on another device", float(not is_there), 0, note=note))
    return Findings(rows)


def _exact(name: str) -> Iterator[Row]:
    """A case in float32. Networks have the faster kernels of a run, which are for CPUs."""
    case = Case(name)
    accelerate(case.model)
    yield Row(f"{name}: weights that changed on the way to the device", case.changed_weights(), 0)
    logits = case.model(case.images)
    yield Row(f"{name}: logits", _of_largest(logits, case.expected["logits"]), case.tolerance)
    if name not in WITH_GRADIENTS:
        return
    loss = case.loss(logits)
    yield Row(f"{name}: loss", _of_largest(loss, case.expected["loss"]), VALUES)
    loss.backward()
    error = _of_largest(case.images.grad, case.expected["image_grad"])
    yield Row(f"{name}: gradient of the images", error, GRADIENTS)
    errors = gradient_errors(_gradients(case), case.expected_gradients())
    worst = max(errors, key=lambda key: (math.isnan(errors[key]), errors[key]))
    yield Row(f"{name}: gradients of the weights", errors[worst], GRADIENTS, note=f"worst: {worst}")
    found, expected = Case(name).steps_of_adamw(), case.expected["losses_frozen_bn"]
    yield Row(f"{name}: losses of five steps", _of_largest(found, expected), VALUES)


def _rounded(setup: Setup, kind: Format, levels: Sequence[Level]) -> Iterator[Row]:
    names = [name for name in CASES if name in WITH_GRADIENTS or not setup.quick]
    for name in names[:: 3 if setup.quick else 1]:
        for level in levels:
            yield from _rounded_case(setup, kind, level, name)


def _rounded_case(setup: Setup, kind: Format, level: Level, name: str) -> Iterator[Row]:
    case = Case(name)
    precision = Precision(
        setup.on_gpu,
        level=level,
        dtype=kind.dtype or "float16",
        loss_scale=_SCALE,
        dynamic_loss_scale=False,
    )
    precision.prepare(accelerate(case.model))
    limit = 2 * kind.roundoff * math.sqrt(ROUNDINGS * case.blocks)
    what = f"{name}, {level}" if kind.dtype else name
    with precision.weights(case.model):
        with precision.autocast():
            logits = case.model(case.images)
        if name in WITH_GRADIENTS:
            precision.scaler.scale(case.loss(logits.astype("float32"))).backward()
    found = logits.astype("float32")
    yield Row(f"{what}: logits", _of_norm([found], [case.expected["logits"]]), limit)
    if name in WITH_GRADIENTS:
        expected = case.expected_gradients()
        ours, scale = _gradients(case), _SCALE if precision.scaler.is_enable() else 1.0
        pairs = [ours[key] / scale for key in expected], list(expected.values())
        yield Row(f"{what}: gradients", _of_norm(*pairs), math.sqrt(2) * limit)


def gradient_errors(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The error of each parameter's gradient, of its largest value. A gradient that is zero in
    exact arithmetic is rounding on both sides, and has the error 0 unless ours is larger than that.
    """
    largest = max(float(np.abs(gradient).max()) for gradient in theirs.values())
    errors = {}
    for name, expected in theirs.items():
        if np.abs(expected).max() < ROUNDING * largest:
            size = float(np.abs(ours[name]).max()) / largest
            errors[name] = 0.0 if size < ROUNDING else size
        else:
            errors[name] = _of_largest(ours[name], expected)
    return errors


def _gradients(case: Case) -> dict[str, np.ndarray]:
    """By the names of the trained parameters. A missing one is an error that must show."""
    return {
        name: np.full(parameter.shape, np.nan) if parameter.grad is None else _array(parameter.grad)
        for name, parameter in trainable(case.model)
    }


def _array(found: Any) -> np.ndarray:
    return np.asarray(found.numpy() if hasattr(found, "numpy") else found, np.float64)


def _of_largest(found: Any, expected: Any) -> float:
    """The largest difference, of the largest expected value."""
    expected = _array(expected)
    return float(np.abs(_array(found) - expected).max() / np.abs(expected).max())


def _of_norm(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """The norm of all differences, of the norm of all expected values."""
    both = found, expected
    ours, theirs = (np.concatenate([_array(a).ravel() for a in arrays]) for arrays in both)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def has(setup: Setup, kind: Format) -> bool:
    """Whether the device computes in that format, bfloat16 on a CPU by rounding."""
    if setup.on_gpu:
        return tuple(paddle.device.cuda.get_device_capability()) >= kind.capability
    return kind in (FP32, BF16)


def _need(setup: Setup, kind: Format) -> None:
    if has(setup, kind):
        return
    if not setup.on_gpu:
        raise NotRun(f"Paddle has no {kind.name} kernels for CPUs")
    pair = kind.capability, paddle.device.cuda.get_device_capability()
    needed, own = (".".join(map(str, version)) for version in pair)
    raise NotRun(f"{kind.name} needs compute capability {needed}; this GPU has {own}")


def _products(size: int = 256) -> tuple[float, float]:
    """How much of 2^-12 a product and a convolution of float32 lose of 1 + 2^-12: nothing in
    float32, all of it in TF32, which keeps 10 bits.
    """
    exact = 1 + 2.0**-12
    a = paddle.full([size, size], exact)
    product = (a @ paddle.eye(size)).numpy()
    images = paddle.full([8, 64, 16, 16], exact)
    weight = paddle.eye(64).reshape([64, 64, 1, 1])
    convolution = paddle.nn.functional.conv2d(images, weight).numpy()
    lost = [float(np.abs(found - exact).max() * 2**12) for found in (product, convolution)]
    return lost[0], lost[1]
