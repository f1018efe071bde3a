"""Load the weights of a file into a model: read, rename, transpose, check, and only then copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from passl.errors import CheckpointError, ConfigError, shortened
from passl.logging import get_logger
from passl.porting.classes import are_named, order_in
from passl.porting.readers.safetensors import Array
from passl.porting.resolve import locate
from passl.porting.weight_file import WeightFile, read_file, to_official

FITS = ("classes", "resolution", "channels", "head")
"""What `fit` can name."""
_CLASSIFIER = ("head.fc_cls.weight", "head.fc_cls.bias")
"""Parameters with an entry for each class, along the last axis."""
_HEADS = ("head.", "classifier.")
"""What the names of a head's weights start with, in all projects."""


@dataclass(frozen=True)
class Row:
    """The source of one weight.

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
    """Where each weight of a file goes, and where each weight of the model comes from.

    Args:
        weights: name in the model -> array in the model's layout; the unused under their own names.
        rows: the weights that are loaded.
        unused: names of the file that the model does not have.
        unfilled: names of the model that the file does not have.
        dropped: names of the file that are left out, and why.
    """

    weights: dict[str, np.ndarray]
    rows: list[Row]
    unused: list[str]
    unfilled: list[str]
    dropped: dict[str, str] = field(default_factory=dict)


def load_weights(model: nn.Layer, path: str | Path | WeightFile, fit: Sequence[str] = ()) -> Plan:
    """Copy the weights of a file into the model. Names and shapes must be exactly the model's.

    Args:
        model: a `Model`, or a backbone alone, for which a classifier in the file is left out. Where
            both the model and the file name their classes, a classifier of the same classes in
            another order is put into the model's order.
        path: a file, an https address, or a name of the model zoo. The weights may be one of our
            checkpoints, or of facebookresearch/convit, timm, microsoft/CvT, Hugging Face, MindCV,
            PASSL or PaddleClas. The source and wrappers around the names are detected
            automatically.
        fit: what may differ between the file and the model: `classes` (if their number or names
            differ, the classifier stays as initialised), `resolution` (the position embedding is
            resampled), `channels` (the first convolution is summed or repeated), `head` (the head
            stays as initialised, and that of the file is left out).

    Returns:
        Where each weight went.

    Raises:
        CheckpointError: the file is missing, damaged or another network's. The model is unchanged.
        ConfigError: `fit` is unknown, or the classes of the file are not the model's. The model is
            unchanged.
    """
    unknown = set(fit) - set(FITS)
    if unknown:
        raise ConfigError(f"fit {sorted(unknown)[0]!r} is not one of {', '.join(FITS)}")
    file = path if isinstance(path, WeightFile) else read_file(locate(path))
    plan = plan_loading(file, model)
    for key, value in file.numerics.items():
        own = getattr(getattr(model, "backbone", model), key, value)
        if own != value:
            get_logger().warning(
                "%s: these weights want %s %s, and the model has %s: its logits will differ",
                *(file.path, key, value, own),
            )
    if "head" in fit:
        _keep_head(plan, model)
    _fit_shapes(plan, model, fit)
    if "head" not in fit:
        _fit_classes(plan, file, model, fit)
    set_weights(model, plan.weights, str(file.path))
    return plan


def plan_loading(file: WeightFile, model: nn.Layer) -> Plan:
    """Find each weight of a model in a file, and convert it to the model's layout.

    Weights are transposed by the layer they belong to, never by shape: a square matrix would hide
    the mistake.

    Args:
        model: its names and kinds of layers matter, its widths do not.
    """
    ours, layers = list(model.state_dict()), model.named_sublayers()
    # The matrix of a Linear is [in, out] in Paddle.
    linear = {f"{name}.weight" for name, layer in layers if isinstance(layer, nn.Linear)}
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
        # Parts of a matrix are joined along its output axis, which is the last in Paddle.
        array = (
            parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1 if name in linear else 0)
        )
        plan.weights[name] = array
        plan.rows.append(Row(theirs, name, array.shape, transposed))
    plan.unused = [name for name in file.weights if name not in used]
    if not any(name.startswith("head.") for name in ours):  # a backbone alone
        _drop_head(plan, "the model has no classifier")
    plan.weights |= {name: np.asarray(file.weights[name]) for name in plan.unused}
    return plan


def _drop_head(plan: Plan, why: str) -> None:
    """Leave out what the file has of a head and the model does not use."""
    head = [name for name in plan.unused if name.startswith(_HEADS)]
    plan.dropped |= {name: why for name in head}
    plan.unused = [name for name in plan.unused if name not in head]


def set_weights(model: nn.Layer, weights: Mapping[str, Array], source: str) -> None:
    """Copy arrays into the model, after checking that names and shapes are exactly the model's.

    Args:
        source: where the arrays are from, for messages.

    Raises:
        CheckpointError: weights are missing, left over or of another shape; all are reported.
    """
    ours = model.state_dict()
    shared = ours.keys() & weights.keys()
    shapes = {
        name: (list(weights[name].shape), list(ours[name].shape)) for name in ours if name in shared
    }
    shapes = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    found = {
        "missing in the file": [name for name in ours if name not in shared],
        "not in the model": [name for name in weights if name not in shared],
        "of another shape": [
            f"{n} ({a} in the file, {b} in the model)" for n, (a, b) in shapes.items()
        ],
    }
    problems = [f"{rule} ({len(of)}): {shortened(of)}" for rule, of in found.items() if of]
    if problems:
        advice = "Use the config that belongs to the file"
        fits = {_fit_of(name) for name in shapes}
        odd = ours.keys() ^ weights.keys()
        if odd:
            fits.add("head" if all(name.startswith(_HEADS) for name in odd) else None)
        if None not in fits:
            wanted = ", ".join(f for f in FITS if f in fits and not (odd and f == "classes"))
            advice += f"; to fine-tune from it, set model.fit: [{wanted}] (in Python: fit)"
        raise CheckpointError(
            f"{source}: weights of another network: {'; '.join(problems)}. {advice}"
        )
    for name, parameter in ours.items():
        parameter.set_value(np.ascontiguousarray(weights[name], dtype=np.float32))


# --------------------------------------------------------------------------------------------------
# Fitting a file to another task
# --------------------------------------------------------------------------------------------------
def _keep_head(plan: Plan, model: nn.Layer) -> None:
    """Keep the model's head as initialised."""
    used = [row for row in plan.rows if row.ours.startswith("head.")]
    plan.rows = [row for row in plan.rows if row not in used]
    plan.unused += [name for row in used for name in row.theirs]
    _drop_head(plan, "the model's head stays as initialised")
    for name in plan.dropped:
        plan.weights.pop(name, None)
    own: Any = model.state_dict()
    plan.weights |= {name: own[name].numpy() for name in own if name.startswith("head.")}
    get_logger().info("the head stays as initialised, and that of the file is left out")


def _fit_shapes(plan: Plan, model: nn.Layer, fit: Sequence[str]) -> None:
    """Convert the weights that `fit` names to the shapes of the model."""
    info = get_logger().info
    own: Any = model.state_dict()
    for name, parameter in own.items():
        weight, shape = plan.weights.get(name), tuple(parameter.shape)
        kind = _fit_of(name)
        if weight is None or weight.shape == shape or kind not in fit:
            continue
        if kind == "classes":
            plan.weights[name] = parameter.numpy()
            text = "%s stays as initialised: the file has %d classes, the model %d"
            info(text, name, weight.shape[-1], shape[-1])
        elif kind == "resolution":
            backbone: Any = getattr(model, "backbone", model)
            plan.weights[name] = backbone.fit_positions(weight)
            info("%s is resampled from %d to %d patches", name, weight.shape[1], shape[1])
        else:
            plan.weights[name] = fit_channels(weight, shape[1])
            how = "summed" if shape[1] == 1 else "repeated"
            info("%s is %s from %d to %d channels", name, how, weight.shape[1], shape[1])


def _fit_classes(plan: Plan, file: WeightFile, model: nn.Layer, fit: Sequence[str]) -> None:
    theirs, ours = file.classes, getattr(model, "classes", None)
    own: Any = model.state_dict()
    if theirs is None or ours is None or len(theirs) != len(ours) or not are_named(theirs):
        return
    if not are_named(ours):
        text = "%s names its classes, the data numbers them: they are not compared"
        get_logger().info(text, file.path)
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
        head = [name for name in own if name.startswith("head.")]
        for name in [name for name in head if name in _CLASSIFIER] or head:
            plan.weights[name] = own[name].numpy()
        get_logger().info("the classifier stays as initialised: %s", error)
        return
    if order is None:
        return
    head = [name for name in plan.weights if name.startswith("head.") and name in own]
    unknown = [n for n in head if n not in _CLASSIFIER and len(ours) in own[n].shape]
    if unknown or _CLASSIFIER[0] not in head:
        raise ConfigError(
            f"{file.path}: has the data's classes in another order, and it is not known which axis "
            f"of {(unknown or head)[0]} they are; list them in its order by class_file"
        )
    for name in set(_CLASSIFIER).intersection(head):
        plan.weights[name] = plan.weights[name][..., order]
    get_logger().info("%s: the classifier is put into the order of the data's classes", file.path)


def _fit_of(name: str) -> str | None:
    """Return which of FITS the shape of a parameter depends on."""
    official = to_official(name)
    if official.startswith("head."):
        return "classes"
    if official == "pos_embed":
        return "resolution"
    first = ("patch_embed.proj.weight", "stage0.patch_embed.proj.weight")
    return "channels" if official in first else None


def fit_channels(weight: np.ndarray, channels: int) -> np.ndarray:
    """Convert a convolution [out, in, h, w] to another number of input channels.

    For one channel the weights are summed, so that grey gives the same output as in colour; for
    more they are repeated in turn and scaled by old / new, so that outputs keep their size.
    """
    if channels == 1:
        return weight.sum(axis=1, keepdims=True)
    old = weight.shape[1]
    return weight[:, [i % old for i in range(channels)]] * (old / channels)
