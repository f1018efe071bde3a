"""What `passl watch` says of runs in every state, from files like those of a run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import datetime, timezone

import pytest

from passl.analysis import watch as watching
from passl.analysis.run_state import Follower, Status, Tail
from passl.analysis.watch import curve, text_of, watch
from passl.errors import ConfigError

BEGIN = 1_800_000_000.0
DEAD = 2**22 + 1
"""No process has this number."""


class Run:
    """Writes the files of a run of 3 epochs with 4 steps, one step in 10 s."""

    def __init__(self, folder):
        self.folder = folder

    def start(self, pid=None, **values):
        self.folder.mkdir(exist_ok=True)
        holder = {"host": socket.gethostname(), "pid": pid or os.getpid(), "since": "now"}
        (self.folder / "run.lock.json").write_text(json.dumps(holder))
        time = datetime.fromtimestamp(BEGIN, timezone.utc).isoformat(timespec="seconds")
        start = {"time": time, "world_size": 2, "device": "cpu", "step": 0, "error": None, **values}
        self.append("starts.jsonl", json.dumps(start))

    def end(self):
        (self.folder / "run.lock.json").unlink()

    def append(self, name, line, end="\n"):
        with (self.folder / name).open("a") as file:
            file.write(line + end)

    def log(self, text):
        self.append("train.log", f"[t] passl INFO: {text}")

    def row(self, phase, step, seconds=None, **values):
        time = BEGIN + (10 * step if seconds is None else seconds)
        self.append(
            "metrics.jsonl", json.dumps({"phase": phase, "step": step, "time": time, **values})
        )

    def step(self, epoch, iteration, seconds=None):
        """An interval after that step of the epoch, from 1."""
        self.append(
            "train.log", f"[t] passl INFO: [Train][Epoch {epoch}/3][Iter: {iteration}/4] lr: 1"
        )
        step = 4 * (epoch - 1) + iteration
        costs = {"batch_cost": 10.0, "compute_cost": 8.0, "bound_by": "compute"}
        self.row("train", step, seconds, epoch=epoch, lr=0.001, loss=1.5, ips=8.0, **costs)

    def evaluate(self, epoch, top1):
        self.append(
            "train.log", f"[t] passl INFO: [Eval][Epoch {epoch}] top1: 1; best top1: 1 (epoch 1)"
        )
        self.row("val", 4 * epoch, epoch=epoch, top1=top1, loss=1.0)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def test_a_run_from_before_its_start_to_its_end(run):
    follower = Follower(run.folder)
    assert follower.read()[0].status is Status.WAITING
    run.start()
    run.row("attention", 0, epoch=0, distance=[[1.0]])
    assert follower.read()[0].status is Status.STARTING
    run.step(1, 2)
    run.step(1, 4)
    state, rows = follower.read()
    assert (state.status, state.epoch, state.done, len(rows)) == (Status.RUNNING, 1, 4, 2)
    assert state.left == 80  # 8 steps of 10 s
    run.evaluate(1, 40.0)
    run.step(2, 2)
    state, rows = follower.read()
    assert (state.epoch, state.iteration, state.best, len(rows)) == (2, 2, (1, 40.0), 2)
    text = "\n".join(text_of(run.folder, state, 100))
    for part in ("is running", "2 process(es)", "epoch 2/3", "step 2/4", "50.0 %", "0:01:00 left"):
        assert part in text
    for part in ("loss 1.5000", "8.0 images/s", "computing 80 %", "best top1 40.00 % in epoch 1"):
        assert part in text
    for epoch, top1 in ((2, 60.0), (3, 50.0)):
        run.step(epoch, 4)
        run.evaluate(epoch, top1)
    state, _ = follower.read()
    assert state.status is Status.RUNNING  # it still saves
    run.end()
    state, rows = follower.read()
    assert (state.status, state.best, state.left, rows) == (Status.FINISHED, (2, 60.0), 0, [])
    assert {"run.lock", "unsaved_1"}.isdisjoint(path.name for path in run.folder.iterdir())


def test_killed_resumed_and_stopped(run):
    """The resume drops rows after its checkpoint, and goes on slower than before."""
    run.start(pid=DEAD)
    for iteration in (1, 2, 3):
        run.step(1, iteration)
    follower = Follower(run.folder)
    state, _ = follower.read()
    assert state.status is Status.KILLED and "--resume auto" in "\n".join(
        text_of(run.folder, state, 80)
    )
    kept = (run.folder / "metrics.jsonl").read_text().splitlines(keepends=True)[0]
    (run.folder / "new").write_text(kept)
    (run.folder / "new").replace(run.folder / "metrics.jsonl")
    later = datetime.fromtimestamp(BEGIN + 1000, timezone.utc).isoformat(timespec="seconds")
    run.start(time=later, resumed_from="/a/last.safetensors", step=1)
    run.log("resumed after epoch 0, step 1; no score yet")
    state, _ = follower.read()
    assert (state.status, state.iteration) == (Status.STARTING, None)
    assert "resumed from last.safetensors at step 1" in "\n".join(text_of(run.folder, state, 80))
    run.step(1, 2, seconds=1020)
    run.step(1, 3, seconds=1040)
    state, _ = follower.read()
    assert (state.status, state.done, state.left) == (Status.RUNNING, 3, 180)
    run.end()
    assert follower.read()[0].status is Status.STOPPED


def test_a_process_of_another_machine_may_live(run):
    run.start()
    holder = {"host": "another", "pid": DEAD}
    (run.folder / "run.lock.json").write_text(json.dumps(holder))
    run.step(1, 1)
    os.utime(run.folder / "metrics.jsonl", (1, 1))
    os.utime(run.folder / "train.log", (1, 1))
    state, _ = Follower(run.folder).read()
    text = "\n".join(text_of(run.folder, state, 80))
    assert state.status is Status.RUNNING
    assert "on another" in text and "nothing was written for" in text


def test_a_start_that_failed_and_warnings(run):
    run.start(error="ConfigError: no \x1b[2Jdata")
    run.end()
    run.append("train.log", "[2026/11/22 02:00:00] passl rank 0 WARNING: bad sample 1")
    run.append("train.log", "[2026/11/22 02:00:01] passl INFO: the run a WARNING: of no warning")
    state, _ = Follower(run.folder).read()
    text = "\n".join(text_of(run.folder, state, 80))
    assert state.status is Status.FAILED
    assert "no \\x1b[2Jdata" in text and "2026/11/22 02:00:00  bad sample 1" in text
    assert "of no warning" not in text


def test_damaged_lines_are_left_out(run):
    run.start()
    for line in ('{"phase": "tr', "[1]", "\ufffd", '{"phase": "val"}', "[" * 100_000):
        run.append("metrics.jsonl", line)
    run.step(1, 1)
    run.append("metrics.jsonl", '{"phase": "train", "st', end="")  # being written
    follower = Follower(run.folder)
    state, rows = follower.read()
    assert (len(rows), state.train["step"]) == (1, 1)
    run.append("metrics.jsonl", 'ep": 2, "epoch": 1}')
    assert follower.read()[0].train["step"] == 2


def test_tail_reads_new_lines_once(tmp_path):
    path = tmp_path / "file"
    tail = Tail(path)
    assert tail.lines() == (False, [])
    path.write_bytes(b"one\ntw")
    assert tail.lines() == (True, [b"one"])
    with path.open("ab") as file:
        file.write(b"o\n")
    assert tail.lines() == (False, [b"two"])
    path.write_bytes(b"1\n")  # shorter
    assert tail.lines() == (True, [b"1"])


def test_lines_in_a_pipe(run, capsys, monkeypatch):
    """What came before is one line; then a line for each row, and each change of the status."""
    run.start()
    run.step(1, 2)
    run.step(1, 4)
    acts = iter(
        [
            lambda: run.evaluate(1, 40.0),
            lambda: [run.step(2, 4), run.evaluate(2, 60.0), run.step(3, 4), run.evaluate(3, 50.0)],
            run.end,
        ]
    )
    monkeypatch.setattr(watching.time, "sleep", lambda _: next(acts)())
    watch(run.folder, 1.0, once=False)
    lines = capsys.readouterr().out.splitlines()
    kinds = [
        line.removeprefix(str(run.folder)).split("  ")[0].split("(")[0].strip() for line in lines
    ]
    assert kinds == [
        *("training", "is running", "evaluation"),
        *("training", "evaluation", "training", "evaluation", "is finished"),
    ]
    assert "epoch 1: top1 40" in lines[2] and "best top1 40.00 %" in lines[2]


def test_ctrl_c_ends_it(run, capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    watch(run.folder, 1.0, once=False)
    assert "has not started" in capsys.readouterr().out


def test_once_needs_a_run(run, capsys):
    with pytest.raises(ConfigError, match="holds no run"):
        watch(run.folder, 1.0, once=True)
    run.start()
    run.step(1, 2)
    watch(run.folder, 1.0, once=True)
    assert "epoch 1/3  step 2/4" in capsys.readouterr().out


def test_curve(monkeypatch):
    monkeypatch.setattr(watching, "_takes", lambda _: True)
    assert curve([0, 8, 16, 12], 4, 2) == ["  █▄", " ███"]
    assert curve([0, 16], 4, 2) == ["  ██", "  ██"]
    assert curve([5, 5], 2, 1) == ["  "]
    assert curve(list(range(100)), 2, 1) == [" ▄█"[1:]]
    monkeypatch.setattr(watching, "_takes", lambda _: False)
    assert curve([0, 8, 16, 12], 4, 2) == ["  #=", " ###"]


def test_paddle_is_not_imported():
    code = "import sys, passl.analysis.watch; sys.exit(bool({'paddle', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
