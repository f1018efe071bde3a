"""Files that are complete or absent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from passl.io.files import (
    duplicate,
    remove_unfinished,
    to_json,
    unfinished,
    write_atomically,
    write_text,
)
from passl.logging import printable

NAME = os.fsdecode("写真 é".encode() + b" \xff\xe9.png")


def test_names_that_are_not_utf8_keep_their_bytes_in_lists(tmp_path):
    path = tmp_path / "list.txt"
    write_text(path, f"{NAME}\n")
    assert path.read_bytes() == os.fsencode(NAME) + b"\n"
    write_text(path, "a lone surrogate that stands for no byte: \ud800")
    assert path.read_text().endswith(r": \ud800")


def test_name_that_the_writer_refuses_leaves_nothing(tmp_path):
    def write(temporary):
        temporary.name.encode()  # as safetensors does

    with pytest.raises(OSError, match="not UTF-8; choose another"):
        write_atomically(tmp_path / NAME, write)
    assert list(tmp_path.iterdir()) == []


def test_json_with_names_that_are_not_utf8_is_utf8(tmp_path):
    text = to_json({"name": NAME})
    assert json.loads(text.encode()) == {"name": NAME}
    assert "写真 é" in text
    assert printable(NAME) == r"写真 é \udcff\udce9.png"


@pytest.mark.parametrize("before", [None, "old and longer than what comes"])
def test_write_atomically(tmp_path, before):
    path = tmp_path / "file.txt"
    if before is not None:
        path.write_text(before)
    write_atomically(path, lambda temporary: temporary.write_bytes(b"new\r\n\x00") and None)
    assert path.read_bytes() == b"new\r\n\x00"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_old_content_stays_during_the_write(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("ne")
        assert path.read_text() == "old"
        temporary.write_text("new")

    write_atomically(path, write)
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [None, "old"])
def test_writer_that_fails_changes_nothing(tmp_path, before, error):
    path = tmp_path / "file.txt"
    if before is not None:
        path.write_text(before)

    def write(temporary):
        temporary.write_text("half")
        raise error("no space left")

    with pytest.raises(error, match="no space left"):
        write_atomically(path, write)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == (
        {} if before is None else {"file.txt": before}
    )


def test_writer_without_a_file_changes_nothing(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError):
        write_atomically(path, lambda temporary: None)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file.txt": "old"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_disk_that_fails_changes_nothing(tmp_path, monkeypatch, step):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file.txt": "old"}


def test_content_is_flushed_before_the_rename(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("replace"), replace(*names)))
    write_text(tmp_path / "file.txt", "new")
    assert steps == ["fsync", "replace", "fsync"]


def test_file_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(Path("file.txt"), "new")
    assert (tmp_path / "file.txt").read_text() == "new"


def test_text_is_utf_8(tmp_path):
    write_text(tmp_path / "file.txt", "größe\n日本\n")
    assert (tmp_path / "file.txt").read_bytes() == "größe\n日本\n".encode()


@pytest.fixture
def umask():
    """umask(0o022) sets it for this test."""
    before = os.umask(0)
    yield os.umask
    os.umask(before)


def owner_only(path: Path) -> None:
    save_file({"a": np.zeros(3)}, path)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
def test_mode_follows_the_umask(tmp_path, umask, mask):
    umask(mask)
    for name, write in (("a", owner_only), ("b", lambda path: path.write_text("b"))):
        write_atomically(tmp_path / name, write, [tmp_path / f"{name}2"], tmp_path / f"{name}3")
        write_atomically(tmp_path / name, write, [], tmp_path / f"{name}3")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("a", "a2", "a3", "b", "b2", "b3"), 0o666 & ~mask)


def test_mode_of_a_copy_follows_the_umask(tmp_path, monkeypatch, umask):
    def refuse(*paths):
        raise OSError("no links here")

    umask(0o022)
    write_text(tmp_path / "a", "text")
    umask(0o027)
    monkeypatch.setattr(os, "link", refuse)
    duplicate(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o640


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def leave(folder: Path, name: str, pid: int) -> None:
    """What a killed process leaves, of this version and of 0.1."""
    (folder / f".{name}.{pid}.tmp").mkdir()
    (folder / f".{name}.{pid}.tmp" / name).write_text("half")
    (folder / f".old_{name}.{pid}.tmp").write_text("half")


def test_only_leftovers_of_dead_processes_are_removed(tmp_path, dead):
    leave(tmp_path, "last.safetensors", dead)
    leave(tmp_path, "exported", os.getpid())
    (tmp_path / f".link.{dead}.tmp").symlink_to(tmp_path)
    leave(tmp_path, "theirs", os.getppid())
    others = [".notes.tmp", ".tmp", "a.tmp", f"b.{dead}.tmp", f".c.{dead}.tmp.txt", ".d.x1.tmp"]
    others += [".e.99999999999.tmp", ".f.0.tmp"]
    for name in others:
        (tmp_path / name).write_text("a user's")
    kept = [f".theirs.{os.getppid()}.tmp", f".old_theirs.{os.getppid()}.tmp"]
    remove_unfinished(tmp_path)
    assert tree(tmp_path) == sorted([*others, *kept, f"{kept[0]}/theirs"])


def test_leftovers_do_not_prevent_a_write(tmp_path, dead):
    """In a container every process may have the same number."""
    for pid in (dead, os.getpid()):
        leave(tmp_path, "a.txt", pid)
    write_text(tmp_path / "a.txt", "new")
    left = [f".old_a.txt.{pid}.tmp" for pid in (dead, os.getpid())]
    assert tree(tmp_path) == sorted(["a.txt", *left])


def test_unfinished_file_of_another_name_is_kept(tmp_path):
    with unfinished(tmp_path / "a.b") as folder:
        write_text(tmp_path / "a", "")
        assert folder.is_dir()
    assert tree(tmp_path) == ["a"]
