"""Weights of a file into a model: read, renamed, transposed, checked, and only then copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from passl.errors import CheckpointError, ConfigError
from passl.logging import get_logger
from passl.porting.classes import order_in, told
from passl.porting.readers.safetensors import Array
from passl.porting.resolve import locate
from passl.porting.weight_file import WeightFile, read_file, to_official

FITS = ("classes", "resolution", "channels")
"""What a file may be fitted to, when asked by these names."""


@dataclass(frozen=True)
class Row:
    """One weight's way.

    Args:
        theirs: its name in the file, or those of its parts.
        ours: its name in the model.
        shape: in the model's layout.
        transposed: whether its axes were exchanged.
    """

    theirs: tuple[str, ...]
    ours: str
    shape: tuple[int, ...]
    transposed: bool


@dataclass
class Plan:
    """What becomes of each weight of a file, and where each weight of the model comes from."""

    weights: dict[str, np.ndarray]
    rows: list[Row]
    unused: list[str]
    unfilled: list[str]
    dropped: dict[str, str] = field(default_factory=dict)


def load_weights(model: nn.Layer, path: str | Path | WeightFile, fit: Sequence[str] = ()) -> Plan:
    """Copy the weights of a file into the model. Every weight of both sides must find its partner.

    Args:
        model: a `Model`, or a backbone alone, which leaves a classifier in the file out. Where both
            the model and the file name their classes, a classifier of the same ones in another
            order is put into the model's order.
        path: a file, an https address, or a name of the model zoo. The weights may be one of our
            checkpoints, or of facebookresearch/convit, timm, microsoft/CvT, Hugging Face, MindCV,
            PASSL or PaddleClas; whose, and with which wrappers around their names, is found out.
        fit: what may differ between the file and the model: `classes` (where their number or names
            do, the classifier stays as it is), `resolution` (the position embedding is resampled),
            `channels` (the first convolution is summed or repeated).

    Returns:
        What went where.

    Raises:
        CheckpointError: the file is missing, damaged or another network's. The model is then
            unchanged.
        ConfigError: there is nothing of that name to fit; or the file's classes are not the
            model's. The model is then unchanged too.
    """
    unknown = set(fit) - set(FITS)
    if unknown:
        raise ConfigError(f"fit {sorted(unknown)[0]!r} is not one of {', '.join(FITS)}")
    file = path if isinstance(path, WeightFile) else read_file(locate(path))
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    linear = {
        f"{name}.weight" for name, layer in model.named_sublayers() if isinstance(layer, nn.Linear)
    }
    plan = plan_loading(file, ours, linear)
    for key, value in file.numerics.items():
        own = getattr(getattr(model, "backbone", model), key, value)
        if own != value:
            text = "%s: these weights want %s %s, and the model has %s: its logits will differ"
            get_logger().warning(text, file.path, key, value, own)
    _fit(plan, ours, model, fit)
    _fit_names(plan, file, model, fit)
    set_weights(model, plan.weights, str(file.path))
    return plan


def plan_loading(
    file: WeightFile, ours: Mapping[str, tuple[int, ...]], linear: Iterable[str]
) -> Plan:
    """Find each weight of a model in a file, and bring it into the model's layout.

    Which weights are transposed follows from the layer that they belong to, never from a shape:
    a square matrix would hide the mistake.

    Args:
        ours: names of the model's weights, and their shapes.
        linear: those that are the matrix of a Linear, [in, out] in Paddle.
    """
    linear = set(linear)
    plan = Plan({}, [], [], [], dict(file.dropped))
    used: set[str] = set()
    for name in ours:
        theirs: tuple[str, ...]
        if file.source is None:  # a Model's names; the model here may be its backbone alone
            theirs = (name if name in file.weights else f"backbone.{name}",)
        else:
            theirs = file.source.theirs(to_official(name))
        if not all(part in file.weights for part in theirs):
            plan.unfilled.append(name)
            continue
        used.update(theirs)
        transposed = (
            name in linear and file.source is not None and file.source.framework != "paddle"
        )
        found = [np.asarray(file.weights[part]) for part in theirs]
        parts = [part.T if transposed else part for part in found]
        # Parts of a matrix lie side by side along its output axis, Paddle's last.
        array = (
            parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1 if name in linear else 0)
        )
        plan.weights[name] = array
        plan.rows.append(Row(theirs, name, array.shape, transposed))
    plan.unused = [name for name in file.weights if name not in used]
    if not any(name.startswith("head.") for name in ours):  # a backbone alone
        classifier = [n for n in plan.unused if n.startswith(("head.", "classifier."))]
        plan.dropped |= {name: "the model has no classifier" for name in classifier}
        plan.unused = [name for name in plan.unused if name not in classifier]
    plan.weights |= {name: np.asarray(file.weights[name]) for name in plan.unused}
    return plan


def set_weights(model: nn.Layer, weights: Mapping[str, Array], source: str) -> None:
    """Copy arrays into the model, after checking that names and shapes are exactly the model's.

    Raises:
        CheckpointError: what is missing, what is left over and what has another shape, all at once.
    """
    ours = model.state_dict()
    shared = ours.keys() & weights.keys()
    shapes = {
        name: (list(weights[name].shape), list(ours[name].shape)) for name in ours if name in shared
    }
    shapes = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    misshaped = (f"{n} ({a} in the file, {b} in the model)" for n, (a, b) in shapes.items())
    names = [
        *_listed("missing in the file", (name for name in ours if name not in shared)),
        *_listed("not in the model", (name for name in weights if name not in shared)),
    ]
    problems = [*names, *_listed("of another shape", misshaped)]
    if problems:
        advice = "Use the config that belongs to the file"
        fits = {_fit_of(name) for name in shapes}
        if not names and None not in fits:
            told = ", ".join(fit for fit in FITS if fit in fits)
            advice += f"; to fine-tune from it, set model.fit: [{told}] (in Python: fit)"
        raise CheckpointError(
            f"{source}: weights of another network: {'; '.join(problems)}. {advice}"
        )
    for name, parameter in ours.items():
        parameter.set_value(np.ascontiguousarray(weights[name], dtype=np.float32))


def _listed(rule: str, names: Iterable[str], shown: int = 5) -> list[str]:
    found = list(names)
    if not found:
        return []
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return [f"{rule} ({len(found)}): {', '.join(found[:shown])}{more}"]


# --------------------------------------------------------------------------------------------------
# Fitting a file to another task
# --------------------------------------------------------------------------------------------------
def _fit(
    plan: Plan, ours: Mapping[str, tuple[int, ...]], model: nn.Layer, fit: Sequence[str]
) -> None:
    state: Any = model.state_dict()
    for name, shape in ours.items():
        theirs = plan.weights.get(name)
        if theirs is None or theirs.shape == shape:
            continue
        kind = _fit_of(name)
        if kind not in fit:
            continue
        if kind == "classes":
            plan.weights[name] = state[name].numpy()
            _say(
                "%s stays as initialised: the file has %d classes, the model %d",
                name,
                theirs.shape[-1],
                shape[-1],
            )
        elif kind == "resolution":
            backbone = getattr(model, "backbone", model)
            plan.weights[name] = backbone.fit_positions(theirs)
            _say("%s is resampled from %d to %d patches", name, theirs.shape[1], shape[1])
        else:
            plan.weights[name] = fit_channels(theirs, shape[1])
            how = "summed" if shape[1] == 1 else "repeated"
            _say("%s is %s from %d to %d channels", name, how, theirs.shape[1], shape[1])


_CLASSIFIER = ("head.fc_cls.weight", "head.fc_cls.bias")
"""What has an entry for each class, along the last axis."""


def _fit_names(plan: Plan, file: WeightFile, model: nn.Layer, fit: Sequence[str]) -> None:
    """Bring the classifier into the order of the model's classes."""
    theirs, ours = file.classes, getattr(model, "classes", None)
    own: Any = model.state_dict()
    if theirs is None or ours is None or len(theirs) != len(ours) or not told(theirs):
        return
    if not told(ours):
        _say("%s names its classes, the data numbers them: they are not compared", file.path)
        return
    try:
        order = order_in(theirs, ours)
    except ValueError as error:
        if "classes" not in fit:
            raise ConfigError(
                f"{file.path}: its classes are not those of the data: {error}. Name them as in its "
                "training, by the names of the folders or by class_file; to fine-tune to other "
                "classes, set model.fit: [classes] (in Python: fit)"
            ) from None
        rows = [name for name in own if name.startswith("head.")]
        for name in [name for name in rows if name in _CLASSIFIER] or rows:
            plan.weights[name] = own[name].numpy()
        _say("the classifier stays as initialised: %s", error)
        return
    if order is None:
        return
    rows = [name for name in plan.weights if name.startswith("head.") and name in own]
    odd = [n for n in rows if n not in _CLASSIFIER and len(ours) in own[n].shape]
    if odd or _CLASSIFIER[0] not in rows:
        raise ConfigError(
            f"{file.path}: has the data's classes in another order, and it is not known which axis "
            f"of {(odd or rows)[0]} they are; list them in its order by class_file"
        )
    for name in set(_CLASSIFIER).intersection(rows):
        plan.weights[name] = plan.weights[name][..., order]
    _say("%s: the classifier is put into the order of the data's classes", file.path)


def _fit_of(name: str) -> str | None:
    """Which of FITS a parameter depends on."""
    leaf = to_official(name)
    if leaf.startswith("head."):
        return "classes"
    if leaf == "pos_embed":
        return "resolution"
    first = ("patch_embed.proj.weight", "stage0.patch_embed.proj.weight")
    return "channels" if leaf in first else None


def fit_channels(weight: np.ndarray, channels: int) -> np.ndarray:
    """A convolution [out, in, h, w] for another number of input channels.

    For one channel the weights are summed, so that grey gives what it gave in colour; for more they
    are repeated in turn and scaled by old / new, so that outputs keep their size.
    """
    if channels == 1:
        return weight.sum(axis=1, keepdims=True)
    old = weight.shape[1]
    return weight[:, [i % old for i in range(channels)]] * (old / channels)


def _say(text: str, *values: object) -> None:
    get_logger().info(text, *values)
