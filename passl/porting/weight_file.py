"""Weight files of every format, read into names and arrays, with their source."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from passl.errors import CheckpointError, no_file, shortened
from passl.porting.names import DROPPED, SOURCES, Source, unwrapped
from passl.porting.readers.mindspore import read_mindspore
from passl.porting.readers.paddle import read_paddle
from passl.porting.readers.safetensors import Array, open_safetensors
from passl.porting.readers.torch import read_torch

OURS = "passl_version"
"""Key of the metadata of files whose names and layouts are this package's."""
NUMERICS = "numerics"
"""Key of the constructor arguments of the backbone that the weights need, as JSON."""
OPTIMIZER = "optimizer/"
TRAINED = "trained/"
NAMES = "names/"
NO_WEIGHTS = (OPTIMIZER, TRAINED, NAMES)
"""Prefixes of what our checkpoints have beside the weights."""
CLASSES = "classes"
"""Key of the class names, in the metadata or under NAMES."""
_LARGEST_NAMES = 64 * 2**20  # bytes; as objects they take up to some ten times that
EMA = "ema."
"""Prefix of the moving averages that MindCV stores beside the weights."""
_READERS = {
    **dict.fromkeys((".pth", ".pt", ".bin"), ("torch", read_torch)),
    ".ckpt": ("mindspore", read_mindspore),
    ".pdparams": ("paddle", read_paddle),
}
SUFFIXES = (".safetensors", *_READERS)
"""Suffixes of the files that can be read."""


@dataclass
class WeightFile:
    """The weights of a file.

    Args:
        path: the file.
        weights: name -> array as in the file, without wrappers around the names.
        source: the project whose names and layout they have; None for this package's own.
        dropped: names that are not weights, and why.
        metadata: of a .safetensors file.
        classes: class names that the classifier was trained with; None if the file has none.
    """

    path: Path
    weights: Mapping[str, Array]
    source: Source | None
    dropped: dict[str, str]
    metadata: dict[str, str]
    classes: list[str] | None = None

    @property
    def numerics(self) -> dict[str, Any]:
        """Constructor arguments of the backbone that these weights need and a config may lack. A
        file of this package keeps those of the file that it was made from.

        Raises:
            CheckpointError: they are damaged.
        """
        if self.source is not None:
            return dict(self.source.numerics)
        try:
            numerics = json.loads(self.metadata.get(NUMERICS, "{}"))
        except ValueError:
            raise CheckpointError(f"{self.path}: damaged: its {NUMERICS} are not JSON") from None
        if not isinstance(numerics, dict) or not numerics.keys() <= {"act", "norm_eps"}:
            raise CheckpointError(f"{self.path}: damaged: its {NUMERICS} are {numerics!r}")
        return numerics


def read_file(path: str | Path) -> WeightFile:
    """Read a weight file and detect its source.

    Args:
        path: `.safetensors`, PyTorch's `.pth`, `.pt` or `.bin`, MindSpore's `.ckpt`, or Paddle's
            `.pdparams`.

    Raises:
        CheckpointError: the file is missing, damaged, carries code, or has weights of no network
            known here.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, not a weight file; name one of the files in it")
    if not path.is_file():
        raise CheckpointError(f"{path}: {no_file(path, 'weight file')}")
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        stored, metadata = open_safetensors(path)
        if OURS in metadata:
            file = own_file(path, stored, metadata)
            return replace(file, weights=_in_memory(file.weights))
        weights = _in_memory(stored)
        framework = "torch"
    elif path.suffix in _READERS:
        framework, read = _READERS[path.suffix]
        weights = read(path)
    else:
        known = ", ".join(SUFFIXES)
        raise CheckpointError(f"{path}: weights are read from {known}, not from {path.name}")
    weights, dropped = _without_rest(weights)
    _check_floats(path, weights)
    source = recognise(weights, framework)
    if source is None and all(name.startswith("backbone.") for name in weights):  # has no head
        weights = {name.removeprefix("backbone."): array for name, array in weights.items()}
        source = recognise(weights, framework)
    if source is None:
        shown = ", ".join(list(weights)[:3]) or "nothing"
        raise CheckpointError(
            f"{path}: weights of no ConViT or CvT known here (it has {shown}, ...); "
            f"known are {', '.join(sorted({source.name for source in SOURCES}))} and passl's own"
        )
    return WeightFile(path, weights, source, dropped, metadata)


def _in_memory(arrays: Mapping[str, Array]) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in arrays.items()}


def own_file(path: Path, arrays: Mapping[str, Array], metadata: dict[str, str]) -> WeightFile:
    """Return the weights among the arrays of a checkpoint of this package.

    Raises:
        CheckpointError: they are not floating-point numbers, or the class names are damaged.
    """
    own = {name: array for name, array in arrays.items() if not name.startswith(NO_WEIGHTS)}
    _check_floats(path, own)
    return WeightFile(path, own, None, {}, metadata, read_classes(path, arrays, metadata))


def pack_classes(classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Return class names as an array of a checkpoint: JSON in bytes. They are not in the metadata,
    as in version 0.1, because readers limit its size.
    """
    return {NAMES + CLASSES: np.frombuffer(json.dumps(list(classes)).encode(), np.uint8)}


def read_classes(
    path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]
) -> list[str] | None:
    """Return the class names of a checkpoint, or None if it has none.

    Raises:
        CheckpointError: they are damaged.
    """
    packed = arrays.get(NAMES + CLASSES)
    text: Any = metadata.get(CLASSES)
    try:
        if packed is not None:
            if packed.dtype != np.uint8 or math.prod(packed.shape) > _LARGEST_NAMES:
                raise ValueError("no bytes, or too many")
            text = np.asarray(packed).tobytes()
        names = None if text is None else json.loads(text)
        if names is not None and not (
            type(names) is list and all(type(name) is str for name in names)
        ):
            raise ValueError("no list of texts")
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: damaged: its class names are not a list of texts") from None
    return names


def _check_floats(path: Path, weights: Mapping[str, Array]) -> None:
    """Refuse integers: bfloat16 saved as its bits, or quantised weights, whose scales are not read.
    As float32 they would load without an error and give wrong outputs.
    """
    wrong = [
        f"{name} ({array.dtype})" for name, array in weights.items() if array.dtype.kind != "f"
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: weights are floating-point numbers, not {shortened(wrong, 3)}; load the "
            " file where it was made, convert the weights to float32 and save them again"
        )


def _without_rest(
    weights: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Remove what is not a weight, then the wrappers around the names."""
    dropped = {
        name: DROPPED[leaf] for name in weights if (leaf := name.rsplit(".", 1)[-1]) in DROPPED
    }
    kept = [name for name in weights if name not in dropped]
    averages = [name for name in kept if name.startswith(EMA)]
    if len(averages) < len(kept):
        dropped |= {name: "moving average of a weight that is there too" for name in averages}
        kept = [name for name in kept if name not in dropped]
    return {inner: weights[name] for name, inner in unwrapped(kept).items()}, dropped


def recognise(weights: Mapping[str, Array], framework: str) -> Source | None:
    """Return the source that has such names, or None."""
    return next((s for s in SOURCES if s.framework == framework and s.anchor in weights), None)


def architecture_of(file: WeightFile) -> tuple[dict[str, Any], dict[str, Any]]:
    """Derive the backbone and head from the weights: depths, widths, heads, classes, and the
    numerics of the source.

    The number of CvT's heads is not in its weights. They are assumed to be 64 channels wide, as in
    every published variant.

    Returns:
        The `architecture` and the `head` node of a config.

    Raises:
        CheckpointError: weights that such a network must have are missing.
    """
    names = official_names(file)
    try:
        family = _convit if "cls_token" in names or "blocks.0.norm1.weight" in names else _cvt
        architecture = family(names)
        classes, width = names["head.bias"][0], names["norm.weight"][0]
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f"{file.path}: incomplete: it has no {error}") from None
    return {**architecture, **file.numerics}, {
        "name": "ClsHead",
        "num_classes": classes,
        "in_channels": width,
    }


def official_names(file: WeightFile) -> dict[str, tuple[int, ...]]:
    """Return the authors' names of the weights, with their shapes in the file. Parts of one weight
    have the same name.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, array in file.weights.items():
        if file.source is None:
            shapes[to_official(name)] = array.shape
        else:
            shapes[file.source.ours(name) or name] = array.shape
    return shapes


def to_official(ours: str) -> str:
    """Convert a Model's names backbone.X and head.fc_cls.X to the authors': X and head.X."""
    return ours.removeprefix("backbone.").replace("head.fc_cls.", "head.", 1)


def _count(names: Mapping[str, Any], pattern: str) -> int:
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    return max(found) + 1 if found else 0


def _convit(names: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    depth = _count(names, r"blocks\.(\d+)\.")
    local = _count(names, r"blocks\.(\d+)\.attn\.gating_param")
    width, channels, patch, _ = names["patch_embed.proj.weight"]
    found = {
        "name": "ConViT",
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": width,
        "depth": depth,
        "local_up_to_layer": local,
        "mlp_ratio": max(names["blocks.0.mlp.fc1.weight"]) / width,
        "qkv_bias": any(re.search(r"attn\.(qk|qkv|v)\.bias", name) for name in names),
        "use_pos_embed": "pos_embed" in names,
    }
    if local:
        found["num_heads"] = names["blocks.0.attn.gating_param"][0]
    if "cls_token" not in names:
        found["global_pool"] = "avg"
    if "pos_embed" in names:
        side = round(names["pos_embed"][1] ** 0.5)
        if side * side == names["pos_embed"][1]:
            found["img_size"] = side * patch
    return found


def _cvt(names: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    stages = range(_count(names, r"stage(\d+)\."))
    widths = [names[f"stage{s}.patch_embed.proj.weight"][0] for s in stages]
    return {
        "name": "CvT",
        "in_chans": names["stage0.patch_embed.proj.weight"][1],
        "embed_dim": widths,
        "patch_size": [names[f"stage{s}.patch_embed.proj.weight"][2] for s in stages],
        "depth": [_count(names, rf"stage{s}\.blocks\.(\d+)\.") for s in stages],
        "num_heads": [max(1, width // 64) for width in widths],
        "qkv_bias": [f"stage{s}.blocks.0.attn.proj_q.bias" in names for s in stages],
        "with_cls_token": [f"stage{s}.cls_token" in names for s in stages],
        "method": [
            "dw_bn" if f"stage{s}.blocks.0.attn.conv_proj_k.conv.weight" in names else "avg"
            for s in stages
        ],
    }
