"""Workers of a loader that are stopped, killed, or left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from passl.data import workers as workers_module
from passl.data.loader import build_loader
from passl.errors import RunError
from passl.io.shared_memory import SHARED_MEMORY, remove_leftovers
from passl.logging import get_logger

ROOT = Path(__file__).resolve().parents[3]


def loader(**options):
    """Digits, by two workers."""
    dataset = {"name": "Digits", "split": "train", "transforms": [{"name": "Normalize"}]}
    options = {"num_workers": 2, "use_shared_memory": True, **options}
    sampler = {"batch_size": 50, "shuffle": True}
    return build_loader({"dataset": dataset, "sampler": sampler, "loader": options}, 0)


def running() -> list[int]:
    """Workers of this process."""
    (reading,) = workers_module._READINGS
    return [worker.pid for worker in reading._workers]


def left_behind(pids: list[int]) -> list[str]:
    """What these processes have in shared memory."""
    return [p.name for pid in pids for p in SHARED_MEMORY.glob(f"p*_{pid}*") if pid > 0]


def is_alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def test_stopped_workers_are_logged_and_end_the_run(caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    whole = loader()
    batches = whole.epoch(0)
    next(batches)  # workers may start slowly
    whole._workers.warn_after, whole._workers.timeout = 0.2, 1.0
    pids = running()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RunError, match=f"{pids[0]} .stopped by a signal.*loader.timeout"):
        list(batches)
    assert len(caplog.records) == 1
    assert "the run ends after 1 s" in caplog.text
    assert not any(map(is_alive, pids))
    assert left_behind(pids) == []


def test_workers_stopped_after_their_last_batch_end():
    whole = loader()
    batches = whole.epoch(0)
    for _ in range(len(whole)):
        next(batches)
    pids = running()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    assert next(batches, None) is None
    assert not any(map(is_alive, pids))
    assert left_behind(pids) == []


def test_check_can_end_the_wait_for_a_late_batch(monkeypatch):
    def stop():
        raise InterruptedError

    monkeypatch.setattr(workers_module, "_PATIENCE", 60.0)
    batches = loader().epoch(0, check=stop)
    next(batches)
    monkeypatch.setattr(workers_module, "_PATIENCE", 0.2)
    pids = running()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(InterruptedError):
        list(batches)
    assert not any(map(is_alive, pids))
    assert left_behind(pids) == []


def test_killed_worker_is_reported():
    batches = loader().epoch(0)
    next(batches)
    pids = running()
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(RunError, match=f"worker has died: process {pids[1]} .SIGKILL.*memory"):
        list(batches)
    assert left_behind(pids) == []


def test_unfinished_epoch_leaves_nothing_behind():
    batches = loader().epoch(0)
    next(batches)
    pids = running()
    batches.close()
    assert not any(map(is_alive, pids))
    assert left_behind(pids) == []


SCRIPT = """
import os, signal, sys
sys.path[:0] = [{root!r}, {here!r}]
from test_workers import loader, running
batches = loader().epoch(0)
next(batches)
print(*running(), flush=True)
signal.pause()
"""


def test_leftovers_of_a_killed_process_group_are_removed(tmp_path):
    script = SCRIPT.format(root=str(ROOT), here=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        remove_leftovers()
        assert left_behind(pids)  # it runs
        os.killpg(process.pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while any(map(is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    assert left_behind(pids)
    remove_leftovers()
    assert left_behind(pids) == []


@pytest.mark.parametrize("processes", [1, 4])
def test_shared_memory_is_shared_by_all_processes_of_the_machine(processes, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "passl.data.loader.fits_shared_memory", lambda needed: asked.append(needed) or True
    )
    node = {"name": "Digits", "split": "train", "transforms": [{"name": "Normalize"}]}
    section = {"dataset": node, "sampler": {"batch_size": 10}, "loader": {"num_workers": 3}}
    build_loader(section, 0, 0, processes, local_world=processes)
    # Batches that wait and batches that are made, of two workers' prefetches.
    assert asked == [processes * 2 * 3 * 2 * 10 * (3 * 32 * 32 * 4)]
