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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import passl
from passl.engine.learner import Learner
from passl.porting.files import NO_WEIGHTS, NUMERICS, OPTIMIZER, OURS, TRAINED, pack_classes
from passl.porting.load import set_weights
from passl.utils.errors import CheckpointError, RunError
from passl.utils.files import write_atomically

_PROGRESS = "progress"
_CONFIG = "config"
_SCALER = "loss_scaler"
_MASTER, _OF_MASTER = "/master_weight", "/fp32_master_0_"
_CHECKSUM = "sha256"


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


def save_checkpoint(
    path: Path,
    learner: Learner,
    progress: Progress,
    config: Mapping[str, Any],
    classes: list[str],
    first: Sequence[Path] = (),
    optimizer_state: Mapping[str, np.ndarray] | None = None,
    previous: Path | None = None,
) -> None:
    """Write the state of a run, atomically.

    Args:
        config: the resolved config, as plain data.
        classes: names of the labels, so that a prediction can say them.
        first: other names that the file gets before `path`.
        optimizer_state: as `gather_optimizer_state` gives it, which null calls.
        previous: another name for the file that is replaced.

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
    arrays |= pack_classes(classes)
    scaler = learner.precision.scaler.state_dict()
    metadata = {
        OURS: passl.__version__,
        _PROGRESS: json.dumps(asdict(progress)),
        _CONFIG: json.dumps(config),
        _SCALER: json.dumps({key: np.asarray(value).tolist() for key, value in scaler.items()}),
        NUMERICS: json.dumps(getattr(model, "numerics", {})),
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise RunError(
                f"{name} is not finite after step {progress.step}: training has diverged. The last "
                "checkpoint is kept; a lower optimizer.lr, a longer warm-up or optimizer.grad_clip "
                "can help"
            )
    metadata[_CHECKSUM] = _checksum(arrays, metadata)

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


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a checkpoint that is whole.

    Raises:
        CheckpointError: the file is missing, damaged, or no checkpoint.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from None
    if _PROGRESS not in metadata:
        raise CheckpointError(
            f"{path}: weights without the state of a run; load them with model.pretrained instead "
            "of resuming"
        )
    if metadata.pop(_CHECKSUM, None) != _checksum(arrays, metadata):
        raise CheckpointError(f"{path}: damaged: its content is not what its checksum says")
    return arrays, metadata


def _checksum(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256 of everything in a checkpoint."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def load_checkpoint(path: Path, learner: Learner) -> tuple[Progress, dict[str, Any]]:
    """Put the learner into the state that was saved.

    Returns:
        The progress, and the config that the run had then.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or another network's; or it
            has no trained weights beside its averages.
    """
    arrays, metadata = read_checkpoint(path)
    arrays = _with_masters(arrays)
    weights = {name: array for name, array in arrays.items() if not name.startswith(NO_WEIGHTS)}
    trained = {
        name.removeprefix(TRAINED): array
        for name, array in arrays.items()
        if name.startswith(TRAINED)
    }
    set_weights(learner.model, trained or weights, str(path))
    learner.average.restore(weights)
    known, keys_of = [], {}
    for name, parameter in learner.model.named_parameters():
        prefix = f"{OPTIMIZER}{name}/"
        keys = [key for key in arrays if key.startswith(prefix)]
        if learner.is_sharded and not learner.optimizer.owns(parameter):
            continue
        known += [parameter] if keys else []
        keys_of |= {f"{parameter.name}_{key.removeprefix(prefix)}": key for key in keys}
    state = {name: paddle.to_tensor(arrays[key]) for name, key in keys_of.items()}
    learner.optimizer.set_state_dict(state)
    if known:
        # Paddle would take the state in with the next step, and miss that of parameters that have
        # none because they have been frozen until then.
        block = paddle.static.default_main_program().global_block()
        foreign = "the state of another optimizer; start anew with model.pretrained"
        try:
            learner.optimizer._create_accumulators(block, known)
        except AssertionError as error:
            raise CheckpointError(f"{path}: {foreign}: {path}; Paddle says: {error}") from None
        if unknown := keys_of.keys() - learner.optimizer.state_dict().keys():
            name = keys_of[min(unknown)]
            raise CheckpointError(f"{path}: {foreign}: {path}; this one has no {name}")
    scaler = json.loads(metadata.get(_SCALER, "{}"))
    if scaler:
        learner.precision.scaler.load_state_dict(scaler)
    names = {one.name for one in fields(Progress)}
    progress = {
        key: value for key, value in json.loads(metadata[_PROGRESS]).items() if key in names
    }
    return Progress(**progress), json.loads(metadata[_CONFIG])


def _with_masters(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of a checkpoint, without what version 0.1 wrote with `amp.level: O2`: weights in half
    precision whose float32 copies, with a state of their own, belonged to the optimizer.
    """
    masters = {
        key.removeprefix(OPTIMIZER).removesuffix(_MASTER): key
        for key in arrays
        if key.endswith(_MASTER)
    }
    found = {key.replace(_OF_MASTER, "/"): array for key, array in arrays.items()}
    for name, key in masters.items():
        found[TRAINED + name if TRAINED + name in found else name] = found.pop(key)
    return found
