"""The state of a run in one file, complete or absent.

A checkpoint is a `.safetensors` file: the model's weights under their own names, the optimizer's
state under `optimizer/NAME/ACCUMULATOR`, the class names as JSON in bytes under `names/classes`,
and what else is no array as JSON in the metadata. Where the weights are averaged, the averages
stand under the weights' names, because they are what scores, and the trained weights under
`trained/NAME`. It is data only, nothing in it can run; any reader of weights can use it. There is
no generator's state in it because there is none to keep (see `step.train_step`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from safetensors import SafetensorError
from safetensors.numpy import save_file

import passl
from passl.engine.learner import Learner
from passl.engine.progress import (
    ANEW,
    CONFIG,
    DATA,
    PROGRESS,
    SCALER,
    Progress,
    damaged,
    read_data,
    read_json,
    read_progress,
    read_scaler,
)
from passl.errors import CheckpointError, RunError, no_file
from passl.io.files import write_atomically
from passl.io.limits import in_line
from passl.logging import get_logger
from passl.porting.load import set_weights
from passl.porting.readers.safetensors import Array, StoredArray, open_safetensors
from passl.porting.weight_file import (
    NAMES,
    NO_WEIGHTS,
    NUMERICS,
    OPTIMIZER,
    OURS,
    TRAINED,
    WeightFile,
    own_file,
    pack_classes,
)

_MASTER, _OF_MASTER = "/master_weight", "/fp32_master_0_"
_STATELESS = "without_optimizer_state"
_CHECKSUM = "sha256"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint's file holds. It is whole.

    Args:
        path: the file.
        arrays: name -> array, still in the file: each is read when it is needed, so that never more
            than one of them takes memory beside what is made of it.
        metadata: name -> text, without the checksum.
        sha256: the checksum of both.
    """

    path: Path
    arrays: dict[str, StoredArray]
    metadata: dict[str, str]
    sha256: str

    @property
    def data(self) -> dict[str, dict[str, Any]]:
        """Fingerprints of the parts of the data, see `data.fingerprint`; empty in checkpoints of
        earlier versions.
        """
        return read_data(self.path, self.metadata)

    def weight_file(self) -> WeightFile:
        """Its weights, as a `Model` loads them.

        Raises:
            CheckpointError: they are no floating-point numbers, or the class names are damaged.
        """
        return own_file(self.path, _with_masters(self.path, self.arrays), self.metadata)


def save_checkpoint(
    path: Path,
    learner: Learner,
    progress: Progress,
    config: Mapping[str, Any],
    classes: list[str],
    first: Sequence[Path] = (),
    optimizer_state: Mapping[str, np.ndarray] | None = None,
    previous: Path | None = None,
    data: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write the state of a run, atomically.

    Args:
        config: the resolved config, as plain data.
        classes: names of the labels, so that a prediction can say them.
        first: other names that the file gets before `path`.
        optimizer_state: as `gather_optimizer_state` gives it, which null calls.
        previous: another name for the file that is replaced.
        data: fingerprints of the parts of the data.

    Raises:
        RunError: a weight is not finite. Such a state is not worth keeping.
        OSError: the file cannot be written; `path` is as it was.
    """
    model = learner.model
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if averages := learner.average.averages:
        arrays = {TRAINED + name: array for name, array in arrays.items()}
        arrays |= {name: average.numpy() for name, average in averages.items()}
    arrays |= gather_optimizer_state(learner) if optimizer_state is None else optimizer_state
    stateless = _stateless(learner, arrays)
    arrays |= pack_classes(classes)
    scaler = learner.precision.scaler.state_dict()
    metadata = {
        OURS: passl.__version__,
        PROGRESS: json.dumps(asdict(progress)),
        CONFIG: json.dumps(config),
        SCALER: json.dumps({key: np.asarray(value).tolist() for key, value in scaler.items()}),
        _STATELESS: json.dumps(stateless),
        NUMERICS: json.dumps(getattr(model, "numerics", {})),
        DATA: json.dumps(data or {}),
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise RunError(
                f"{name} is not finite after step {progress.step}: training has diverged. The last "
                "checkpoint is kept; a lower optimizer.lr, a longer warmup or optimizer.grad_clip "
                "can help"
            )
    metadata[_CHECKSUM] = _checksum(sorted(arrays.items()), metadata)

    def write(temporary: Path) -> None:
        try:
            save_file(arrays, temporary, metadata)
        except SafetensorError as error:  # what the system said is in its text only
            raise OSError(str(error)) from None

    write_atomically(path, write, first, previous)


def gather_optimizer_state(learner: Learner) -> dict[str, np.ndarray]:
    """The optimizer's state of all parameters, as a checkpoint has it. Where it is spread over the
    ranks, all of them must call this, and only the first one gets it.
    """
    state = learner.optimizer.state_dict()
    arrays = {}
    for name, parameter in learner.model.named_parameters():
        # Paddle keys the state by generated names, which another process may give to other
        # parameters.
        prefix = f"{parameter.name}_"
        own = {
            key.removeprefix(prefix): tensor
            for key, tensor in state.items()
            if key.startswith(prefix)
        }
        arrays |= {
            f"{OPTIMIZER}{name}/{accumulator}": tensor.numpy()
            for accumulator, tensor in own.items()
        }
    if not learner.is_sharded:
        return arrays
    parts = learner.ranks.gather(arrays, to_all=False)
    return {key: array for part in parts for key, array in part.items()}


def read_checkpoint(path: Path) -> Checkpoint:
    """The content of a checkpoint that is whole.

    Raises:
        CheckpointError: the file is missing, damaged, or no checkpoint; or it says what no run can.
    """
    if not path.is_file():  # opening a pipe would wait for ever
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
    told, wrong = metadata.pop(_CHECKSUM, None), []

    def read() -> Iterator[tuple[str, np.ndarray]]:
        for name, stored in sorted(arrays.items()):
            array = np.asarray(stored)
            is_right = array.dtype.kind == "f" and np.isfinite(array).all()
            wrong.extend([] if is_right or name.startswith(NAMES) else [name])
            yield name, array

    sha256 = _checksum(read(), metadata)
    if told != sha256:
        raise CheckpointError(f"{path}: damaged: its content is not what its checksum says")
    if wrong:
        raise damaged(path, f"{wrong[0]} is not made of finite numbers in floating point")
    read_progress(path, metadata)
    read_scaler(path, metadata)
    read_data(path, metadata)
    return Checkpoint(path, arrays, metadata, sha256)


def _checksum(arrays: Iterable[tuple[str, np.ndarray]], metadata: Mapping[str, str]) -> str:
    """SHA-256 of everything in a checkpoint: its arrays in the order of their names, and what it
    says beside the checksum.
    """
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def load_checkpoint(checkpoint: Checkpoint, learner: Learner) -> tuple[Progress, dict[str, Any]]:
    """Put the learner into the state that was saved.

    Returns:
        The progress, and the config that the run had then.

    Raises:
        CheckpointError: it is another network's, or another optimizer's; or it has no trained
            weights beside its averages.
    """
    path, metadata = checkpoint.path, checkpoint.metadata
    progress, config = read_progress(path, metadata)
    arrays = _with_masters(path, checkpoint.arrays)
    weights = {name: array for name, array in arrays.items() if not name.startswith(NO_WEIGHTS)}
    trained = {
        name.removeprefix(TRAINED): array
        for name, array in arrays.items()
        if name.startswith(TRAINED)
    }
    if trained and (strange := weights.keys() - trained.keys()):
        raise damaged(path, f"it has an average of {min(strange)}, which it has not trained")
    for name, average in learner.average.averages.items():
        if trained and (name not in weights or weights[name].shape != tuple(average.shape)):
            raise damaged(path, f"it has no average of {name}, or one of another shape")
    set_weights(learner.model, trained or weights, str(path))
    learner.average.restore(weights)
    _check_state(path, learner, arrays, metadata, progress, config)
    _restore_optimizer(path, learner, arrays)
    learner.precision.scaler.restore(read_scaler(path, metadata))
    return progress, config


def _stateless(learner: Learner, arrays: Mapping[str, Any]) -> list[str]:
    """The optimized parameters that have no state among the arrays."""
    known = {_parameter_of(key) for key in arrays if key.startswith(OPTIMIZER)}
    optimized = {parameter.name for parameter in learner.optimizer._parameter_list}
    names = ((name, one.name) for name, one in learner.model.named_parameters())
    return [name for name, own in names if own in optimized and name not in known]


def _parameter_of(key: str) -> str:
    """The parameter that `optimizer/NAME/ACCUMULATOR` belongs to."""
    return key.removeprefix(OPTIMIZER).rpartition("/")[0]


def _check_state(
    path: Path,
    learner: Learner,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str],
    progress: Progress,
    config: Mapping[str, Any],
) -> None:
    """Refuse a state of the optimizer that lacks parameters, or has some that are not there.

    A parameter has none until it is trained. Which those are, a checkpoint says; of an older one,
    those that its run froze, or all before the first step was made. A newer one must not say it of
    all after that step, and is warned of if it says it of one that was not frozen.
    """
    own = {name for name, _ in learner.model.named_parameters()}
    strange = [k for k in arrays if k.startswith(OPTIMIZER) and _parameter_of(k) not in own]
    if strange:
        raise CheckpointError(
            f"{path}: the state of another optimizer; start anew with model.pretrained: {path}; "
            f"the network has no parameter for {strange[0]}"
        )
    missing = set(_stateless(learner, arrays))
    lost: set[str] = set()
    says = _STATELESS in metadata
    if says:
        told = read_json(path, metadata, _STATELESS, list)
        lost = missing.difference(name for name in told if type(name) is str)
    any_state = any(key.startswith(OPTIMIZER) for key in arrays)
    # With float16 each step so far may have overflowed.
    scaled = read_scaler(path, metadata).get("incr_count") == 0
    begun = progress.step > progress.skipped
    unfrozen = set()
    if begun and (any_state or not (scaled or _is_stateless(learner))):
        freeze = config.get("freeze")
        patterns = freeze.get("names", ()) if isinstance(freeze, Mapping) else ()
        unfrozen = {n for n in missing if not any(fnmatchcase(n, str(each)) for each in patterns)}
    if not (says and any_state):
        lost |= unfrozen
    if lost:
        raise damaged(
            path, f"it has no state of the optimizer for {len(lost)} parameters ({min(lost)})"
        )
    if unfrozen:
        get_logger().warning(
            "%s has no state of the optimizer for %d parameters that were not frozen (%s): theirs "
            "begins anew",
            path,
            len(unfrozen),
            min(unfrozen),
        )


def _is_stateless(learner: Learner) -> bool:
    """Whether the optimizer, which is new, keeps nothing from step to step, as SGD. If it does, it
    is not to be used after this.
    """
    _make_state(learner, learner.optimizer._parameter_list[:1])
    return not _state_of(learner)


def _make_state(learner: Learner, parameters: list[Any]) -> None:
    """Let the optimizer have the state of parameters that Paddle makes with their first step."""
    block = paddle.static.default_main_program().global_block()
    learner.optimizer._create_accumulators(block, parameters)


def _state_of(learner: Learner) -> dict[str, Any]:
    """The optimizer's tensors, by Paddle's generated names."""
    state = learner.optimizer.state_dict()
    return {k: v for k, v in state.items() if k not in ("LR_Scheduler", "master_weights")}


def _restore_optimizer(path: Path, learner: Learner, arrays: Mapping[str, Array]) -> None:
    known, keys_of = [], {}
    for name, parameter in learner.model.named_parameters():
        prefix = f"{OPTIMIZER}{name}/"
        keys = [key for key in arrays if key.startswith(prefix)]
        if learner.is_sharded and not learner.optimizer.owns(parameter):
            continue
        known += [parameter] if keys else []
        keys_of |= {f"{parameter.name}_{key.removeprefix(prefix)}": key for key in keys}
    foreign = f"{path}: the state of another optimizer; start anew with model.pretrained: {path}"
    if known:
        # Paddle's `set_state_dict` would keep all arrays until the first step.
        _make_state(learner, known)
    made = _state_of(learner)
    if unknown := keys_of.keys() - made.keys():
        raise CheckpointError(f"{foreign}; this one has no {keys_of[min(unknown)]}")
    if known and (missing := made.keys() - keys_of.keys()):
        raise CheckpointError(f"{foreign}; it lacks {min(missing)}")
    for name, key in keys_of.items():
        try:
            made[name].set_value(np.asarray(arrays[key]))
        except (AssertionError, ValueError, TypeError, RuntimeError) as error:  # shapes, types
            raise CheckpointError(f"{foreign}; {key}: Paddle says: {in_line(error)}") from None


def _with_masters(path: Path, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays of a checkpoint, without what version 0.1 wrote with `amp.level: O2`: weights in half
    precision whose float32 copies, with a state of their own, belonged to the optimizer.
    """
    masters = {
        key.removeprefix(OPTIMIZER).removesuffix(_MASTER): key
        for key in arrays
        if key.startswith(OPTIMIZER) and key.endswith(_MASTER)
    }
    for key in arrays:
        if _OF_MASTER in key and _parameter_of(key) not in masters:
            raise damaged(path, f"{key} is the state of float32 weights that it does not have")
    found = {key.replace(_OF_MASTER, "/"): array for key, array in arrays.items()}
    if len(found) < len(arrays):
        raise damaged(path, "it has the same state of the optimizer twice")
    for name, key in masters.items():
        found[TRAINED + name if TRAINED + name in found else name] = found.pop(key)
    return found
