"""What the metadata of a checkpoint says: progress of the run, its config and data, and the state
of the loss scaling. A file may be crafted, so everything is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le, Len
from pydantic import AliasChoices, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from passl.errors import CheckpointError

PROGRESS = "progress"
CONFIG = "config"
SCALER = "loss_scaler"
DATA = "data"
"""Keys of the metadata."""
ANEW = "continue from another checkpoint, or start a new run with model.pretrained"
Count = Annotated[int, Ge(0), Le(2**40)]
"""No run counts so far: at 1000 a second it takes 35 years."""

_ALSO_BEST_TOP1 = Field(validation_alias=AliasChoices("best_score", "best_top1"))


@dataclass
class Progress:
    """How far a run has come.

    Args:
        epoch: finished epochs, evaluation included.
        samples: of the current epoch, over all ranks.
        step: finished steps, over all epochs.
        pending: losses of the last steps, which no row of metrics covers yet.
        skipped: steps skipped because their loss was not finite.
        best_score: the best so far of the task's selecting score (`evaluation.task.Task.best`), in
            per cent; -1 before the first. Version 0.1 stores it as `best_top1`.
        best_epoch: the epoch of that score, from 1; 0 before the first.
        world_size: processes of the run; 0 in checkpoints of version 0.1, which do not say.
        global_batch: samples of a step over all ranks; 0 likewise.
    """

    __pydantic_config__ = ConfigDict(strict=True)

    epoch: Count = 0
    samples: Count = 0
    step: Count = 0
    pending: list[FiniteFloat] = field(default_factory=list)
    skipped: Count = 0
    best_score: Annotated[FiniteFloat, Ge(-1), Le(100), _ALSO_BEST_TOP1] = -1.0
    best_epoch: Count = 0
    world_size: Count = 0
    global_batch: Count = 0


class _Scaler(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # type: ignore[misc]

    scale: Annotated[list[Annotated[float, Ge(2.0**-126), Le(2.0**127)]], Len(1, 1)]
    incr_ratio: Annotated[FiniteFloat, Ge(1)]
    decr_ratio: Annotated[float, Ge(0), Le(1)]
    incr_every_n_steps: Annotated[Count, Ge(1)]
    decr_every_n_nan_or_inf: Annotated[Count, Ge(1)]
    incr_count: Count
    decr_count: Count
    use_dynamic_loss_scaling: bool


def damaged(path: Path, what: str) -> CheckpointError:
    """The error of a checkpoint whose content cannot be that of a run."""
    return CheckpointError(f"{path}: damaged: {what}; {ANEW}")


def read_json(path: Path, metadata: Mapping[str, str], key: str, kind: Any) -> Any:
    """The JSON value of a key of the metadata.

    Args:
        kind: its type, for pydantic.

    Raises:
        CheckpointError: there is none, or it is not of that type.
    """
    if key not in metadata:
        raise damaged(path, f"it has no {key}")
    try:
        return TypeAdapter(kind).validate_json(metadata[key])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = "".join(f" {part}" for part in first["loc"])
        raise damaged(path, f"its {key}{place}: {first['msg']}") from None


def read_progress(path: Path, metadata: Mapping[str, str]) -> tuple[Progress, dict[str, Any]]:
    """The progress, and the config that the run had."""
    stored = read_json(path, metadata, PROGRESS, dict[str, Any])
    for name in ("epoch", "samples", "step"):  # what version 0.1 does not store has defaults
        if name not in stored:
            raise damaged(path, f"its {PROGRESS} has no {name}")
    progress = read_json(path, metadata, PROGRESS, Progress)
    config = read_json(path, metadata, CONFIG, dict[str, Any])
    epochs = config.get("epochs")
    if type(epochs) is int and progress.epoch > epochs:
        raise damaged(path, f"its {PROGRESS} has epoch {progress.epoch} of {epochs}")
    return progress, config


def read_scaler(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The state of the loss scaling; empty for a run without it."""
    if not read_json(path, {SCALER: "{}", **metadata}, SCALER, dict[str, Any]):
        return {}
    return read_json(path, metadata, SCALER, _Scaler)


def read_data(path: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Fingerprints of the data; empty in version 0.1."""
    return read_json(path, {DATA: "{}", **metadata}, DATA, dict[str, dict[str, Any]])
