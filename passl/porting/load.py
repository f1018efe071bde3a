"""Weights of a file into a model: read, renamed, transposed, checked, and only then copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from paddle import nn
from safetensors import SafetensorError, safe_open

from passl.porting.torch_file import read_torch
from passl.utils.errors import CheckpointError

OURS = "passl_version"
"""Key of a file's metadata that says that names and layouts are this package's."""
OPTIMIZER = "optimizer/"
"""Prefix of what our checkpoints carry beside the weights."""

# PyTorch's name of a leaf -> Paddle's. All other names of the networks are the authors' already.
_LEAVES = {"running_mean": "_mean", "running_var": "_variance"}
_DROPPED = "num_batches_tracked"  # PyTorch's BatchNorm counts batches, Paddle's does not
_TORCH_SUFFIXES = (".pth", ".pt", ".bin")


def load_weights(model: nn.Layer, path: str | Path) -> None:
    """Copy the weights of a file into the model. Every weight of both sides must find its partner.

    Args:
        model: a `Model`, or a backbone alone for a file without classifier.
        path: one of our checkpoints, or the weights of facebookresearch/convit, timm (ConViT) or
            microsoft/CvT as `.safetensors`, `.pth`, `.pt` or `.bin`.

    Raises:
        CheckpointError: the file is missing, damaged or another network's. The model is then
            unchanged.
    """
    path = Path(path)
    weights, ours = read_weights(path)
    set_weights(model, weights if ours else from_torch(model, weights), str(path))


def read_weights(path: Path) -> tuple[dict[str, np.ndarray], bool]:
    """Name -> array as the file has them, and whether names and layouts are this package's (or
    PyTorch's).
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, not a weight file; name one of the files in it")
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such weight file")
    if path.suffix in _TORCH_SUFFIXES:
        return read_torch(path), False
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: weights are read from .safetensors, {', '.join(_TORCH_SUFFIXES)}, not from "
            f"{path.name}"
        )
    try:
        with safe_open(path, framework="np") as file:
            weights = {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 (no mapping)
                if not name.startswith(OPTIMIZER)
            }
            return weights, OURS in (file.metadata() or {})
    except (SafetensorError, TypeError) as error:
        raise CheckpointError(f"{path}: not a readable .safetensors file: {error}") from None


def from_torch(model: nn.Layer, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Official names and PyTorch's layout to this model's. Which weights are transposed follows
    from the layer they belong to, never from a shape: a square matrix would hide the mistake.
    """
    transposed = {
        f"{name}.weight" for name, layer in model.named_sublayers() if isinstance(layer, nn.Linear)
    }
    whole = "head.fc_cls.weight" in model.state_dict()  # backbone and head, or a backbone alone
    renamed = {}
    for name, array in weights.items():
        *layer, leaf = name.split(".")
        if leaf == _DROPPED:
            continue
        target = ".".join([*layer, _LEAVES.get(leaf, leaf)])
        if whole:
            target = f"head.fc_cls.{leaf}" if layer == ["head"] else f"backbone.{target}"
        renamed[target] = array.T if target in transposed else array
    return renamed


def set_weights(model: nn.Layer, weights: Mapping[str, np.ndarray], source: str) -> None:
    """Copy arrays into the model, after checking that names and shapes are exactly the model's.

    Raises:
        CheckpointError: what is missing, what is left over and what has another shape, all at once.
    """
    ours = model.state_dict()
    shared = ours.keys() & weights.keys()
    misshaped = [
        f"{name} ({list(weights[name].shape)} in the file, {list(ours[name].shape)} in the model)"
        for name in ours
        if name in shared and list(weights[name].shape) != list(ours[name].shape)
    ]
    problems = [
        *_listed("missing in the file", (name for name in ours if name not in shared)),
        *_listed("not in the model", (name for name in weights if name not in shared)),
        *_listed("of another shape", misshaped),
    ]
    if problems:
        raise CheckpointError(
            f"{source}: weights of another network: {'; '.join(problems)}. Use the config that "
            "belongs to the file"
        )
    for name, parameter in ours.items():
        parameter.set_value(np.ascontiguousarray(weights[name], dtype=np.float32))


def _listed(rule: str, names: Iterable[str], shown: int = 5) -> list[str]:
    found = list(names)
    if not found:
        return []
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return [f"{rule} ({len(found)}): {', '.join(found[:shown])}{more}"]
