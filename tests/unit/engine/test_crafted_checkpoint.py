"""Whatever a checkpoint says, it is read, or refused in one line that names a way out."""

from __future__ import annotations

import json
import os
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from passl.distributed.ranks import Ranks
from passl.engine.checkpoint import _checksum as checksum
from passl.engine.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from passl.engine.learner import Learner, build_learner
from passl.engine.progress import Progress
from passl.engine.resume import compare
from passl.engine.step import train_step
from passl.errors import CheckpointError
from passl.modeling import Model
from passl.utils.config import get_config
from tests.stress.fuzzing import read_safetensors

WEIGHT = "backbone.blocks.0.mlp.fc1.weight"
MOMENT, POWER = f"optimizer/{WEIGHT}/moment1_0", f"optimizer/{WEIGHT}/beta2_pow_acc_0"
MASTERS_MOMENT = f"optimizer/{WEIGHT}/fp32_master_0_moment1_0"
MASTER = f"optimizer/{WEIGHT}/master_weight"
SCALER = {
    "scale": [1024.0],
    "incr_ratio": 2.0,
    "decr_ratio": 0.5,
    "incr_every_n_steps": 2000,
    "decr_every_n_nan_or_inf": 1,
    "incr_count": 3,
    "decr_count": 0,
    "use_dynamic_loss_scaling": True,
}
PROGRESS = {
    "epoch": [-1, 3, 1.0, None, "1", True, 10**30],
    "samples": [-4, float("nan"), [1]],
    "step": [-1, float("nan"), float("inf"), 1e3, 10**19, 2**63, "2", None, False],
    "pending": ["no", 1.0, [float("nan")], ["a"], [None], {"a": 1}, [[1.0]]],
    "skipped": [-1, 0.5],
    "best_score": [float("nan"), 100.5, -2, "best", None],
    "best_epoch": [-1, "1"],
    "world_size": [-1, 2.0],
    "global_batch": [-8, {}],
}
SCALERS = {
    "scale": [[], [0.0], [-1.0], [float("nan")], [float("inf")], ["a"], 1024.0, [1.0, 2.0], None],
    "incr_ratio": [0.5, float("nan"), "2"],
    "decr_ratio": [-0.5, 2.0, None],
    "incr_every_n_steps": [0, 2.5, -1],
    "decr_every_n_nan_or_inf": [0],
    "incr_count": [-1, 1.5],
    "decr_count": ["0"],
    "use_dynamic_loss_scaling": [1, "yes"],
}


@pytest.fixture
def cfg(tiny_config):
    return get_config(tiny_config(ema={"decay": 0.9}))


def fresh(cfg) -> Learner:
    return build_learner(cfg, Model(cfg), Ranks(), global_batch=4, steps_per_epoch=5)


@pytest.fixture
def state(cfg, tmp_path):
    """Arrays and metadata of a checkpoint that is right."""
    content = _saved(_Hidden(cfg, tmp_path / "c.safetensors"))
    arrays, metadata = content
    return dict(arrays), dict(metadata)


class _Hidden(tuple):
    """Arguments that a cache does not tell apart: the config is the same but for its folder."""

    def __new__(cls, *values):
        return super().__new__(cls, values)

    def __hash__(self):
        return 0

    def __eq__(self, other):
        return isinstance(other, _Hidden)


@cache
def _saved(hidden: _Hidden):
    return _trained(*hidden)


def _trained(cfg, path: Path):
    learner = fresh(cfg)
    learner.begin_epoch(0)

    images = paddle.to_tensor(np.random.default_rng(0).standard_normal((4, 3, 32, 32), "float32"))
    train_step(learner, images, paddle.to_tensor([1, 2, 3, 4]), 0)
    save_checkpoint(path, learner, Progress(epoch=1, step=1), cfg.to_dict(), ["a"])
    arrays, metadata = read_safetensors(path)
    del metadata["sha256"]
    return arrays, metadata


def resume(cfg, arrays, metadata, path: Path) -> Progress:
    """What a run does with such a file, whose checksum is right."""
    save_file(arrays, path, metadata | {"sha256": checksum(sorted(arrays.items()), metadata)})
    progress, old = load_checkpoint(read_checkpoint(path), fresh(cfg))
    compare(old, cfg, path)
    return progress


def refused(cfg, state, path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        resume(cfg, *state, path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert "model.pretrained" in message or "config that belongs" in message
    return message


def test_unchanged_state_is_accepted(cfg, state, tmp_path):
    assert resume(cfg, *state, tmp_path / "a.safetensors").step == 1
    state[1]["loss_scaler"] = json.dumps(SCALER)
    assert resume(cfg, *state, tmp_path / "a.safetensors").step == 1
    del state[1]["without_optimizer_state"]  # as version 0.1 has it
    assert resume(cfg, *state, tmp_path / "a.safetensors").step == 1


@pytest.mark.parametrize(
    "key", ["progress", "config", "loss_scaler", "without_optimizer_state", "data"]
)
@pytest.mark.parametrize("text", ["", "{", "null", "3", '"a"', "[" * 100_000, "\x00", "true"])
def test_metadata_of_another_type_is_refused(cfg, state, tmp_path, key, text):
    state[1][key] = text
    assert key in refused(cfg, state, tmp_path / "a.safetensors")


@pytest.mark.parametrize("config", [{}, {"optimizer": 3}, {"optimizer": {}}, {"optimizer": None}])
def test_config_that_is_not_of_a_run_is_refused(cfg, state, tmp_path, config):
    state[1]["config"] = json.dumps(config)
    assert "config" in refused(cfg, state, tmp_path / "a.safetensors")


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, many in PROGRESS.items() for v in many])
def test_impossible_progress_is_refused(cfg, state, tmp_path, key, value):
    state[1]["progress"] = json.dumps(json.loads(state[1]["progress"]) | {key: value})
    assert key in refused(cfg, state, tmp_path / "a.safetensors")


def test_best_score_of_version_0_1(cfg, state, tmp_path):
    progress = json.loads(state[1]["progress"])
    del progress["best_score"]
    state[1]["progress"] = json.dumps(progress | {"best_top1": 12.5})
    assert resume(cfg, *state, tmp_path / "a.safetensors").best_score == 12.5


@pytest.mark.parametrize("key", ["epoch", "samples", "step"])
def test_progress_without_a_count_is_refused(cfg, state, tmp_path, key):
    progress = json.loads(state[1]["progress"])
    del progress[key]
    state[1]["progress"] = json.dumps(progress)
    assert key in refused(cfg, state, tmp_path / "a.safetensors")


def test_number_of_very_many_digits_is_refused(cfg, state, tmp_path):
    state[1]["progress"] = '{"epoch": 0, "samples": 0, "step": ' + "9" * 10_000 + "}"
    assert "progress" in refused(cfg, state, tmp_path / "a.safetensors")


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, many in SCALERS.items() for v in many])
def test_impossible_loss_scaling_is_refused(cfg, state, tmp_path, key, value):
    state[1]["loss_scaler"] = json.dumps(SCALER | {key: value})
    assert key in refused(cfg, state, tmp_path / "a.safetensors")


@pytest.mark.parametrize("key", [*SCALER, "more"])
def test_loss_scaling_with_other_keys_is_refused(cfg, state, tmp_path, key):
    scaler = {k: v for k, v in SCALER.items() if k != key} | ({"more": 1} if key == "more" else {})
    state[1]["loss_scaler"] = json.dumps(scaler)
    assert "loss_scaler" in refused(cfg, state, tmp_path / "a.safetensors")


CHANGES = {
    "no state": lambda a: [a.pop(key) for key in list(a) if key.startswith("optimizer/")],
    "none of a parameter": lambda a: [a.pop(k) for k in list(a) if k.startswith(MOMENT[:-9])],
    "no moment": lambda a: a.pop(MOMENT),
    "no power": lambda a: a.pop(POWER),
    "no moment of the last": lambda a: a.pop("optimizer/head.fc_cls.bias/beta2_pow_acc_0"),
    "a moment of no parameter": lambda a: a.update({"optimizer/x/moment1_0": a[MOMENT]}),
    "a state of no name": lambda a: a.update({"optimizer/": a[MOMENT]}),
    "another accumulator": lambda a: a.update({MOMENT[:-9] + "other_0": a[MOMENT]}),
    "another shape": lambda a: a.update({MOMENT: a[MOMENT].T.copy()}),
    "flat": lambda a: a.update({MOMENT: a[MOMENT].reshape(-1)}),
    "scalar": lambda a: a.update({POWER: np.array(0.9, np.float32)}),
    "empty": lambda a: a.update({MOMENT: a[MOMENT][:0]}),
    "float64": lambda a: a.update({MOMENT: a[MOMENT].astype(np.float64)}),
    "float16": lambda a: a.update({MOMENT: a[MOMENT].astype(np.float16)}),
    "int64": lambda a: a.update({MOMENT: a[MOMENT].astype(np.int64)}),
    "bool": lambda a: a.update({MOMENT: a[MOMENT] > 0}),
    "nan moment": lambda a: a.update({MOMENT: a[MOMENT] * np.float32("nan")}),
    "infinite weight": lambda a: a.update({WEIGHT: a[WEIGHT] + np.float32("inf")}),
    "integer weight": lambda a: a.update({WEIGHT: a[WEIGHT].astype(np.int32)}),
    "no weight": lambda a: a.pop(f"trained/{WEIGHT}"),
    "no average": lambda a: a.pop(WEIGHT),
    "another average": lambda a: a.update({WEIGHT: a[WEIGHT].reshape(-1)}),
    "another weight": lambda a: a.update({f"trained/{WEIGHT}": a[WEIGHT].reshape(-1)}),
    "a weight more": lambda a: a.update({"trained/x": a[WEIGHT]}),
    "no master": lambda a: a.update({MASTERS_MOMENT: a.pop(MOMENT)}),
    "both": lambda a: a.update(
        {
            MASTERS_MOMENT: a[MOMENT],
            MASTER: a[WEIGHT],
        }
    ),
    "a master of nothing": lambda a: a.update({"optimizer/x/master_weight": a[WEIGHT]}),
    "a master outside": lambda a: a.update({"x/master_weight": a[WEIGHT]}),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("old", [False, True], ids=["now", "0.1"])
def test_arrays_that_are_not_a_state_are_refused(cfg, state, tmp_path, change, old):
    CHANGES[change](state[0])
    if old:
        del state[1]["without_optimizer_state"]
    refused(cfg, state, tmp_path / "a.safetensors")


def without_state(state, pattern: str) -> list[str]:
    """Take out the state of the parameters, and let the checkpoint say so."""
    arrays, metadata = state
    taken = [k for k in arrays if k.startswith("optimizer/") and fnmatchcase(k, pattern)]
    names = sorted({key.split("/")[1] for key in taken})
    for key in taken:
        del arrays[key]
    metadata["without_optimizer_state"] = json.dumps(names)
    return names


def test_checkpoint_that_lists_all_parameters_as_stateless_is_refused(cfg, state, tmp_path):
    """The moments of all parameters would start at zero without a message."""
    names = without_state(state, "*")
    assert len(names) > 10
    assert f"no state of the optimizer for {len(names)} " in refused(cfg, state, tmp_path / "a")


def test_listed_missing_state_is_a_warning(cfg, state, tmp_path, caplog):
    """Of a parameter that no loss has reached it is right, so the run goes on."""
    (name,) = without_state(state, f"optimizer/{WEIGHT}/*")
    assert resume(cfg, *state, tmp_path / "a.safetensors").step == 1
    assert f"for 1 parameters that were not frozen ({name})" in caplog.text


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("config", {"freeze": {"names": ["backbone.*"], "epochs": 5}}),
        ("progress", {"step": 2, "skipped": 2}),
    ],
)
def test_state_that_did_not_exist_yet(cfg, state, tmp_path, caplog, key, changes):
    """Of frozen parameters; of all, where each step was skipped."""
    without_state(state, "optimizer/backbone.*" if key == "config" else "*")
    state[1][key] = json.dumps(json.loads(state[1][key]) | changes)
    resume(cfg, *state, tmp_path / "a.safetensors")
    assert "no state" not in caplog.text


@pytest.mark.parametrize("old", [False, True], ids=["now", "0.1"])
def test_optimizer_without_state(tiny_config, tmp_path, caplog, old):
    cfg = get_config(tiny_config(optimizer={"name": "SGD", "lr": 0.1}))
    arrays, metadata = _trained(cfg, tmp_path / "c.safetensors")
    assert not [key for key in arrays if key.startswith("optimizer/")]
    if old:
        del metadata["without_optimizer_state"]
    assert resume(cfg, arrays, metadata, tmp_path / "a.safetensors").step == 1
    assert "no state" not in caplog.text


def test_pipes_and_folders_are_refused(tmp_path):
    pipe = tmp_path / "last.safetensors"
    os.mkfifo(pipe)
    for path, rule in ((pipe, "not a regular file"), (tmp_path, "is a folder")):
        with pytest.raises(CheckpointError, match=rule):
            read_checkpoint(path)


def test_type_that_numpy_does_not_know_is_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    content = len(header).to_bytes(8, "little") + header + b"\0\0"
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        read_checkpoint(path)
