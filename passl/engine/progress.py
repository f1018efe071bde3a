"""What the metadata of a checkpoint says, without its arrays: how far the run has come, its config
and data, and the state of the loss scaling. Whatever a file says there, it is taken or refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from passl.errors import CheckpointError

PROGRESS = "progress"
CONFIG = "config"
SCALER = "loss_scaler"
DATA = "data"
"""Keys of the metadata."""
_LARGEST = 2**40
"""No count of a run comes near it: at 1000 a second it takes 35 years."""
_SCALER_RANGES = {
    "incr_ratio": (float, 1.0, math.inf),
    "decr_ratio": (float, 0.0, 1.0),
    "incr_every_n_steps": (int, 1, _LARGEST),
    "decr_every_n_nan_or_inf": (int, 1, _LARGEST),
    "incr_count": (int, 0, _LARGEST),
    "decr_count": (int, 0, _LARGEST),
    "use_dynamic_loss_scaling": (bool, False, True),
}
ANEW = "go on from another checkpoint, or start anew with model.pretrained"


@dataclass
class Progress:
    """How far a run has come.

    Args:
        epoch: epochs finished, evaluation included.
        samples: of the epoch that is not finished, over all ranks.
        step: steps finished, over all epochs.
        pending: losses of the last steps, which no line of metrics covers yet.
        skipped: steps that were passed over because their loss was not finite.
        best_top1: the best score so far, in per cent; -1 before the first.
        best_epoch: the epoch, from 1, that had it; 0 before the first.
        world_size: processes of the run; 0 in checkpoints of version 0.1, which do not say.
        global_batch: samples of its steps over all ranks; 0 likewise.
    """

    epoch: int = 0
    samples: int = 0
    step: int = 0
    pending: list[float] = field(default_factory=list)
    skipped: int = 0
    best_top1: float = -1.0
    best_epoch: int = 0
    world_size: int = 0
    global_batch: int = 0


def damaged(path: Path, what: str) -> CheckpointError:
    """The error of a checkpoint whose content cannot be that of a run."""
    return CheckpointError(f"{path}: damaged: {what}; {ANEW}")


def read_json(path: Path, metadata: Mapping[str, str], key: str, kind: type) -> Any:
    """The JSON under a key of the metadata.

    Raises:
        CheckpointError: there is none, or it is of another kind.
    """
    try:
        value = json.loads(metadata[key])
    except KeyError:
        raise damaged(path, f"it has no {key}") from None
    except (ValueError, RecursionError):
        raise damaged(path, f"its {key} is not JSON") from None
    if type(value) is not kind:
        raise damaged(path, f"its {key} is no {kind.__name__}")
    return value


def _is_number(value: Any, kind: type, lowest: float, highest: float) -> bool:
    kinds = (int, float) if kind is float else (kind,)
    return type(value) in kinds and lowest <= value <= highest and math.isfinite(value)


def read_progress(path: Path, metadata: Mapping[str, str]) -> tuple[Progress, dict[str, Any]]:
    """The progress, and the config that the run had then."""
    told = read_json(path, metadata, PROGRESS, dict)
    config = read_json(path, metadata, CONFIG, dict)
    for one in fields(Progress):
        if one.name not in told:
            if one.name in ("epoch", "samples", "step"):
                raise damaged(path, f"its {PROGRESS} has no {one.name}")
            continue
        value = told[one.name]
        if one.name == "pending":
            right = type(value) is list and all(
                _is_number(loss, float, -math.inf, math.inf) for loss in value
            )
        elif one.name == "best_top1":
            right = _is_number(value, float, -1, 100)
        else:
            right = _is_number(value, int, 0, _LARGEST)
        if not right:
            raise damaged(path, f"its {PROGRESS} has {one.name} {_short(value)}")
    epochs = config.get("epochs")
    if type(epochs) is int and told["epoch"] > epochs:
        raise damaged(path, f"it has done {told['epoch']} of {epochs} epochs")
    known = {one.name for one in fields(Progress)}
    return Progress(**{key: value for key, value in told.items() if key in known}), config


def _short(value: Any) -> str:
    try:
        return f"{value!r:.40}"
    except (ValueError, RecursionError):  # an int of very many digits; lists within lists
        return "of no sense"


def read_scaler(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The state of the loss scaling; nothing for a run that had none."""
    scaler = read_json(path, {SCALER: "{}", **metadata}, SCALER, dict)
    if not scaler:
        return scaler
    if scaler.keys() != {"scale", *_SCALER_RANGES}:
        raise damaged(path, f"its {SCALER} has other entries than a scaler")
    wrong = [key for key, rule in _SCALER_RANGES.items() if not _is_number(scaler[key], *rule)]
    scale = scaler["scale"]
    if (
        type(scale) is not list
        or len(scale) != 1
        or not _is_number(scale[0], float, 2.0**-126, 2.0**127)
    ):
        wrong.append("scale")
    if wrong:
        raise damaged(path, f"its {SCALER} has {wrong[0]} {_short(scaler[wrong[0]])}")
    return scaler


def read_data(path: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Fingerprints of the data; nothing in checkpoints of earlier versions."""
    data = read_json(path, {DATA: "{}", **metadata}, DATA, dict)
    if not all(type(part) is dict for part in data.values()):
        raise damaged(path, f"its {DATA} is {_short(data)}")
    return data
