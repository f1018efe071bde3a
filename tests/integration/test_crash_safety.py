"""Runs that are killed, stopped, out of disk space or have damaged files lose nothing. (Tiny
networks on the digits; `tests/stress/chaos.py` does more of the same at random moments.)
"""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from passl.data import TRANSFORMS
from passl.data.datasets.digits import Digits
from passl.engine import checkpoint as checkpoint_module
from passl.engine import saver as saver_module
from passl.engine import train as train_module
from passl.engine.checkpoint import read_checkpoint
from passl.engine.metrics import read_metrics
from passl.engine.train import train
from passl.errors import CheckpointError, ConfigError, RunError, Stopped
from passl.utils.config import get_config
from tests.full_disk import file_limit

EVERYTHING = (
    "epochs=3",
    "dataloader.train.dataset.fraction=0.25",
    "dataloader.val.dataset.fraction=0.25",
    "dataloader.train.sampler.batch_size=32",  # eleven steps are an epoch
    "checkpoint={interval: 7}",
    "ema={decay: 0.9}",
    "dataloader.train.sampler={repeats: 3, balanced: true}",
    "loss.class_weights=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
    "dataloader.train.mixup={mixup_alpha: 0.8, cutmix_alpha: 1.0}",
)


def run(path: Path, folder: Path, *overrides: str, resume: str | None = None):
    config = get_config(path, [f"output_dir={folder}", *EVERYTHING, *overrides])
    return train(config, resume)


def step_of(path: Path) -> int:
    return json.loads(read_checkpoint(path).metadata["progress"])["step"]


@pytest.fixture(scope="module")
def finished() -> dict[str, Path]:
    """Runs that nothing has disturbed, as the tests have made them."""
    return {}


@pytest.fixture
def straight_run(finished, tiny_config, tmp_path_factory):
    """straight_run("CvT") -> the folder of a run that nothing has disturbed."""

    def get(name: str) -> Path:
        if name not in finished:
            finished[name] = tmp_path_factory.mktemp(name)
            run(tiny_config(name), finished[name])
        return finished[name]

    return get


@pytest.fixture
def differences():
    """differences(ours, theirs): in what two finished runs differ."""
    from tests.stress import chaos

    return chaos.differences


def at_call(monkeypatch, module, name: str, number: int, act) -> None:
    """Let `act` happen when a function is called for that time."""
    function, calls = getattr(module, name), 0

    def counting(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == number:
            act()
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, counting)


def test_kill_at_a_random_moment(run_tool, tmp_path):
    """Exit code 0 says that it ended as the run that was not killed; `make chaos` has many."""
    options = ("--kills", 1, "--epochs", 2, "--seed", 5, "--folder", tmp_path / "chaos")
    assert (
        "1 kills in 1 runs, 0 differences" in run_tool("../tests/stress/chaos.py", *options).stdout
    )


# --------------------------------------------------------------------------------------------------
# Stop signals
# --------------------------------------------------------------------------------------------------
MOMENTS = {
    "in a step": (train_module, "train_step", 4),
    "in the last step of an epoch": (train_module, "train_step", 11),
    "in evaluation": (train_module, "predict", 2),
    "while saving within an epoch": (checkpoint_module, "save_file", 1),
    "while saving after an epoch": (checkpoint_module, "save_file", 2),
}


ASYNCHRONOUS = ("checkpoint={interval: 7, asynchronous: true}",)


@pytest.mark.parametrize(
    ("moment", "number", "more"),
    [
        *((moment, signal.SIGTERM, ()) for moment in MOMENTS),
        *((moment, signal.SIGTERM, ASYNCHRONOUS) for moment in MOMENTS if "within" in moment),
        ("in evaluation", signal.SIGINT, ()),
    ],
)
def test_stop_signal_saves_the_state(
    tiny_config, tmp_path, monkeypatch, differences, straight_run, moment, number, more
):
    """Written by another thread too, the state is complete and the result the same."""
    path = tiny_config("CvT")
    with monkeypatch.context() as patch:
        at_call(patch, *MOMENTS[moment], lambda: os.kill(os.getpid(), number))
        with pytest.raises(Stopped, match=number.name) as caught:
            run(path, tmp_path / "stopped", *more)
    step = int(str(caught.value).rsplit(" ", 1)[1])
    assert step_of(tmp_path / "stopped" / "last.safetensors") == step < 33
    assert run(path, tmp_path / "stopped", *more, resume="auto").step == 33
    assert differences(tmp_path / "stopped", straight_run("CvT")) == []


# --------------------------------------------------------------------------------------------------
# Damaged files
# --------------------------------------------------------------------------------------------------
def replace(path: Path, content: bytes) -> None:
    """Another file under that name; `best` may be the same file under another."""
    path.unlink()
    path.write_bytes(content)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def kill() -> None:
    raise Killed


@pytest.mark.parametrize("kind", ["cut", "of another network", "gone"])
def test_previous_checkpoint_replaces_a_damaged_one(
    tiny_config, tmp_path, monkeypatch, differences, straight_run, kind
):
    path = tiny_config("ConViT")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, train_module, "train_step", 16, kill)
        run(path, tmp_path / "run")
    last, previous = (tmp_path / "run" / f"{name}.safetensors" for name in ("last", "previous"))
    assert (step_of(last), step_of(previous)) == (14, 11)
    if kind == "cut":
        replace(last, last.read_bytes()[:-100])
    elif kind == "gone":
        last.unlink()
    else:
        run(tiny_config("CvT"), tmp_path / "other", "epochs=1")
        replace(last, (tmp_path / "other" / "last.safetensors").read_bytes())
    before = previous.read_bytes()
    # Killed again before anything is saved, it has lost nothing.
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, train_module, "train_step", 1, kill)
        run(path, tmp_path / "run", resume="auto")
    assert last.read_bytes() == previous.read_bytes() == before
    assert run(path, tmp_path / "run", resume="auto").step == 33
    assert differences(tmp_path / "run", straight_run("ConViT")) == []
    log = (tmp_path / "run" / "train.log").read_text()
    assert "resumed after epoch 1, step 11" in log


def test_run_continues_on_another_machine(
    tiny_config, tmp_path, monkeypatch, differences, straight_run
):
    """From object storage, into a new folder, as the unbroken run: with its best and metrics."""
    path, url = tiny_config("ConViT"), f"memory://{tmp_path}"
    more = (f"checkpoint={{interval: 7, asynchronous: true, url: '{url}'}}",)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, train_module, "train_step", 16, kill)
        run(path, tmp_path / "one", *more)
    with pytest.raises(ConfigError, match=r"holds a run already.*--resume auto"):
        run(path, tmp_path / "two", *more)
    assert run(path, tmp_path / "two", *more, resume="auto").step == 33
    assert differences(tmp_path / "two", straight_run("ConViT")) == []
    log = (tmp_path / "two" / "train.log").read_text()
    assert "resumed after epoch 1, step 14" in log


def test_damaged_checkpoints_are_named(tiny_config, tmp_path):
    path = tiny_config("ConViT")
    run(path, tmp_path / "run", "epochs=1")
    last, previous = (tmp_path / "run" / f"{name}.safetensors" for name in ("last", "previous"))
    replace(last, b"")
    with pytest.raises(CheckpointError, match="last.*: an empty file.* another checkpoint"):
        run(path, tmp_path / "run", resume=str(last))
    replace(previous, b"")
    with pytest.raises(CheckpointError) as caught:
        run(path, tmp_path / "run", resume="auto")
    text = str(caught.value)
    assert text.count("an empty file") == 2
    assert f"--resume {tmp_path / 'run' / 'best.safetensors'}" in text
    assert run(path, tmp_path / "run", resume=str(last.with_name("best.safetensors"))).epoch == 3


def test_resume_from_an_earlier_checkpoint_discards_the_later_one(
    tiny_config, tmp_path, monkeypatch, differences, straight_run
):
    """Rows behind the one that was named are dropped; a kill must not bring back a state that knows
    of them.
    """
    path = tiny_config("ConViT")
    run(path, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, train_module, "train_step", 2, kill)
        run(path, tmp_path / "run", resume=str(tmp_path / "run" / "previous.safetensors"))
    run(path, tmp_path / "run", resume="auto")
    assert differences(tmp_path / "run", straight_run("ConViT")) == []


# --------------------------------------------------------------------------------------------------
# No room
# --------------------------------------------------------------------------------------------------
def test_full_disk_stops_the_run_and_loses_nothing(
    tiny_config, tmp_path, monkeypatch, differences, straight_run
):
    path, folder = tiny_config("ConViT"), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, train_module, "train_step", 16, kill)
        run(path, folder)
    before = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    with file_limit(30_000), pytest.raises(RunError, match="File too large") as caught:
        run(path, folder, resume="auto")
    assert len(str(caught.value).splitlines()) == 1
    assert {file.name: file.read_bytes() for file in folder.glob("*.safetensors")} == before
    assert not list(folder.glob(".*.tmp"))
    run(path, folder, resume="auto")
    assert differences(folder, straight_run("ConViT")) == []


def test_run_can_continue_on_a_full_disk(
    tiny_config, tmp_path, monkeypatch, differences, straight_run
):
    """No checkpoint can be written before the end."""
    ours, theirs = tmp_path / "run", straight_run("ConViT")
    write = saver_module.write_state

    def limited(path, state, *others):
        epoch = json.loads(state.metadata["progress"])["epoch"]
        with file_limit(30_000 if epoch < 3 else resource.RLIM_INFINITY):
            write(path, state, *others)

    monkeypatch.setattr(saver_module, "write_state", limited)
    more = "checkpoint={interval: 7, on_error: continue}"
    progress = run(tiny_config("ConViT"), ours, more)
    assert progress.step == 33
    arrays, expected = (read_checkpoint(at / "last.safetensors").arrays for at in (ours, theirs))
    for key in expected:
        np.testing.assert_array_equal(arrays[key], expected[key], key)
    scores = [
        [row["top1"] for row in read_metrics(at) if row["phase"] == "val"] for at in (ours, theirs)
    ]
    assert scores[0] == scores[1]
    # The best is the best of those that are kept.
    assert (progress.best_epoch, progress.best_score) == (3, pytest.approx(scores[0][2]))
    assert step_of(ours / "best.safetensors") == 33


def test_run_whose_end_is_not_saved_fails(tiny_config, tmp_path):
    more = ("epochs=1", "checkpoint={on_error: continue}")
    with file_limit(30_000), pytest.raises(RunError, match="all 1 epochs are done, but their end"):
        run(tiny_config("ConViT"), tmp_path / "run", *more)


# --------------------------------------------------------------------------------------------------
# Losses that are not finite
# --------------------------------------------------------------------------------------------------
@pytest.fixture
def spoiled(monkeypatch):
    """A transform that makes a few images infinite; the overrides that use it."""

    class Spoiled:
        on_arrays = True

        def __init__(self, *, probability: float):
            self.probability = probability

        def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return image * np.float32("inf") if rng.random() < self.probability else image

    monkeypatch.setitem(TRANSFORMS._registered, "Spoiled", Spoiled)
    return (
        "dataloader.train.dataset.transforms=[{name: RandomResizedCrop, size: 32}, "
        "{name: Normalize}, {name: Spoiled, probability: 0.01}]",
    )


def test_nonfinite_loss_is_reported_with_images(tiny_config, tmp_path, spoiled, monkeypatch):
    """Also where the names of the files are not UTF-8: the list has their bytes."""
    monkeypatch.setattr(Digits, "name", lambda digits, index: os.fsdecode(b"\xff %d" % index))
    with pytest.raises(RunError) as caught:
        run(tiny_config("CvT"), tmp_path / "run", *spoiled)
    text = str(caught.value)
    (file,) = (tmp_path / "run").glob("nonfinite_step_*.txt")
    step = int(file.stem.rsplit("_", 1)[1])
    assert f"the loss is nan at step {step} (epoch {(step - 1) // 11 + 1}, learning rate " in text
    images = os.fsdecode(file.read_bytes()).splitlines()
    assert images[0].startswith("\udcff ")
    assert len(set(images)) == len(images) > 3
    assert f"{', '.join(images[:3])} and {len(images) - 3} more, all in {file}" in text
    for path in (tmp_path / "run").glob("*.safetensors"):
        assert all(np.isfinite(array).all() for array in read_checkpoint(path).arrays.values())


def test_skipped_steps_are_counted_across_a_resume(
    tiny_config, tmp_path, monkeypatch, differences, spoiled
):
    """The limit holds for both parts together."""
    path = tiny_config("CvT")
    skip = (*spoiled, "on_nonfinite=skip")
    progress = run(path, tmp_path / "straight", *skip, "max_nonfinite=33")
    assert 3 <= progress.skipped < 33
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, train_module, "train_step", 20, kill)
        run(path, tmp_path / "run", *skip, "max_nonfinite=33")
    assert run(path, tmp_path / "run", *skip, "max_nonfinite=33", resume="auto") == progress
    assert differences(tmp_path / "run", tmp_path / "straight") == []

    limit = f"max_nonfinite={progress.skipped - 1}"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_call(patch, train_module, "train_step", 20, kill)
        run(path, tmp_path / "limited", *skip, limit)
    with pytest.raises(RunError, match="the loss is nan"):
        run(path, tmp_path / "limited", *skip, limit, resume="auto")


SKIPPING = r"""
import math
import numpy as np
import paddle

from passl.engine.learner import build_learner
from passl.engine.step import train_step
from passl.modeling import Model
from passl.utils.config import get_config

cfg = get_config(CONFIG, ["on_nonfinite=skip", "ema={decay: 0.9}"])
paddle.seed(7)
learner = build_learner(cfg, Model(cfg), ranks, global_batch=8, steps_per_epoch=3)
learner.begin_epoch(0)


def state():
    optimizer = learner.optimizer.state_dict()
    tensors = {**dict(learner.model.named_parameters()), **optimizer}
    averages = {f"average {key}": value for key, value in learner.average.averages.items()}
    return {k: v.numpy() for k, v in {**tensors, **averages}.items() if hasattr(v, "numpy")}


def step(number, spoiled, stop):
    rng = np.random.default_rng((number, ranks.rank))
    images = paddle.to_tensor(rng.standard_normal((4, 3, 32, 32)).astype("float32"))
    images[0] = float("inf") if spoiled and ranks.rank == 1 else images[0]
    return train_step(learner, images, paddle.to_tensor(rng.integers(10, size=4)), number, stop)


assert step(0, False, False).is_finite
before = state()
outcome = step(1, True, ranks.rank == 1)
assert not outcome.is_finite
assert outcome.stop
assert math.isfinite(outcome.own_loss) == (ranks.rank == 0)
for key, value in before.items():
    np.testing.assert_array_equal(state()[key], value, key)
last = step(2, False, False)
assert last.is_finite
assert not last.stop
changed = [key for key, value in before.items() if not np.array_equal(state()[key], value)]
assert len(changed) > len(before) / 2
ranks.check_same(learner.model, 3)
"""


def test_ranks_skip_a_step_and_stop_together(run_ranks, tiny_config):
    """One rank has an infinite image, and is asked to stop."""
    run_ranks(f"CONFIG = {str(tiny_config('CvT'))!r}\n{SKIPPING}")
