"""Where the lines of the logger go."""

from __future__ import annotations

import io
import logging
import os
import sys

import pytest

from passl.logging import (
    PROGRESS,
    get_logger,
    log_to_console,
    log_to_file,
    printable,
    stop_logging_to,
)

NAME = os.fsdecode("写真 é".encode() + b" \xff\xe9.png")


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


def test_log_file_has_progress_and_higher_levels(logger, tmp_path):
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
def test_console_shows_progress_only_without_a_terminal(logger, stderr, terminal, expected):
    stream = stderr(terminal)
    log_to_console()
    log_one_of_each(logger)
    assert [line.split(": ")[-1] for line in stream.getvalue().splitlines()] == expected


def test_console_shows_each_line_once(logger, stderr, tmp_path):
    stream = stderr(False)
    log_to_console()
    log_to_file(tmp_path / "train.log")
    log_to_console()
    logger.info("only once")
    assert stream.getvalue().count("only once") == 1
    assert (tmp_path / "train.log").read_text().count("only once") == 1


def test_stdout_and_root_logger_get_nothing(logger, stderr, capsys):
    root = logging.StreamHandler(sys.stdout)
    logging.getLogger().addHandler(root)
    try:
        stderr(False)
        log_to_console()
        logger.warning("look out")
    finally:
        logging.getLogger().removeHandler(root)
    assert capsys.readouterr().out == ""


def test_log_lines_are_appended_in_utf_8(logger, tmp_path):
    path = tmp_path / "train.log"
    path.write_text("before\n")
    log_to_file(path)
    logger.info("größe")
    assert path.read_text(encoding="utf-8").startswith("before\n[")
    assert path.read_text(encoding="utf-8").endswith("größe\n")


def test_stop_logging_to_a_file(logger, tmp_path):
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


def test_log_file_accepts_names_that_are_not_utf8(tmp_path, capsys):
    handler = log_to_file(tmp_path / "train.log")
    get_logger().warning("cannot read %s", NAME)
    stop_logging_to(handler)
    line = (tmp_path / "train.log").read_text()
    assert line.endswith(f"cannot read {printable(NAME)}\n")
    assert capsys.readouterr().err == ""


def test_progress_is_below_info_and_above_debug():
    assert logging.DEBUG < PROGRESS < logging.INFO


def test_info_of_other_packages_is_unchanged():
    other = logging.getLogger("some.other.package")
    other.setLevel("INFO")
    assert other.level == logging.INFO
