"""The optimizer's state under the names of the model's parameters, as a checkpoint stores it:
`optimizer/PARAMETER/ACCUMULATOR`. (Paddle's own keys have generated names, which another process
may give to other parameters.)
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from passl.engine.learner import Learner
from passl.engine.progress import Progress, damaged, read_json, read_scaler
from passl.errors import CheckpointError
from passl.io.limits import in_line
from passl.logging import get_logger
from passl.porting.readers.safetensors import Array
from passl.porting.weight_file import OPTIMIZER, TRAINED

STATELESS = "without_optimizer_state"
"""Key of the metadata: names of the parameters that had no state yet."""
_MASTER, _OF_MASTER = "/master_weight", "/fp32_master_0_"


def gather_optimizer_state(learner: Learner) -> dict[str, np.ndarray]:
    """The state of all parameters. If it is sharded, every rank calls this, and the first one gets
    all.
    """
    state = learner.optimizer.state_dict()
    arrays = {}
    for name, parameter in learner.model.named_parameters():
        prefix = f"{parameter.name}_"
        for key, tensor in state.items():
            if key.startswith(prefix):
                arrays[f"{OPTIMIZER}{name}/{key.removeprefix(prefix)}"] = tensor.numpy()
    if not learner.is_sharded:
        return arrays
    parts = learner.ranks.gather(arrays, to_all=False)
    return {key: array for part in parts for key, array in part.items()}


def stateless_parameters(learner: Learner, arrays: Mapping[str, Any]) -> list[str]:
    """The optimized parameters that have no state among the arrays."""
    known = {_parameter_of(key) for key in arrays if key.startswith(OPTIMIZER)}
    optimized = {parameter.name for parameter in learner.optimizer._parameter_list}
    names = ((name, one.name) for name, one in learner.model.named_parameters())
    return [name for name, own in names if own in optimized and name not in known]


def check_optimizer_state(
    path: Path,
    learner: Learner,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str],
    progress: Progress,
    config: Mapping[str, Any],
) -> None:
    """Refuse a checkpoint whose optimizer state lacks parameters, or has parameters that the model
    has not.

    A parameter has no state until it is trained. A checkpoint lists those; for one without a list,
    from version 0.1, they are those that its run froze, or all before the first step. After that
    step not all can be listed, and a listed parameter that was not frozen draws a warning.
    """
    own = {name for name, _ in learner.model.named_parameters()}
    unknown = [k for k in arrays if k.startswith(OPTIMIZER) and _parameter_of(k) not in own]
    if unknown:
        raise CheckpointError(
            f"{path}: the state of another optimizer; start a new run with model.pretrained: "
            f"{path}; the network has no parameter for {unknown[0]}"
        )
    missing = set(stateless_parameters(learner, arrays))
    lost: set[str] = set()
    has_list = STATELESS in metadata
    if has_list:
        listed = read_json(path, metadata, STATELESS, list)
        lost = missing.difference(name for name in listed if type(name) is str)
    any_state = any(key.startswith(OPTIMIZER) for key in arrays)
    # With float16 each step so far may have overflowed.
    may_have_overflowed = read_scaler(path, metadata).get("incr_count") == 0
    has_trained = progress.step > progress.skipped
    unfrozen = set()
    if has_trained and (any_state or not (may_have_overflowed or _keeps_nothing(learner))):
        freeze = config.get("freeze")
        patterns = freeze.get("names", ()) if isinstance(freeze, Mapping) else ()
        unfrozen = {n for n in missing if not any(fnmatchcase(n, str(each)) for each in patterns)}
    if not (has_list and any_state):
        lost |= unfrozen
    if lost:
        raise damaged(
            path, f"it has no state of the optimizer for {len(lost)} parameters ({min(lost)})"
        )
    if unfrozen:
        get_logger().warning(
            "%s has no state of the optimizer for %d parameters that were not frozen (%s): theirs "
            "starts at zero",
            path,
            len(unfrozen),
            min(unfrozen),
        )


def restore_optimizer(path: Path, learner: Learner, arrays: Mapping[str, Array]) -> None:
    """Set the state of a new optimizer.

    Raises:
        CheckpointError: the arrays are the state of another optimizer.
    """
    known: list[Any] = []
    keys_of: dict[str, str] = {}
    for name, parameter in learner.model.named_parameters():
        prefix = f"{OPTIMIZER}{name}/"
        keys = [key for key in arrays if key.startswith(prefix)]
        if learner.is_sharded and not learner.optimizer.owns(parameter):
            continue
        known += [parameter] if keys else []
        keys_of |= {f"{parameter.name}_{key.removeprefix(prefix)}": key for key in keys}
    foreign = (
        f"{path}: the state of another optimizer; start a new run with model.pretrained: {path}"
    )
    if known:
        # Paddle's `set_state_dict` would keep all arrays until the first step.
        create_state(learner, known)
    created = _state_of(learner)
    if unknown := keys_of.keys() - created.keys():
        raise CheckpointError(f"{foreign}; this one has no {keys_of[min(unknown)]}")
    if known and (missing := created.keys() - keys_of.keys()):
        raise CheckpointError(f"{foreign}; it lacks {min(missing)}")
    for name, key in keys_of.items():
        try:
            created[name].set_value(np.asarray(arrays[key]))
        except (AssertionError, ValueError, TypeError, RuntimeError) as error:  # shapes, types
            raise CheckpointError(f"{foreign}; {key}: Paddle says: {in_line(error)}") from None


def with_masters(path: Path, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays of a checkpoint, with the float32 weights of version 0.1 under the weights' names.

    With `amp.level: O2` that version stored weights in half precision. Their float32 copies, with
    their state, belonged to the optimizer.
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


def _parameter_of(key: str) -> str:
    """The parameter of the key `optimizer/PARAMETER/ACCUMULATOR`."""
    return key.removeprefix(OPTIMIZER).rpartition("/")[0]


def _keeps_nothing(learner: Learner) -> bool:
    """Whether the optimizer, which is new, has no state, as SGD. If it has, it must not be used
    after this.
    """
    create_state(learner, learner.optimizer._parameter_list[:1])
    return not _state_of(learner)


def create_state(learner: Learner, parameters: list[Any]) -> None:
    """Create the state of parameters, which Paddle does in their first step."""
    block = paddle.static.default_main_program().global_block()
    learner.optimizer._create_accumulators(block, parameters)


def _state_of(learner: Learner) -> dict[str, Any]:
    """The optimizer's tensors, by Paddle's generated names."""
    state = learner.optimizer.state_dict()
    return {k: v for k, v in state.items() if k not in ("LR_Scheduler", "master_weights")}
