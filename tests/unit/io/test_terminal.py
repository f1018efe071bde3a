"""Progress bars, on a terminal in memory."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pyte
import pytest

from passl.io import terminal
from passl.io.terminal import Bar, write_above
from passl.logging import get_logger, log_to_console


class Terminal(io.StringIO):
    """A terminal of `columns` x 12 that this process writes to."""

    encoding = "utf-8"

    def __init__(self, columns: int):
        super().__init__()
        self.screen = pyte.HistoryScreen(columns, 12)
        self.screen.set_mode(pyte.modes.LNM)
        self.screen_input = pyte.Stream(self.screen)
        self.raw = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.raw += text
        self.screen_input.feed(text)
        return len(text)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display if line.strip()]


@pytest.fixture
def shown(monkeypatch):
    """Make stderr a terminal: shown(columns=100) -> Terminal."""

    def make(columns: int = 100, term: str = "xterm-256color") -> Terminal:
        made = Terminal(columns)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys, "stderr", made)
        monkeypatch.setattr(terminal, "_INTERVAL", -1.0)
        return made

    return make


def test_bar_whose_clock_has_not_moved(monkeypatch):
    monkeypatch.setattr(terminal.time, "monotonic", lambda: 3.0)
    bar = Bar("a", 10, "images")
    bar.update(2)
    assert bar.numbers().startswith("2/10")


def test_bars_show_parts_time_left_throughput_and_text(shown, monkeypatch):
    moments = iter([0.0, 0.0, 0.0, 0.0, *[10.0] * 50])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(moments))
    screen = shown()
    with Bar("train", 300, "images", done=100) as bar:
        bar.text = "loss 0.5"
        bar.update(50)
        (line,) = screen.lines
        # 50 of the 200 images that were left, in 10 s.
        assert line.startswith("train ") and "150/300  0:00:30 left  5 images/s  loss 0.5" in line
    assert screen.lines == []


def test_what_is_written_meanwhile_stands_above_whole(shown, monkeypatch):
    """Log lines and prints are complete, in order, and the bars stay below them."""
    screen = shown(columns=60)
    log_to_console()
    long = "x" * 150
    with Bar("run", 1000) as run, Bar("epoch", 10) as epoch:
        for step in range(3):
            run.update()
            epoch.update()
            get_logger().info("step %d %s", step, long if step == 1 else "")
        sys.stderr.write("half a line, ")
        epoch.update()
        sys.stderr.write("and the rest\n")
        assert [line.split()[0] for line in screen.lines[-2:]] == ["run", "epoch"]
    text = "".join(line.ljust(60) for line in screen.screen.display)
    assert long in text and text.count("INFO: step") == 3
    assert "half a line, and the rest" in text
    assert "epoch " not in text and "run " not in text
    assert sys.stderr is screen


@pytest.mark.parametrize("columns", [8, 12, 20, 40, 80, 200])
def test_a_bar_is_one_line_in_any_terminal(shown, columns):
    screen = shown(columns)
    with Bar("epoch 3/90", 500, "images") as bar:
        bar.text = "812 images/s  loss 2.3104  lr 1.00e-03"
        for _ in range(3):
            bar.update()
            assert len(screen.lines) == 1
            assert len(screen.lines[0]) <= max(columns - 3, 1)
    assert screen.lines == []
    assert not screen.screen.history.top


def test_no_color_and_a_visible_cursor(shown, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    screen = shown()
    with pytest.raises(KeyboardInterrupt), Bar("run", 10) as bar:
        bar.update(5)
        raise KeyboardInterrupt
    assert screen.lines == []
    assert not screen.screen.cursor.hidden and "\x1b[?25l" not in screen.raw
    assert not [
        code for code in screen.raw.split("\x1b[")[1:] if code.split("m")[0].startswith("3")
    ]


@pytest.mark.parametrize("term", ["dumb", None])
def test_elsewhere_nothing_is_written(shown, term):
    """On a dumb terminal and in a pipe; other ranks neither."""
    screen = shown(term=term or "xterm")
    with Bar("run", 10, shown=term is not None) as bar:
        bar.update(5)
    assert screen.raw == "" and bar.done == 5


def test_rich_is_imported_for_a_terminal_only():
    code = (
        "import sys; from passl.io.terminal import Bar\n"
        "with Bar('run', 10) as bar: bar.update(5)\n"
        "sys.exit('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_signal_s_line_stands_above(shown, monkeypatch):
    screen = shown()
    monkeypatch.setattr(terminal.os, "write", lambda _, data: screen.write(data.decode()))
    with Bar("run", 10) as run, Bar("epoch", 10):
        screen.write("^C")  # the terminal's echo
        write_above("SIGINT: saving")
        run.update()
        assert [line.split()[0] for line in screen.lines] == ["SIGINT:", "run", "epoch"]
    assert screen.lines == ["SIGINT: saving"]


def test_a_terminal_that_is_gone_does_not_end_the_work(shown):
    screen = shown()

    def fail(text):
        raise OSError(5, "Input/output error")

    with Bar("run", 10) as bar:
        screen.write = fail
        bar.update(4)
        bar.update(4)
    assert bar.done == 8 and sys.stderr is screen


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_draws_nothing(shown):
    screen = shown()
    with Bar("run", 10) as bar:
        child = os.fork()
        if not child:
            bar.update(5)
            os._exit(0 if sys.stderr is screen and terminal._Display.current is None else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert len(screen.lines) == 1
