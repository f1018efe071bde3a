"""Checkpoints of a run: last, previous and best, damaged ones, and a full disk."""

from __future__ import annotations

import errno
import json
import struct
import threading
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import paddle
import pytest

from passl.distributed.ranks import Ranks
from passl.engine import saver as saver_module
from passl.engine import visualdl
from passl.engine.checkpoint import read_checkpoint, save_checkpoint
from passl.engine.learner import build_learner
from passl.engine.metrics import MetricLog, read_metrics
from passl.engine.progress import Progress
from passl.engine.run_folder import find_checkpoint, make_last, recent_checkpoints
from passl.engine.saver import Saver
from passl.engine.step import train_step
from passl.errors import CheckpointError, RunError, Stopped
from passl.io.files import duplicate
from passl.logging import get_logger
from passl.modeling import Model
from passl.utils.config import get_config
from tests.full_disk import file_limit
from tests.learners import batch


@pytest.fixture
def saver(tiny_config, tmp_path):
    """saver(on_error=...) -> Saver of a small learner, with the folder `run`."""
    folder = tmp_path / "run"
    folder.mkdir()
    cfg = get_config(tiny_config("CvT"))
    learner = build_learner(cfg, Model(cfg), Ranks(), global_batch=4, steps_per_epoch=5)
    learner.begin_epoch(0)

    def make(**options) -> Saver:
        return Saver(folder, learner, MetricLog(None), cfg.to_dict(), ["a"], **options)

    return make


def step_of(path: Path) -> int:
    return json.loads(read_checkpoint(path).metadata["progress"])["step"]


def names(folder: Path) -> dict[str, int]:
    return {path.name: step_of(path) for path in folder.iterdir()}


def test_last_previous_and_best(saver):
    one = saver()
    one.save(Progress(step=1), best_before=(-1.0, 0))
    for step in (2, 3):
        one.save(Progress(step=step))
    assert one.wait()
    assert names(one.folder) == {
        "last.safetensors": 3,
        "previous.safetensors": 2,
        "best.safetensors": 1,
    }


def test_the_newest_and_every_nth_are_kept(saver):
    """An epoch has five steps; 3 of the newest, every second epoch and every seventh step stay."""
    one = saver(interval=2, keep_interval=7, keep_epochs=2, keep_last=3)
    for step in (2, 4, 5, 6, 7, 8, 10, 12):
        one.save(Progress(epoch=step // 5, samples=step % 5 * 4, step=step))
    kept = {name: step for name, step in names(one.folder).items() if "_" in name}
    expected = [("step", 7), ("step", 10), ("recent", 8), ("recent", 10), ("recent", 12)]
    assert kept == {f"{name}_{step}.safetensors": step for name, step in expected}


def test_recent_checkpoints_after_a_resume_from_before_them(saver):
    """The new ones count as the newest. Later ones stay until the run comes past them."""
    one = saver(keep_last=2)
    for step in (2, 4, 6, 8, 3, 5):
        one.save(Progress(step=step))
    assert [*recent_checkpoints(one.folder)] == [8, 6, 5, 3]
    one.save(Progress(step=7))
    assert [*recent_checkpoints(one.folder)] == [8, 7, 6]


def test_recent_checkpoint_is_used_if_last_and_previous_are_damaged(saver):
    """Those two are the newest of the recent ones, under other names."""
    one = saver(keep_last=4)
    for step in (1, 2, 3):
        one.save(Progress(step=step))
    for name in ("last", "previous"):
        (one.folder / f"{name}.safetensors").write_bytes(b"damaged")
    found = find_checkpoint(one.folder, "auto", read_checkpoint)
    assert found.path == one.folder / "recent_1.safetensors"
    for path in (one.folder / f"{name}.safetensors" for name in ("last", "previous")):
        path.unlink()
    assert find_checkpoint(one.folder, "auto", read_checkpoint).path == found.path


def test_checkpoint_that_cannot_be_written_changes_nothing(saver):
    one = saver()
    for step in (1, 2):
        one.save(Progress(step=step), (-1.0, 0) if step == 1 else None)
    before = names(one.folder)
    message = r"last.safetensors: the state after step 3 cannot be written \(.*File too large"
    with file_limit(20_000), pytest.raises(RunError, match=message):
        one.save(Progress(step=3), (-1.0, 0))
    assert names(one.folder) == before


@pytest.mark.parametrize("asynchronous", [False, True])
def test_run_can_continue_without_a_checkpoint(saver, asynchronous):
    """The best is the best of those that are there."""
    one = saver(on_error="continue", asynchronous=asynchronous)
    one.save(Progress(step=1))
    one.wait()
    progress = Progress(step=2, best_score=7.0, best_epoch=2)
    with file_limit(20_000):
        one.save(progress, best_before=(5.0, 1))
        assert not one.wait()
    assert (progress.best_score, progress.best_epoch) == (5.0, 1)
    assert names(one.folder) == {"last.safetensors": 1}
    one.save(Progress(step=3))
    assert one.wait()
    assert names(one.folder) == {"last.safetensors": 3, "previous.safetensors": 1}


@pytest.fixture
def held(monkeypatch):
    """Asynchronous writes begin when it is set."""
    event, write = threading.Event(), saver_module.write_state
    monkeypatch.setattr(
        saver_module, "write_state", lambda *given: event.wait(60) and write(*given)
    )
    yield event
    event.set()


def test_asynchronous_checkpoint_has_the_state_of_its_step(saver, held):
    """Training goes on while it is written: weights, optimizer, averages and statistics change."""
    one = saver(asynchronous=True)
    images, labels = batch()
    train_step(one.learner, images, labels, 0)
    save_checkpoint(one.folder / "expected", one.learner, Progress(step=1), one.config, ["a"])
    one.save(Progress(step=1))
    for step in (1, 2):
        train_step(one.learner, images, labels, step)
    one.check()
    assert not (one.folder / "last.safetensors").exists()
    held.set()
    assert one.wait()
    found, expected = (
        read_checkpoint(one.folder / name) for name in ("last.safetensors", "expected")
    )
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(np.asarray(found.arrays[name]), np.asarray(array), name)


def test_there_is_one_copy_at_a_time(saver, held, monkeypatch):
    """The second state is copied when the first one is written, and its copy released."""
    one, copies, copy = saver(asynchronous=True), [], saver_module.copy_state

    def followed(*given):
        assert [copied for copied in copies if copied() is not None] == []
        state = copy(*given)
        copies.append(weakref.ref(state))
        return state

    monkeypatch.setattr(saver_module, "copy_state", followed)
    one.save(Progress(step=1))
    threading.Timer(0.1, held.set).start()
    one.save(Progress(step=2))
    assert one.wait()
    assert len(copies) == 2
    assert names(one.folder) == {"last.safetensors": 2, "previous.safetensors": 1}


@pytest.mark.parametrize("moment", ["the next step", "the next checkpoint", "a stop", "the end"])
def test_error_of_an_asynchronous_write_ends_the_run(saver, moment):
    one = saver(asynchronous=True)
    one.save(Progress(step=1))
    one.wait()
    with pytest.raises(RunError, match="after step 2 cannot be written"), one:
        with file_limit(20_000):
            one.save(Progress(step=2))
            one._writing.join(60)
        if moment == "the next step":
            one.check()
        elif moment == "the next checkpoint":
            one.save(Progress(step=3))
        elif moment == "a stop":
            raise Stopped("SIGTERM")
    assert names(one.folder) == {"last.safetensors": 1}


def test_error_of_a_write_does_not_hide_another_one(saver, caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    one = saver(asynchronous=True)
    with pytest.raises(RunError, match="the loss is nan"), one:
        with file_limit(20_000):
            one.save(Progress(step=2))
            one._writing.join(60)
        raise RunError("the loss is nan")
    assert "after step 2 cannot be written" in caplog.text


@pytest.mark.parametrize("error", [None, Stopped("SIGTERM"), RunError("the loss is nan")])
def test_exit_waits_for_the_write(saver, held, error):
    one = saver(asynchronous=True)
    with suppress(Stopped, RunError), one:
        one.save(Progress(step=1))
        threading.Timer(0.1, held.set).start()
        if error is not None:
            raise error
    assert names(one.folder) == {"last.safetensors": 1}


def test_nonfinite_weights_are_not_saved(saver):
    one = saver()
    for step in (1, 2):
        one.save(Progress(step=step))
    before = names(one.folder)
    weight = one.learner.model.head.fc_cls.weight
    weight.set_value(paddle.full_like(weight, float("nan")))
    for asynchronous in (False, True):
        one.asynchronous = asynchronous
        with pytest.raises(RunError, match="head.fc_cls.weight is not finite after step 3"):
            one.save(Progress(step=3))
            one.wait()
    assert names(one.folder) == before


def damages(data: bytes) -> dict[str, bytes]:
    """Damaged versions of a file."""
    (size,) = struct.unpack("<Q", data[:8])
    progress = data.index(b"progress") + 20
    flip = bytes([data[-50] ^ 1])
    return {
        "cut": data[: len(data) // 2],
        "cut in the header": data[: size // 2],
        "one byte short": data[:-1],
        "a bit of an array": data[:-50] + flip + data[-49:],
        "a bit of the metadata": data[:progress]
        + bytes([data[progress] ^ 1])
        + data[progress + 1 :],
        "nothing in it": b"",
        "zeros": bytes(len(data)),
        "another format": b"PK\x03\x04" + data[4:],
    }


@pytest.mark.parametrize("damage", damages(struct.pack("<Q", 0) + b"progress" + bytes(99)))
def test_previous_checkpoint_is_used_if_the_last_is_damaged(saver, damage, caplog):
    one = saver()
    for step in (1, 2):
        one.save(Progress(step=step))
    last, previous = one.folder / "last.safetensors", one.folder / "previous.safetensors"
    last.write_bytes(damages(last.read_bytes())[damage])
    with pytest.raises(CheckpointError, match="last.safetensors: "):
        find_checkpoint(one.folder, str(last), read_checkpoint)
    assert find_checkpoint(one.folder, "auto", read_checkpoint).path == previous

    previous.write_bytes(damages(previous.read_bytes())[damage])
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(one.folder, "auto", read_checkpoint)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert str(last) in text
    assert str(previous) in text


def test_any_flipped_bit_is_detected(saver):
    """In the header, where names, shapes, places and metadata are, and in the arrays."""
    one = saver()
    one.save(Progress(step=1))
    path = one.folder / "last.safetensors"
    data, rng = path.read_bytes(), np.random.default_rng(0)
    (size,) = struct.unpack("<Q", data[:8])
    places = [*rng.integers(0, 8 + size, 400), *rng.integers(8 + size, len(data), 40)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="last.safetensors: "):
            read_checkpoint(path)


def test_checkpoint_that_a_run_continues_from_becomes_its_last(saver, tmp_path):
    one = saver()
    for step in (1, 2):
        one.save(Progress(step=step))
    last, previous = one.folder / "last.safetensors", one.folder / "previous.safetensors"
    last.write_bytes(b"damaged")
    make_last(one.folder, previous)
    assert names(one.folder) == {"last.safetensors": 1, "previous.safetensors": 1}
    make_last(one.folder, last)
    one.save(Progress(step=2))
    assert names(one.folder) == {"last.safetensors": 2, "previous.safetensors": 1}
    other = tmp_path / "other"
    other.mkdir()
    make_last(other, last)
    assert names(other) == {"last.safetensors": 2}


@pytest.mark.parametrize("linked", [True, False])
def test_duplicate_is_complete_with_and_without_hard_links(tmp_path, monkeypatch, linked):
    if not linked:

        def refuse(*paths):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr("os.link", refuse)
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    for _ in range(2):
        duplicate(tmp_path / "a", tmp_path / "b")
        assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "new", "b": "new"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # VisualDL's
def test_rows_that_cannot_be_written_are_written_later(tmp_path):
    """A row is cut in the middle by a full disk, and complete once there is space."""
    log = MetricLog(tmp_path)
    log.write("train", 1, loss=1.0)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    with file_limit(size + 10):
        log.write("train", 2, loss=2.0)
        log.write("train", 3, loss=3.0)
        with pytest.raises(OSError, match="File too large"):
            log.sync()
        assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    log.write("train", 4, loss=4.0)
    log.sync()
    log.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 4.0),
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # VisualDL's
def test_metrics_are_written_before_a_checkpoint(saver, monkeypatch):
    monkeypatch.setattr(visualdl, "_PATIENCE", 0.5)
    one = saver()
    one.metrics = MetricLog(one.folder)
    with file_limit(10):
        one.metrics.write("train", 1, loss=1.0)
        with pytest.raises(RunError, match="cannot be written"):
            one.save(Progress(step=1))
    one.metrics.close()
    assert not (one.folder / "last.safetensors").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_curves_that_cannot_be_written_do_not_stop_a_run(tmp_path, caplog, monkeypatch):
    """VisualDL's thread ends with the first flush that fails. Its default queue has 120 places."""
    monkeypatch.setattr(get_logger(), "propagate", True)
    monkeypatch.setattr(visualdl, "_PATIENCE", 0.5)
    log = MetricLog(tmp_path)
    with file_limit(10):
        for step in range(500):
            log.visualdl.add_row({"phase": "train", "step": step, "loss": 1.0})
        log.close()
    assert "curves are incomplete" in caplog.text


def test_skipped_step_changes_nothing(saver):
    """Neither in weights, nor in the optimizer, nor in the running statistics of BatchNorm, which
    the forward pass has changed by then.
    """
    learner = saver().learner
    learner.skip_nonfinite = True
    labels = paddle.to_tensor([0, 1, 2, 3])
    images = paddle.ones([4, 3, 32, 32]) * paddle.arange(4).reshape([4, 1, 1, 1]).astype("float32")
    assert train_step(learner, images, labels, 0).is_finite
    state = {key: tensor.numpy() for key, tensor in learner.model.state_dict().items()}
    assert any(key.endswith("._mean") for key in state)
    images[2] = float("inf")
    outcome = train_step(learner, images, labels, 1)
    assert not outcome.is_finite
    for key, tensor in learner.model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), state[key], key)
