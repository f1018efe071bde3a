"""The state of a run in one file, complete or absent.

A checkpoint is a `.safetensors` file: the model's weights under their own names, the optimizer's
state under `optimizer/NAME/ACCUMULATOR`, and what is no array as JSON in the metadata. It is data
only, nothing in it can run; any reader of weights can use it. There is no generator's state in it
because there is none to keep (see `step.train_step`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import passl
from passl.optim.optimizers import trainable
from passl.porting.files import NUMERICS, OPTIMIZER, OURS
from passl.porting.load import set_weights
from passl.utils.errors import CheckpointError
from passl.utils.files import write_atomically

_PROGRESS = "progress"
_CONFIG = "config"


@dataclass
class Progress:
    """How far a run has come.

    Args:
        epoch: epochs finished.
        step: steps finished, over all epochs.
        best_top1: the best score so far, in per cent; -1 before the first.
        best_epoch: the epoch, from 1, that had it; 0 before the first.
    """

    epoch: int = 0
    step: int = 0
    best_top1: float = -1.0
    best_epoch: int = 0


def save_checkpoint(
    path: Path,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    progress: Progress,
    config: Mapping[str, Any],
    classes: list[str],
) -> None:
    """Write the state of a run, atomically.

    Args:
        config: the resolved config, as plain data.
        classes: names of the labels, so that a prediction can say them.
    """
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    state = optimizer.state_dict()
    for name, parameter in trainable(model):
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
    metadata = {
        OURS: passl.__version__,
        _PROGRESS: json.dumps(asdict(progress)),
        _CONFIG: json.dumps(config),
        "classes": json.dumps(classes),
        NUMERICS: json.dumps(getattr(model, "numerics", {})),
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomically(path, lambda temporary: save_file(arrays, temporary, metadata))


def load_checkpoint(
    path: Path, model: nn.Layer, optimizer: paddle.optimizer.Optimizer
) -> tuple[Progress, dict[str, Any]]:
    """Put model and optimizer into the state that was saved.

    Returns:
        The progress, and the config that the run had then.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or another network's.
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
    set_weights(
        model,
        {name: array for name, array in arrays.items() if not name.startswith(OPTIMIZER)},
        str(path),
    )
    state = {}
    for name, parameter in trainable(model):
        prefix = f"{OPTIMIZER}{name}/"
        own = {
            key.removeprefix(prefix): array
            for key, array in arrays.items()
            if key.startswith(prefix)
        }
        state |= {
            f"{parameter.name}_{accumulator}": paddle.to_tensor(array)
            for accumulator, array in own.items()
        }
    optimizer.set_state_dict(state)
    known = {field.name for field in fields(Progress)}
    progress = {
        key: value for key, value in json.loads(metadata[_PROGRESS]).items() if key in known
    }
    return Progress(**progress), json.loads(metadata[_CONFIG])
