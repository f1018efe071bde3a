"""Which run may use a folder, and the checkpoints in it."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from passl.distributed.ranks import Ranks
from passl.engine import run_lock
from passl.engine.checkpoint import read_checkpoint, save_checkpoint
from passl.engine.learner import build_learner
from passl.engine.progress import Progress
from passl.engine.run_folder import (
    check_start,
    find_checkpoint,
    opened_run_folder,
    set_aside,
    write_config,
)
from passl.engine.run_lock import RunLock
from passl.errors import CheckpointError, ConfigError
from passl.logging import get_logger
from passl.modeling import Model
from passl.utils.config import get_config


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(run_lock, "_PATIENCE", 0.05)


@pytest.fixture
def save(tiny_config):
    """save(path) writes a checkpoint there."""
    cfg = get_config(tiny_config())
    learner = build_learner(cfg, Model(cfg), Ranks(), global_batch=4, steps_per_epoch=5)
    return lambda path: save_checkpoint(path, learner, Progress(), {}, [])


def found_in(folder: Path, resume: str | None) -> Path | None:
    """The path of the checkpoint that a run continues from."""
    check_start(folder, resume)
    found = find_checkpoint(folder, resume, read_checkpoint)
    return None if found is None else found.path


# --------------------------------------------------------------------------------------------------
# One run at a time
# --------------------------------------------------------------------------------------------------
def test_folder_in_use_is_refused_with_host_and_process(tmp_path, impatient):
    folder = tmp_path / "run"
    with opened_run_folder(folder, Ranks()):
        get_logger().warning("first")
        with pytest.raises(ConfigError) as caught, opened_run_folder(folder, Ranks()):
            get_logger().warning("second")
    assert f"process {os.getpid()} on {socket.gethostname()} since " in str(caught.value)
    assert "-o output_dir=" in str(caught.value)
    assert "second" not in (folder / "train.log").read_text()
    with opened_run_folder(folder, Ranks()):
        get_logger().warning("third")
    lines = (folder / "train.log").read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["first", "third"]


def test_lock_is_released_after_an_error(tmp_path, impatient):
    with pytest.raises(KeyboardInterrupt), opened_run_folder(tmp_path, Ranks()):
        raise KeyboardInterrupt
    with opened_run_folder(tmp_path, Ranks()):
        pass
    assert not (tmp_path / "run.lock.json").exists()


HOLDER = """
import os, sys, time
from pathlib import Path
from passl.engine.run_lock import RunLock

lock = RunLock(Path(sys.argv[1]))
if os.fork() == 0:  # as a worker of the loader, which outlives a killed run for up to a second
    time.sleep(1)
    os._exit(0)
print("held", flush=True)
time.sleep(60)
"""


def test_dead_process_does_not_block(tmp_path, root):
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOLDER, tmp_path], cwd=root, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert json.loads((tmp_path / "run.lock.json").read_text())["pid"] == process.pid
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    RunLock(tmp_path).release()


def test_lock_left_by_another_host_does_not_block(tmp_path):
    (tmp_path / "run.lock").touch()
    (tmp_path / "run.lock.json").write_text('{"host": "gpu7", "pid": 1, "since": "long ago"}')
    RunLock(tmp_path).release()


@pytest.mark.parametrize(
    "error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks")]
)
def test_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog, error):
    def refuse(self):
        raise error

    monkeypatch.setattr(run_lock.FileLock, "acquire", refuse)
    monkeypatch.setattr(get_logger(), "propagate", True)
    RunLock(tmp_path).release()
    assert "has no locks" in caplog.text


def test_lock_has_the_permissions_of_the_folder(tmp_path):
    before = os.umask(0o077)
    try:
        (tmp_path / "run").mkdir()
        (tmp_path / "run").chmod(0o775)
        RunLock(tmp_path / "run").release()
    finally:
        os.umask(before)
    assert (tmp_path / "run" / "run.lock").stat().st_mode & 0o777 == 0o664


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match="cannot be made"),
        opened_run_folder(tmp_path / "file" / "run", Ranks()),
    ):
        pass


def test_run_that_cannot_start_leaves_no_folder(tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with pytest.raises(ConfigError), opened_run_folder(tmp_path / name, Ranks()):
            raise ConfigError("wrong")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    with pytest.raises(ConfigError), opened_run_folder(tmp_path / "new", Ranks()):
        get_logger().warning("something to keep")
        raise ConfigError("wrong")
    assert "something to keep" in (tmp_path / "new" / "train.log").read_text()


def test_unfinished_files_are_removed(tmp_path):
    left = tmp_path / f".exported.{os.getpid()}.tmp"
    left.mkdir()
    (left / "model.json").touch()
    with opened_run_folder(tmp_path, Ranks()):
        assert not left.exists()


# --------------------------------------------------------------------------------------------------
# Where a run continues
# --------------------------------------------------------------------------------------------------
def test_run_is_never_overwritten(save, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    assert found_in(folder, None) is None
    last, foreign = folder / "last.safetensors", tmp_path / "foreign.safetensors"
    for path in (last, foreign):
        save(path)
    with pytest.raises(ConfigError, match="holds a run already; .*--resume auto"):
        found_in(folder, None)
    assert found_in(folder, "auto") == last
    assert found_in(folder, str(last)) == last
    with pytest.raises(ConfigError, match="holds a run already"):
        found_in(folder, str(foreign))
    assert found_in(tmp_path / "new", str(foreign)) == foreign


@pytest.mark.parametrize("name", ["last", "previous", "best"])
def test_any_checkpoint_is_a_run(save, tmp_path, name):
    save(tmp_path / f"{name}.safetensors")
    with pytest.raises(ConfigError, match="holds a run already"):
        found_in(tmp_path, None)


@pytest.mark.parametrize(
    ("left", "named"),
    [
        (["metrics.jsonl", "vdl"], "metrics.jsonl with results"),
        (["vdl"], "vdl"),
        (["nonfinite_step_7.txt"], "nonfinite_step_7.txt"),
    ],
)
def test_results_without_checkpoints_are_not_overwritten(tmp_path, left, named):
    """A run that ended before its first checkpoint has evaluated nothing, and always has metrics
    beside its curves.
    """
    contents = {
        "metrics.jsonl": '{"phase": "val", "step": 9, "epoch": 1, "top1": 50.0}\n',
        "vdl": "curves",
        "nonfinite_step_7.txt": "an image\n",
    }
    for name in left:
        (tmp_path / name).mkdir() if name == "vdl" else None
        path = tmp_path / name / "vdlrecords.1.log" if name == "vdl" else tmp_path / name
        path.write_text(contents[name])
    with pytest.raises(ConfigError, match=f"holds {named} of a run.*-o output_dir="):
        found_in(tmp_path, None)
    assert found_in(tmp_path, "auto") is None
    set_aside(tmp_path)
    kept = [path for path in (tmp_path / "unsaved_1").rglob("*") if path.is_file()]
    assert sorted(path.read_text() for path in kept) == sorted(contents[name] for name in left)


def test_best_alone_is_named_and_not_overwritten(save, tmp_path):
    save(tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match=f"--resume {tmp_path / 'best.safetensors'}"):
        found_in(tmp_path, "auto")
    path = str(tmp_path / "best.safetensors")
    assert found_in(tmp_path, path) == Path(path)


@pytest.mark.parametrize("holds_a_run", [True, False])
def test_missing_checkpoint(save, tmp_path, holds_a_run):
    if holds_a_run:
        save(tmp_path / "last.safetensors")
    with pytest.raises(ConfigError, match="--resume nope: there is no such checkpoint.*auto"):
        found_in(tmp_path, "nope")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: is not a regular file"):
        found_in(tmp_path, str(tmp_path / "pipe"))


def test_folder_instead_of_a_checkpoint(save, tmp_path):
    save(tmp_path / "last.safetensors")
    with pytest.raises(ConfigError, match=rf"is a folder.*{tmp_path / 'last.safetensors'}"):
        found_in(tmp_path, str(tmp_path))


def test_missing_last_checkpoint_is_a_warning(save, tmp_path, caplog, monkeypatch):
    save(tmp_path / "previous.safetensors")
    monkeypatch.setattr(get_logger(), "propagate", True)
    assert found_in(tmp_path, "auto") == tmp_path / "previous.safetensors"
    assert f"{tmp_path / 'last.safetensors'}: missing" in caplog.text


def test_files_of_a_run_without_a_checkpoint_are_moved(tmp_path):
    for number in (1, 2):
        assert found_in(tmp_path, None) is None
        set_aside(tmp_path)
        write_config(tmp_path, {"epochs": number}, 0)
        (tmp_path / "metrics.jsonl").write_text(f'{{"phase": "train", "step": {number}}}\n')
        (tmp_path / "nonfinite_step_3.txt").write_text(f"{number}\n")
        (tmp_path / "vdl").mkdir()
        (tmp_path / "vdl" / "curves.log").write_text(f"{number}\n")
    set_aside(tmp_path)
    set_aside(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"unsaved_1", "unsaved_2"}
    for number in (1, 2):
        place = tmp_path / f"unsaved_{number}"
        names = ("config.yaml", "metrics.jsonl", "nonfinite_step_3.txt", "vdl/curves.log")
        assert [path for path in place.rglob("*.*") if str(number) not in path.read_text()] == []
        assert all((place / name).is_file() for name in names)


def test_curves_without_metrics_are_moved(save, tmp_path):
    """A resumed run draws them again from the metrics, if there are any."""
    save(tmp_path / "last.safetensors")
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "vdl").mkdir()
    set_aside(tmp_path)
    assert (tmp_path / "vdl").is_dir()
    (tmp_path / "metrics.jsonl").unlink()
    set_aside(tmp_path)
    assert [path.name for path in (tmp_path / "unsaved_1").iterdir()] == ["vdl"]
    assert (tmp_path / "last.safetensors").exists()
