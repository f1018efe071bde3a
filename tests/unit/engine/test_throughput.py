"""Which part of a step binds, and which rank the others wait for."""

from __future__ import annotations

import time

import pytest

from passl.engine.throughput import Split, slowest
from passl.step_times import StepTimes


def cpu(reader: float, compute: float, comm: float) -> dict[str, float]:
    return {"reader": reader, "copy": 0.0, "compute": compute, "comm": comm, "other": 0.0}


def gpu(reader: float, queue: float, device: float) -> dict[str, float]:
    return {"reader": reader, "copy": 0.0, "queue": queue, "device": device, "other": 0.0}


@pytest.mark.parametrize(
    ("splits", "rank", "bound_by"),
    [
        ([cpu(1, 6, 3)], 0, "compute"),
        # Rank 1 waits for data. Rank 0 spends most of its time in a collective operation, and what
        # it would name is wrong.
        ([cpu(0, 2, 8), cpu(7, 2, 1)], 1, "reader"),
        ([cpu(0, 2, 8), cpu(0, 3, 7), cpu(0, 2, 8)], 1, "comm"),  # the network is slow
        ([cpu(0, 4, 6), cpu(0, 9, 1)], 1, "compute"),  # a slow processor
        # The host waits for the device: it always has something to do.
        ([gpu(5, 3, 2)], 0, "device"),
        ([gpu(5, 5, 0.1)], 0, "reader"),
        ([gpu(1, 9, 0)], 0, "queue"),
        # The device of rank 0 waits for rank 1, which waits for data.
        ([gpu(0, 1, 9), gpu(8, 2, 0)], 1, "reader"),
    ],
)
def test_what_binds(splits, rank, bound_by):
    found = slowest(splits)
    assert (found.rank, found.bound_by, found.total) == (rank, bound_by, sum(splits[rank].values()))


def test_how_long_the_others_wait():
    assert slowest([cpu(0, 2, 8), cpu(0, 6, 4), cpu(0, 3, 7)]).imbalance == pytest.approx(7 / 3)
    assert Split(cpu(1, 2, 0)).imbalance == 0


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still: `clock[0]` is its time."""
    found = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: found[0])
    return found


def test_each_moment_counts_for_the_innermost_part(clock):
    times = StepTimes()
    clock[0] += 1
    with times.computing():
        clock[0] += 2
        with times.communicating():
            clock[0] += 4
        times.begin_communicating()  # as the hooks of gradients do
        clock[0] += 8
        times.end_communicating()
        with pytest.raises(KeyError), times.waiting():  # nothing is queued on a CPU
            clock[0] += 16
            raise KeyError
        clock[0] += 32
    with times.copying():
        clock[0] += 64
        assert times.take() == cpu(0, 50, 12) | {"copy": 64, "other": 1}
        clock[0] += 128
    assert times.take() == cpu(0, 0, 0) | {"copy": 128}


def test_queued_operations_do_not_count_as_communication(clock):
    times = StepTimes(is_queued=True)
    with times.computing():
        clock[0] += 1
        with times.communicating():
            clock[0] += 2
        with times.waiting():
            clock[0] += 4
    assert times.take() == gpu(0, 3, 4)
