"""Converts weight files, without building the network at its full size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
from safetensors import safe_open
from safetensors.numpy import save_file

import passl
from passl.errors import CheckpointError, ConfigError
from passl.io.files import obstacles, sha256_of, write_atomically
from passl.logging import aligned, get_logger
from passl.modeling.backbones import BACKBONES
from passl.modeling.classifier import Model, model_configs
from passl.porting import WeightFile
from passl.porting.load import Plan, plan_loading
from passl.porting.names import SOURCES, Source
from passl.porting.weight_file import NUMERICS, OURS, pack_classes, to_official
from passl.utils.config import get_config

TARGETS = {source.name: source for source in SOURCES if source.framework == "torch"}
"""Projects whose weight files can be written."""
Dtype = Literal["float32", "float16"]


def plan_conversion(
    file: WeightFile, architecture: Mapping[str, Any], head: Mapping[str, Any]
) -> Plan:
    """Plan where each weight of a file goes in a model of that architecture.

    Names and kinds of layers are taken from a model of the same depth with one channel per head, so
    that converting needs memory for the weights only.

    Raises:
        CheckpointError: a weight of the file is not used, or one of the model is not filled.
    """
    narrow = {**BACKBONES.arguments(architecture), "name": architecture["name"]}
    if narrow["name"] == "ConViT":
        narrow |= {
            "embed_dim": narrow.get("num_heads") or 4,
            "img_size": narrow["patch_size"],
            "head_dim": None,
        }
        narrow.pop("ff_dim", None)
        width = narrow["embed_dim"]
    else:
        heads, stages = narrow["num_heads"], len(narrow["embed_dim"])
        narrow["embed_dim"] = [heads] * stages if isinstance(heads, int) else heads
        width = narrow["embed_dim"][-1]
    model = Model({"model": {"architecture": narrow, "head": {**head, "in_channels": width}}})
    plan = plan_loading(file, model)
    if plan.unused or plan.unfilled:
        left = [f"not used: {', '.join(plan.unused)}"] if plan.unused else []
        left += [f"not filled: {', '.join(plan.unfilled)}"] if plan.unfilled else []
        raise CheckpointError(f"{file.path}: not the weights of that network; {'; '.join(left)}")
    return plan


def coverage(plan: Plan) -> str:
    """Return a table of all weights: the name in the file, the name here, the shape, and whether it
    is transposed or joined; then what is left out.
    """
    rows = [("in the file", "here", "shape", "")]
    for row in plan.rows:
        note = "transposed" if row.transposed else ""
        note += " joined" if len(row.theirs) > 1 else ""
        rows.append((" + ".join(row.theirs), row.ours, str(list(row.shape)), note.strip()))
    lines = aligned(rows, left=range(4))
    lines += [f"left out: {name} ({reason})" for name, reason in plan.dropped.items()]
    return "\n".join(lines)


def write_converted(
    file: WeightFile,
    plan: Plan,
    architecture: Mapping[str, Any],
    out: Path,
    dtype: Dtype = "float32",
) -> None:
    """Write the weights under our names, read them back and compare. The plan's arrays are released
    on the way.

    Args:
        out: `.safetensors`, or `.pdparams` for Paddle's own loading, which has float32 only.
        dtype: of the weights in the file.

    Raises:
        ConfigError: the file exists or has another suffix.
        CheckpointError: the written file reads back differently, or a weight exceeds the range of
            the type.
    """
    check_output(out, dtype=dtype)
    file.weights.clear()  # a large file would be in memory twice
    arrays = _owned(plan.weights, dtype)
    for name, array in arrays.items():
        if dtype == "float16" and np.isinf(array).any():
            raise CheckpointError(f"{file.path}: {name} exceeds float16, which ends at 65504")
    metadata = {
        OURS: passl.__version__,
        "source": file.source.name if file.source else "passl",
        "source_file": file.path.name,
        "source_sha256": sha256_of(file.path),
        "architecture": json.dumps(architecture),
        "variant": variant_of(architecture) or "",
        NUMERICS: json.dumps(file.numerics),
    }
    if out.suffix == ".pdparams":
        _warn_of_numerics(file, out)
        tensors = {name: paddle.to_tensor(array) for name, array in arrays.items()}
        write_atomically(out, lambda temporary: paddle.save(tensors, str(temporary)))
        return
    if file.classes is not None:  # a checkpoint's
        arrays |= pack_classes(file.classes)
    write_atomically(out, lambda temporary: save_file(arrays, temporary, metadata))
    _compare(out, arrays)


def write_for(target: str, file: WeightFile, plan: Plan, out: Path) -> None:
    """Write the weights in the names and layout of another project, as `.safetensors`.

    Args:
        target: one of TARGETS.

    Raises:
        ConfigError: there is no such target, or the file exists.
    """
    check_output(out, target)
    _warn_of_numerics(file, out)
    file.weights.clear()
    arrays = _owned(as_source(TARGETS[target], plan))
    write_atomically(out, lambda temporary: save_file(arrays, temporary, {"format": "pt"}))
    _compare(out, arrays)


def as_source(source: Source, plan: Plan) -> dict[str, np.ndarray]:
    """Return our weights in the names and layout of a PyTorch project."""
    linear = {row.ours for row in plan.rows if _is_matrix(row.ours, plan.weights[row.ours])}
    found: dict[str, np.ndarray] = {}
    for name, array in plan.weights.items():
        theirs = source.theirs(to_official(name))
        parts = np.split(array, len(theirs), axis=-1)
        found |= {part: a.T if name in linear else a for part, a in zip(theirs, parts, strict=True)}
    return found


def _warn_of_numerics(file: WeightFile, out: Path) -> None:
    if file.numerics:
        get_logger().warning("%s cannot say that these weights want %s", out, file.numerics)


def _is_matrix(name: str, array: np.ndarray) -> bool:
    return name.endswith(".weight") and array.ndim == 2  # in both networks only Linear has these


def _owned(weights: dict[str, np.ndarray], dtype: str = "float32") -> dict[str, np.ndarray]:
    """Return contiguous copies; each original is released as soon as it is copied."""
    owned = {}
    for name in list(weights):
        with np.errstate(over="ignore"):  # the caller checks
            owned[name] = np.ascontiguousarray(weights.pop(name), dtype=dtype)
    return owned


def _compare(out: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with safe_open(out, framework="np") as written:
        for name, array in arrays.items():
            if not np.array_equal(written.get_tensor(name), array, equal_nan=True):
                raise CheckpointError(
                    f"{out}: {name} reads back differently; the disk may be at fault"
                )


def check_output(out: Path, target: str | None = None, dtype: str = "float32") -> None:
    """Check that converted weights can be written, for another project if `target` names one.

    Raises:
        ConfigError: there is no such target, or the file exists, has another suffix, or cannot have
            that type.
    """
    if dtype != "float32" and (target or out.suffix == ".pdparams"):
        raise ConfigError(f"--float16 is for {out.with_suffix('.safetensors').name} without --to")
    if target is not None and target not in TARGETS:
        raise ConfigError(f"--to {target}: weights can be written for {', '.join(TARGETS)}")
    suffixes = (".safetensors",) if target else (".safetensors", ".pdparams")
    if out.suffix not in suffixes:
        raise ConfigError(f"{out}: weights are written as {' or '.join(suffixes)}")
    for rule in obstacles(out):
        raise ConfigError(f"{out}: {rule}")


def variant_of(architecture: Mapping[str, Any]) -> str | None:
    """Return the name of the model that has this architecture, from its widths and depths; null if
    there is none.
    """
    # The name first: the two networks have different options.
    options = ("name", "embed_dim", "depth", "num_heads", "local_up_to_layer", "patch_size")
    compared = [key for key in (*options, "in_chans") if key in architecture]
    for name, path in model_configs().items():
        node = get_config(path).model.architecture
        published = {**BACKBONES.arguments(node), "name": node.name}
        same = all(_plain(architecture[key]) == _plain(published[key]) for key in compared)
        # cvt_13_384 and cvt_13_224 are one network; weights do not tell the image size.
        if same and not (name.startswith("cvt") and name.endswith("_384") and "w24" not in name):
            return name
    return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def describe(file: WeightFile, architecture: Mapping[str, Any]) -> str:
    """Describe weights in one line: network, source and numerics."""
    network = variant_of(architecture)
    network = network or f"no published variant: {json.dumps(dict(architecture))}"
    source = file.source.name if file.source else "passl"
    numerics = [f"{key} {value}" for key, value in file.numerics.items()]
    return "; ".join([f"{network}, weights of {source}", *numerics])
