"""Paddle's loader with worker processes, which may be killed, stopped, or wait for a disk for ever.

Paddle's own wait for a batch runs in compiled code, where no signal handler runs, and has no end.
What a killed process had in shared memory stays there until the machine is restarted. Both are
mended here.
"""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import paddle
from paddle.io import DataLoader, Dataset

from passl.data.samplers import BatchSampler, Key
from passl.errors import RunError
from passl.io.shared_memory import mark_worker, remove_leftovers, remove_shared_memory
from passl.logging import get_logger

_LOOK = 0.001
"""Seconds between two looks for a batch."""
_LOOK_AFTER = 1.0
"""Seconds between two looks after a worker's parent."""
_PATIENCE = 5.0
"""Seconds that a batch may take although the run has been told to stop."""
_STATES = {
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
    "D": "waiting for a disk",
    "Z": "dead",
    "X": "dead",
}
"""States of a process in /proc/PID/stat that explain a batch that does not come."""

_READINGS: WeakSet[Any] = WeakSet()
"""Paddle's iterators whose workers may run."""


class Workers:
    """Processes that read batches ahead.

    Args:
        read: keys to arrays; called in a worker.
        sampler: which samples make the batches.
        count: how many processes.
        prefetch_factor: batches that each of them reads ahead.
        use_shared_memory: hand batches over in shared memory rather than through pipes.
        warn_after: seconds without a batch after which the workers' state is logged.
        timeout: seconds without a batch after which the run ends.
    """

    def __init__(
        self,
        read: Callable[[Sequence[Key]], list[np.ndarray]],
        sampler: BatchSampler,
        *,
        count: int,
        prefetch_factor: int,
        use_shared_memory: bool,
        warn_after: float,
        timeout: float,
    ):
        self.sampler, self.warn_after, self.timeout = sampler, warn_after, timeout
        self._loader = DataLoader(
            _Keys(),
            batch_sampler=sampler,
            collate_fn=read,
            num_workers=count,
            prefetch_factor=prefetch_factor,
            use_shared_memory=use_shared_memory,
            worker_init_fn=self._init_worker,
        )
        remove_leftovers()
        atexit.register(_end_all)  # runs before multiprocessing waits for them

    def batches(self, check: Callable[[], object]) -> Iterator[list[Any]]:
        """The sampler's batches.

        Args:
            check: called while a batch is late; what it raises ends the wait.

        Raises:
            RunError: a worker has died, or does not answer.
        """
        reading: Any = iter(self._loader)
        _READINGS.add(reading)
        # Paddle would raise that a worker was killed wherever the main thread is, in the middle of
        # a checkpoint too; `_wait` looks instead.
        paddle.base.core._erase_process_pids(id(reading))
        try:
            for taken in itertools.count():
                self._wait(reading, taken, check)
                if not reading._batches_outstanding:
                    return  # `next` would wait for the workers' end, without end if one is stopped
                yield next(reading)
        finally:
            _end(reading)

    def _wait(self, reading: Any, taken: int, check: Callable[[], object]) -> None:
        """Return when Paddle has received more batches than were taken, or there will be none."""
        start, looks, is_warned = time.monotonic(), 0, False
        while reading._batches_outstanding and reading._rcvd_idx <= taken:
            time.sleep(_LOOK)
            looks += 1
            if looks % 100 and not reading._thread_done_event.is_set():
                continue
            _check_alive(reading._workers)
            if reading._thread_done_event.is_set():
                return  # Paddle's thread has failed, and `next` says why
            late = time.monotonic() - start
            if late > _PATIENCE:
                check()
            if late > self.warn_after and not is_warned:
                is_warned = True
                get_logger().warning(
                    "no batch for %.0f s from %s; the run ends after %g s",
                    late,
                    _described(reading._workers),
                    self.timeout,
                )
            if late > self.timeout:
                raise RunError(
                    f"no batch for {late:.0f} s from {_described(reading._workers)}; look at the "
                    "disk that the data is on, or raise loader.timeout. The last checkpoint is kept"
                )

    def _init_worker(self, worker: int) -> None:
        mark_worker()
        # A run that is told to stop, often with all of its process group, needs its workers until
        # it has saved.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
        # Paddle's generator in a worker, for transforms that use it. The other generators are
        # seeded for each sample.
        rng = np.random.default_rng((self.sampler.seed, self.sampler.epoch, worker))
        paddle.seed(int(rng.integers(2**31)))


class _Keys(Dataset):
    """Gives Paddle's loader the keys themselves, for the function that it calls with a batch of
    what it got: there each image is put into the batch while the cache still has it.
    """

    def __getitem__(self, key: Key) -> Key:
        return key


def _follow(parent: int) -> None:
    """End this worker when its parent says so by SIGTERM, or has died. Paddle's worker may then
    wait for ever, for a batch that nobody asks for or for room in a pipe that nobody reads.
    """
    while True:
        told = signal.sigtimedwait([signal.SIGTERM], _LOOK_AFTER)
        if os.getppid() != parent:
            remove_shared_memory([os.getpid()])
            os._exit(1)
        if told is not None and told.si_pid == parent:
            os._exit(0)


def _end(reading: Any) -> None:
    """End an epoch's workers, stopped ones too, and free their memory."""
    reading._try_shutdown_all(_LOOK_AFTER)
    for worker in reading._workers:
        worker.kill()
        worker.join()
    remove_shared_memory(worker.pid for worker in reading._workers)
    _READINGS.discard(reading)


def _end_all() -> None:
    for reading in list(_READINGS):
        _end(reading)


def _check_alive(workers: Sequence[Any]) -> None:
    """Raise RunError if a worker has been killed, with the likely reason."""
    codes = {worker.pid: worker.exitcode for worker in workers if worker.exitcode}
    if not codes:
        return
    shown = ", ".join(
        f"{pid} ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
        for pid, code in codes.items()
    )
    raise RunError(
        f"a loader's worker has died: process {shown}; SIGKILL often means that the memory is used "
        "up, SIGBUS that /dev/shm is full: use fewer loader.num_workers. The last checkpoint is "
        "kept"
    )


def _described(workers: Sequence[Any]) -> str:
    return "the loader's workers " + ", ".join(f"{w.pid} ({_state(w.pid)})" for w in workers)


def _state(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "gone"
    return _STATES.get(text.rpartition(")")[2].split()[0], "running")
