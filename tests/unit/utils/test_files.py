"""Files that are complete or not there, and what the logger writes into which place."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path

import pytest

from passl.utils.files import write_atomically, write_text
from passl.utils.logging import (
    PROGRESS,
    get_logger,
    log_to_console,
    log_to_file,
    stop_logging_to,
)


# -------------------------------------------------------------------------------------------------
# Files
# -------------------------------------------------------------------------------------------------
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
        assert temporary.parent == tmp_path
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


def test_progress_is_below_info_and_above_debug():
    assert logging.DEBUG < PROGRESS < logging.INFO


def test_info_means_to_other_packages_what_it_did():
    other = logging.getLogger("some.other.package")
    other.setLevel("INFO")
    assert other.level == logging.INFO
