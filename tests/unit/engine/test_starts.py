"""Each start of a run is on record."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import paddle
import pytest

import passl
from passl.distributed.ranks import Ranks
from passl.engine.progress import Progress
from passl.engine.starts import STARTS, record_start
from passl.machine import commit_of


def lines(folder: Path) -> list[str]:
    return (folder / STARTS).read_text(encoding="utf-8").splitlines()


def test_each_start_is_recorded_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSWORD", "hunter2")
    monkeypatch.setattr(sys, "argv", ["tools/train.py", "-o", "output_dir=数据"])
    record_start(tmp_path, Ranks(), Progress(), None)
    checkpoint = tmp_path / "last.safetensors"
    record_start(tmp_path, Ranks(), Progress(epoch=2, step=7), checkpoint)
    first, second = map(json.loads, lines(tmp_path))
    age = datetime.now(timezone.utc) - datetime.fromisoformat(first["time"])
    assert timedelta(0) <= age < timedelta(minutes=10)
    assert (first["host"], first["pid"]) == (socket.gethostname(), os.getpid())
    assert (first["world_size"], first["device"]) == (1, "cpu")
    assert first["argv"] == ["tools/train.py", "-o", "output_dir=数据"]
    assert first["passl"] == passl.__version__
    assert first["versions"]["paddlepaddle"] == paddle.__version__
    assert {"python", "numpy", "pillow"} <= first["versions"].keys()
    assert first["cpu"]
    assert (first["resumed_from"], first["epoch"], first["step"]) == (None, 0, 0)
    assert (second["resumed_from"], second["epoch"], second["step"]) == (str(checkpoint), 2, 7)
    assert "hunter2" not in (tmp_path / STARTS).read_text(encoding="utf-8")


def test_recipe_is_recorded(tmp_path, caplog):
    config = tmp_path / "mine.yaml"
    config.write_text("_base_: digits/cvt\nepochs: 3\n")
    record_start(tmp_path, Ranks(), Progress(), config=config)
    config.write_text("_base_: digits/no_such_file\n")  # edited while the data was read
    record_start(tmp_path, Ranks(), Progress(), config=config)
    first, second = map(json.loads, lines(tmp_path))
    assert (first["config"], first["recipe"]) == (str(config), "digits/cvt")
    assert (second["config"], second["recipe"]) == (str(config), None)
    assert "no_such_file" in caplog.text


def test_truncated_line_stays_a_line_of_its_own(tmp_path):
    (tmp_path / STARTS).write_text('{"time": "20')
    record_start(tmp_path, Ranks(), Progress(), None)
    cut, whole = lines(tmp_path)
    assert cut == '{"time": "20'
    assert json.loads(whole)["pid"] == os.getpid()


def test_unwritable_record_is_a_warning(tmp_path, caplog):
    (tmp_path / STARTS).mkdir()
    record_start(tmp_path, Ranks(), Progress(), None)
    assert f"{tmp_path / STARTS} cannot be written: Is a directory" in caplog.text


def test_the_commit_of_a_checkout(tmp_path, monkeypatch):
    assert commit_of(tmp_path) == {"commit": None, "changed": None}
    author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")

    def git(*arguments: str) -> str:
        call = ["git", "-C", str(tmp_path), *author, *arguments]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    assert commit_of(tmp_path) == {"commit": None, "changed": None}  # there is none yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as within a hook of Git
    with monkeypatch.context() as patch:
        patch.delenv("GIT_DIR")
        head = git("rev-parse", "HEAD")
    assert commit_of(tmp_path) == {"commit": head, "changed": False}
    (tmp_path / "a").write_text("2")
    assert commit_of(tmp_path) == {"commit": head, "changed": True}
    assert commit_of(tmp_path / "inside") == {"commit": None, "changed": None}


@pytest.mark.parametrize("git", [None, "#!/bin/sh\nexit 128\n"])
def test_without_a_git_that_tells(tmp_path, monkeypatch, git):
    (tmp_path / ".git").mkdir()
    if git is not None:
        (tmp_path / "git").write_text(git)
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tmp_path) == {"commit": None, "changed": None}
