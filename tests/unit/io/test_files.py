"""Files that are complete or not there, and what the logger writes into which place."""

from __future__ import annotations

import io
import json
import logging
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
from passl.logging import (
    PROGRESS,
    get_logger,
    log_to_console,
    log_to_file,
    printable,
    stop_logging_to,
)

# -------------------------------------------------------------------------------------------------
# Files
# -------------------------------------------------------------------------------------------------
NAME = os.fsdecode("写真 é".encode() + b" \xff\xe9.png")


def test_names_that_are_not_utf8_keep_their_bytes_in_lists(tmp_path):
    path = tmp_path / "list.txt"
    write_text(path, f"{NAME}\n")
    assert path.read_bytes() == os.fsencode(NAME) + b"\n"
    write_text(path, "a lone surrogate that stands for no byte: \ud800")
    assert path.read_text().endswith(r": \ud800")


def test_a_writer_that_takes_no_such_name_leaves_nothing(tmp_path):
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
def test_the_content_is_what_the_writer_wrote(tmp_path, before):
    path = tmp_path / "file.txt"
    if before is not None:
        path.write_text(before)
    write_atomically(path, lambda temporary: temporary.write_bytes(b"new\r\n\x00") and None)
    assert path.read_bytes() == b"new\r\n\x00"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_the_old_content_is_there_while_the_writer_writes(tmp_path):
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
def test_a_writer_that_fails_half_way_changes_nothing(tmp_path, before, error):
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


def test_a_writer_that_writes_no_file_changes_nothing(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError):
        write_atomically(path, lambda temporary: None)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file.txt": "old"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_changes_nothing(tmp_path, monkeypatch, step):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file.txt": "old"}


def test_the_content_is_on_the_disk_before_it_gets_the_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("replace"), replace(*names)))
    write_text(tmp_path / "file.txt", "new")
    assert steps == ["fsync", "replace", "fsync"]


def test_a_file_in_the_current_folder(tmp_path, monkeypatch):
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
def test_a_file_has_the_mode_of_any_new_file(tmp_path, umask, mask):
    umask(mask)
    for name, write in (("a", owner_only), ("b", lambda path: path.write_text("b"))):
        write_atomically(tmp_path / name, write, [tmp_path / f"{name}2"], tmp_path / f"{name}3")
        write_atomically(tmp_path / name, write, [], tmp_path / f"{name}3")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("a", "a2", "a3", "b", "b2", "b3"), 0o666 & ~mask)


def test_a_copy_without_hard_links_has_that_mode_too(tmp_path, monkeypatch, umask):
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


def test_only_what_dead_processes_have_left_is_removed(tmp_path, dead):
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


def test_a_leftover_is_in_nobodys_way(tmp_path, dead):
    """In a container every process may have the same number."""
    for pid in (dead, os.getpid()):
        leave(tmp_path, "a.txt", pid)
    write_text(tmp_path / "a.txt", "new")
    left = [f".old_a.txt.{pid}.tmp" for pid in (dead, os.getpid())]
    assert tree(tmp_path) == sorted(["a.txt", *left])


def test_another_file_on_its_way_is_left_alone(tmp_path):
    with unfinished(tmp_path / "a.b") as folder:
        write_text(tmp_path / "a", "")
        assert folder.is_dir()
    assert tree(tmp_path) == ["a"]


# -------------------------------------------------------------------------------------------------
# Logging
# -------------------------------------------------------------------------------------------------
@pytest.fixture
def logger():
    """The package's logger without handlers; it is put back as it was."""
    logger = get_logger()
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:] = []
    yield logger
    for handler in logger.handlers[:]:
        stop_logging_to(handler)
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture
def stderr(monkeypatch):
    """What stands for stderr; `stderr(terminal=True)` makes it a terminal."""

    def replace(terminal: bool) -> io.StringIO:
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return replace


def log_one_of_each(logger):
    logger.debug("a detail")
    logger.log(PROGRESS, "step %d", 5)
    logger.info("epoch done")
    logger.warning("look out")


def test_a_file_gets_progress_and_all_above(logger, tmp_path):
    log_to_file(tmp_path / "train.log")
    log_one_of_each(logger)
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split("] ")[1] for line in lines] == [
        "passl INFO: step 5",
        "passl INFO: epoch done",
        "passl WARNING: look out",
    ]


@pytest.mark.parametrize(
    ("terminal", "expected"),
    [(True, ["epoch done", "look out"]), (False, ["step 5", "epoch done", "look out"])],
)
def test_a_terminal_has_a_progress_bar_instead(logger, stderr, terminal, expected):
    stream = stderr(terminal)
    log_to_console()
    log_one_of_each(logger)
    assert [line.split(": ")[-1] for line in stream.getvalue().splitlines()] == expected


def test_the_console_shows_a_line_once(logger, stderr, tmp_path):
    stream = stderr(False)
    log_to_console()
    log_to_file(tmp_path / "train.log")
    log_to_console()
    logger.info("only once")
    assert stream.getvalue().count("only once") == 1
    assert (tmp_path / "train.log").read_text().count("only once") == 1


def test_stdout_and_the_root_logger_get_nothing(logger, stderr, capsys):
    root = logging.StreamHandler(sys.stdout)
    logging.getLogger().addHandler(root)
    try:
        stderr(False)
        log_to_console()
        logger.warning("look out")
    finally:
        logging.getLogger().removeHandler(root)
    assert capsys.readouterr().out == ""


def test_lines_are_appended_as_utf_8(logger, tmp_path):
    path = tmp_path / "train.log"
    path.write_text("before\n")
    log_to_file(path)
    logger.info("größe")
    assert path.read_text(encoding="utf-8").startswith("before\n[")
    assert path.read_text(encoding="utf-8").endswith("größe\n")


def test_a_file_that_is_taken_off_gets_nothing_more(logger, tmp_path):
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    handler = log_to_file(one)
    log_to_file(two)
    logger.info("first")
    stop_logging_to(handler)
    logger.info("second")
    assert handler.stream is None
    assert "first" in one.read_text()
    assert "second" not in one.read_text()
    assert "second" in two.read_text()


def test_a_log_file_takes_names_that_are_not_utf8(tmp_path, capsys):
    handler = log_to_file(tmp_path / "train.log")
    get_logger().warning("cannot read %s", NAME)
    stop_logging_to(handler)
    line = (tmp_path / "train.log").read_text()
    assert line.endswith(f"cannot read {printable(NAME)}\n")
    assert capsys.readouterr().err == ""


def test_progress_is_below_info_and_above_debug():
    assert logging.DEBUG < PROGRESS < logging.INFO


def test_info_means_to_other_packages_what_it_did():
    other = logging.getLogger("some.other.package")
    other.setLevel("INFO")
    assert other.level == logging.INFO
