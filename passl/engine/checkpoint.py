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
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

import passl
from passl.engine.learner import Learner
from passl.engine.metrics import MetricLog
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
from passl.engine.run_folder import BEST, KEPT, LAST, PREVIOUS
from passl.errors import CheckpointError, RunError, no_file
from passl.io.files import write_atomically
from passl.logging import get_logger
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
from passl.utils.schema import validated
from passl.utils.types import PositiveInt

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


def save_checkpoint(
    path: Path,
    learner: Learner,
    progress: Progress,
    config: Mapping[str, Any],
    classes: list[str],
    *,
    first: Sequence[Path] = (),
    optimizer_state: Mapping[str, np.ndarray] | None = None,
    previous: Path | None = None,
    data: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write the state of a run, atomically.

    Args:
        config: the resolved config, as plain data.
        classes: names of the labels, for predictions.
        first: other names that the file gets before `path`.
        optimizer_state: of `gather_optimizer_state`, which is called if it is null.
        previous: another name for the file that is replaced.
        data: fingerprints of the parts of the data.

    Raises:
        RunError: a number in the state is not finite.
        OSError: the file cannot be written; `path` is as it was.
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
    _check_finite(arrays, progress.step)
    metadata[_CHECKSUM] = _checksum(sorted(arrays.items()), metadata)

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


@validated
class Saver:
    """Keeps the last checkpoint of a run, the previous one, the best, and some on the way.

    Args:
        folder: of the run.
        learner: whose state is saved. Every rank has a saver; the first one writes.
        metrics: flushed before each checkpoint.
        config: the resolved config, as plain data.
        classes: names of the labels.
        data: fingerprints of the parts of the data.
        interval: steps between two checkpoints within an epoch; null for none. There is always one
            at its end.
        keep_interval: steps between two checkpoints that are kept, as `step_N.safetensors`; null
            for none.
        on_error: `stop` ends a run whose state cannot be written; `continue` warns and tries again
            with the next checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        learner: Learner,
        metrics: MetricLog,
        config: Mapping[str, Any],
        classes: list[str],
        data: Mapping[str, Mapping[str, Any]] | None = None,
        /,
        *,
        interval: PositiveInt | None = None,
        keep_interval: PositiveInt | None = None,
        on_error: Literal["stop", "continue"] = "stop",
    ):
        self.folder, self.learner, self.metrics = folder, learner, metrics
        self.config, self.classes, self.data = config, classes, data
        self.interval, self.keep_interval, self.on_error = interval, keep_interval, on_error

    def is_due(self, step: int) -> bool:
        """Whether to save after that step, within the epoch."""
        return any(each and step % each == 0 for each in (self.interval, self.keep_interval))

    def save(self, progress: Progress, is_best: bool = False) -> bool:
        """Write the state; every rank calls it. The last and the previous checkpoint are complete,
        whenever the process is killed.

        Returns:
            Whether it was written; false only with `on_error: continue`.

        Raises:
            RunError: the state cannot be written, or is not finite. Earlier ones are kept.
        """
        ranks = self.learner.ranks
        ranks.average_statistics(dict(self.learner.model.named_parameters()))
        ranks.average_statistics(self.learner.average.averages)
        takes_part = ranks.is_first or self.learner.is_sharded
        state = gather_optimizer_state(self.learner) if takes_part else {}
        saved = True
        if ranks.is_first:
            try:
                self._write(progress, state, is_best)
            except OSError as error:
                saved = False
                message = (
                    f"{self.folder / LAST}: the state after step {progress.step} cannot be "
                    f"written ({error.strerror or error}); earlier ones are intact"
                )
                if self.on_error == "stop":
                    raise RunError(
                        f"{message}. Make room, then continue by --resume auto; with "
                        "checkpoint.on_error: continue a run does not stop for this"
                    ) from None
                get_logger().warning("%s; the run continues", message)
        ranks.wait()
        return saved

    def _write(
        self, progress: Progress, optimizer_state: Mapping[str, np.ndarray], is_best: bool
    ) -> None:
        self.metrics.sync()
        others = [self.folder / BEST] if is_best else []
        if self.keep_interval and progress.step and progress.step % self.keep_interval == 0:
            others.append(self.folder / KEPT.format(progress.step))
        # `best` is written before `last` counts on it: a run killed in between is resumed from an
        # earlier state and comes to the same best again.
        save_checkpoint(
            self.folder / LAST,
            self.learner,
            progress,
            self.config,
            self.classes,
            first=others,
            optimizer_state=optimizer_state,
            previous=self.folder / PREVIOUS,
            data=self.data,
        )
