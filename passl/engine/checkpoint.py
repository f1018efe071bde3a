"""The state of a run in one file, complete or absent.

A checkpoint is a `.safetensors` file: the model's weights under their names, the optimizer's state
under `optimizer/PARAMETER/ACCUMULATOR`, the class names as JSON in bytes under `names/classes`, and
everything else as JSON in the metadata. If the weights are averaged, the averages, which are
evaluated, have the weights' names, and the trained weights are under `trained/NAME`. A checkpoint
is data, nothing in it is executed, and any reader of weights can use it. It has no state of random
generators, because a run needs none (see `step.train_step`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

import passl
from passl.engine.learner import Learner
from passl.engine.optimizer_state import (
    STATELESS,
    check_optimizer_state,
    gather_optimizer_state,
    restore_optimizer,
    stateless_parameters,
    with_masters,
)
from passl.engine.progress import (
    ANEW,
    CONFIG,
    DATA,
    PROGRESS,
    SCALER,
    Progress,
    damaged,
    read_data,
    read_progress,
    read_scaler,
)
from passl.errors import CheckpointError, RunError, no_file
from passl.io.files import write_atomically
from passl.porting.load import set_weights
from passl.porting.readers.safetensors import StoredArray, open_safetensors
from passl.porting.weight_file import (
    NAMES,
    NO_WEIGHTS,
    NUMERICS,
    OURS,
    TRAINED,
    WeightFile,
    own_file,
    pack_classes,
)

_CHECKSUM = "sha256"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a complete checkpoint.

    Args:
        path: the file.
        arrays: name -> array in the file, read when it is used, so that one at a time is in memory.
        metadata: name -> text, without the checksum.
        sha256: the checksum of both.
    """

    path: Path
    arrays: dict[str, StoredArray]
    metadata: dict[str, str]
    sha256: str

    @property
    def data(self) -> dict[str, dict[str, Any]]:
        """Fingerprints of the parts of the data, see `data.fingerprint`; empty in version 0.1."""
        return read_data(self.path, self.metadata)

    def weight_file(self) -> WeightFile:
        """The weights, as a `Model` loads them.

        Raises:
            CheckpointError: they are not floating-point numbers, or the class names are damaged.
        """
        return own_file(self.path, with_masters(self.path, self.arrays), self.metadata)


@dataclass(frozen=True)
class State:
    """A copy of the state of a run, which does not change as the run goes on.

    Args:
        arrays: name -> array.
        metadata: name -> text, without the checksum.
        step: steps made so far.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]
    step: int


def save_checkpoint(path: Path, learner: Learner, progress: Progress, *others: Any) -> None:
    """Copy the state of a run and write it; the other arguments are those of `copy_state`."""
    write_state(path, copy_state(learner, progress, *others))


def copy_state(
    learner: Learner,
    progress: Progress,
    config: Mapping[str, Any],
    classes: list[str],
    optimizer_state: Mapping[str, np.ndarray] | None = None,
    data: Mapping[str, Mapping[str, Any]] | None = None,
) -> State:
    """Copy the state of a run from the device.

    Args:
        config: the resolved config, as plain data.
        classes: names of the labels, for predictions.
        optimizer_state: of `gather_optimizer_state`, which is called if it is null.
        data: fingerprints of the parts of the data.
    """
    model = learner.model
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if averages := learner.average.averages:
        arrays = {TRAINED + name: array for name, array in arrays.items()}
        arrays |= {name: average.numpy() for name, average in averages.items()}
    arrays |= gather_optimizer_state(learner) if optimizer_state is None else optimizer_state
    stateless = stateless_parameters(learner, arrays)
    arrays |= pack_classes(classes)
    scaler = learner.precision.scaler.state_dict()
    metadata = {
        OURS: passl.__version__,
        PROGRESS: json.dumps(asdict(progress)),
        CONFIG: json.dumps(config),
        SCALER: json.dumps({key: np.asarray(value).tolist() for key, value in scaler.items()}),
        STATELESS: json.dumps(stateless),
        NUMERICS: json.dumps(getattr(model, "numerics", {})),
        DATA: json.dumps(data or {}),
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return State(arrays, metadata, progress.step)


def write_state(
    path: Path, state: State, first: Sequence[Path] = (), previous: Path | None = None
) -> None:
    """Write a checkpoint, atomically.

    Args:
        first: other names that the file gets before `path`.
        previous: another name for the file that is replaced.

    Raises:
        RunError: a number in the state is not finite.
        OSError: the file cannot be written; `path` is as it was.
    """
    arrays = state.arrays
    _check_finite(arrays, state.step)
    checksum = _checksum(sorted(arrays.items()), state.metadata)
    metadata = state.metadata | {_CHECKSUM: checksum}

    def write(temporary: Path) -> None:
        try:
            save_file(arrays, temporary, metadata)
        except SafetensorError as error:  # only its text has the system's message
            raise OSError(str(error)) from None

    write_atomically(path, write, first, previous)


def _check_finite(arrays: Mapping[str, np.ndarray], step: int) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise RunError(
                f"{name} is not finite after step {step}: training has diverged. The last "
                "checkpoint is kept; a lower optimizer.lr, a longer warmup or optimizer.grad_clip "
                "can help"
            )


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check all of its content.

    Raises:
        CheckpointError: the file is missing, damaged, not a checkpoint, or not one of a run.
    """
    if not path.is_file():  # opening a pipe would block
        raise CheckpointError(f"{path}: {no_file(path, 'checkpoint')}")
    try:
        arrays, metadata = open_safetensors(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}, or {ANEW}") from None
    if PROGRESS not in metadata:
        raise CheckpointError(
            f"{path}: weights without the state of a run; load them with model.pretrained instead "
            "of resuming"
        )
    stored_sha256, wrong = metadata.pop(_CHECKSUM, None), []

    def read() -> Iterator[tuple[str, np.ndarray]]:
        for name, stored in sorted(arrays.items()):
            array = np.asarray(stored)
            is_right = array.dtype.kind == "f" and np.isfinite(array).all()
            wrong.extend([] if is_right or name.startswith(NAMES) else [name])
            yield name, array

    sha256 = _checksum(read(), metadata)
    if stored_sha256 != sha256:
        raise CheckpointError(f"{path}: damaged: its content is not what its checksum says")
    if wrong:
        raise damaged(path, f"{wrong[0]} is not made of finite numbers in floating point")
    read_progress(path, metadata)
    read_scaler(path, metadata)
    read_data(path, metadata)
    return Checkpoint(path, arrays, metadata, sha256)


def _checksum(arrays: Iterable[tuple[str, np.ndarray]], metadata: Mapping[str, str]) -> str:
    """SHA-256 of a checkpoint: of the metadata, and of the arrays in the order of their names."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    return digest.hexdigest()


def load_checkpoint(checkpoint: Checkpoint, learner: Learner) -> tuple[Progress, dict[str, Any]]:
    """Put the learner into the state that was saved.

    Returns:
        The progress, and the config that the run had then.

    Raises:
        CheckpointError: it is for another network or optimizer, or averages lack their trained
            weights.
    """
    path, metadata = checkpoint.path, checkpoint.metadata
    progress, config = read_progress(path, metadata)
    arrays = with_masters(path, checkpoint.arrays)
    weights = {name: array for name, array in arrays.items() if not name.startswith(NO_WEIGHTS)}
    trained = {
        name.removeprefix(TRAINED): array
        for name, array in arrays.items()
        if name.startswith(TRAINED)
    }
    if trained and (untrained := weights.keys() - trained.keys()):
        raise damaged(path, f"it has an average of {min(untrained)}, which it has not trained")
    for name, average in learner.average.averages.items():
        if trained and (name not in weights or weights[name].shape != tuple(average.shape)):
            raise damaged(path, f"it has no average of {name}, or one of another shape")
    set_weights(learner.model, trained or weights, str(path))
    learner.average.restore(weights)
    check_optimizer_state(path, learner, arrays, metadata, progress, config)
    restore_optimizer(path, learner, arrays)
    learner.precision.scaler.restore(read_scaler(path, metadata))
    return progress, config
