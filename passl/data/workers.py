"""Worker processes that read batches ahead and may be killed, be stopped or wait for a disk.

Paddle's own wait for a batch is in compiled code, where no signal handler runs, and never ends; and
the shared memory of a killed process stays in use until the machine restarts. This module waits in
Python and frees the memory.
"""

from __future__ import annotations

import atexit
import gc
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
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
from passl.step_times import StepTimes

_POLL = 0.001
"""Seconds between checks for a batch."""
_POLL_PARENT = 1.0
"""Seconds between a worker's checks of its parent."""
_PATIENCE = 5.0
"""Seconds without a batch before `check` is called."""
_STATES = {
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
    "D": "waiting for a disk",
    "Z": "dead",
    "X": "dead",
}
"""States of a process in /proc/PID/stat that explain a missing batch."""

_READINGS: WeakSet[Any] = WeakSet()
"""Paddle's iterators whose workers may be running."""


class Workers:
    """Processes that read batches ahead.

    Args:
        read: returns the arrays of a batch of keys; called in a worker.
        sampler: the keys of each batch.
        count: number of processes.
        prefetch_factor: batches that each process reads ahead.
        use_shared_memory: pass batches in shared memory rather than through pipes.
        warn_after: seconds without a batch before the workers' state is logged.
        timeout: seconds without a batch before the run ends.
    """

    def __init__(
        self,
        read: Callable[[Sequence[Key]], list[np.ndarray | str]],
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

    def batches(
        self, check: Callable[[], object], times: StepTimes
    ) -> Generator[list[Any], None, None]:
        """Iterate over the batches of the sampler.

        Args:
            check: called while a batch is late; an exception that it raises ends the wait.
            times: count the copying to tensors.

        Raises:
            RunError: a worker died or does not answer.
        """
        reading: Any = iter(self._loader)
        _READINGS.add(reading)
        # Paddle would report a killed worker by an exception anywhere in the main thread, even in
        # the middle of a checkpoint. `_wait` checks instead.
        paddle.base.core._erase_process_pids(id(reading))
        try:
            for taken in itertools.count():
                self._wait(reading, taken, check)
                if not reading._batches_outstanding:
                    return  # `next` would wait for the workers to end, forever if one is stopped
                with times.copying():  # Paddle's thread has the arrays and makes tensors of them
                    batch = next(reading)
                yield batch
        finally:
            _end(reading)

    def _wait(self, reading: Any, taken: int, check: Callable[[], object]) -> None:
        """Wait until Paddle has received more batches than were taken, or there are no more."""
        start, polls, is_warned = time.monotonic(), 0, False
        while reading._batches_outstanding and reading._rcvd_idx <= taken:
            time.sleep(_POLL)
            polls += 1
            if polls % 100 and not reading._thread_done_event.is_set():
                continue
            _check_alive(reading._workers)
            if reading._thread_done_event.is_set():
                return  # Paddle's thread has failed, and `next` raises its error
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
                    f"no batch for {late:.0f} s from {_described(reading._workers)}; check the "
                    "disk of the data, or increase loader.timeout. The last checkpoint is kept"
                )

    def _init_worker(self, worker: int) -> None:
        mark_worker()
        # A collection would write to every object of the parent, and so copy its memory.
        gc.freeze()
        # A signal to stop often goes to the whole process group, but the run needs its workers
        # until it has saved.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_follow_parent, args=(os.getppid(),), daemon=True).start()
        # For transforms that use Paddle's generator. The others are seeded for each sample.
        rng = np.random.default_rng((self.sampler.seed, self.sampler.epoch, worker))
        paddle.seed(int(rng.integers(2**31)))


class _Keys(Dataset):
    """Returns keys unchanged, so that `collate_fn` reads the samples, and copies each into the
    batch while it is in the cache.
    """

    def __getitem__(self, key: Any) -> Any:
        return key


def _follow_parent(parent: int) -> None:
    """End this worker at a SIGTERM of its parent, or when the parent has died. Otherwise Paddle's
    worker could wait forever, for a request or for space in a pipe.
    """
    while True:
        received = signal.sigtimedwait([signal.SIGTERM], _POLL_PARENT)
        if os.getppid() != parent:
            remove_shared_memory([os.getpid()])
            os._exit(1)
        if received is not None and received.si_pid == parent:
            os._exit(0)


def _end(reading: Any) -> None:
    """End the workers of an epoch, also stopped ones, and free their memory."""
    reading._try_shutdown_all(_POLL_PARENT)
    for worker in reading._workers:
        worker.kill()
        worker.join()
    remove_shared_memory(worker.pid for worker in reading._workers)
    _READINGS.discard(reading)


def _end_all() -> None:
    for reading in list(_READINGS):
        _end(reading)


def _check_alive(workers: Sequence[Any]) -> None:
    """Raise RunError, with the likely reason, if a worker has died."""
    codes = {worker.pid: worker.exitcode for worker in workers if worker.exitcode}
    if not codes:
        return
    shown = ", ".join(
        f"{pid} ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
        for pid, code in codes.items()
    )
    raise RunError(
        f"a loader worker has died: process {shown}; SIGKILL often means that the machine is out "
        "of memory, SIGBUS that /dev/shm is full: reduce loader.num_workers. The last checkpoint "
        "is kept"
    )


def _described(workers: Sequence[Any]) -> str:
    return "the loader workers " + ", ".join(f"{w.pid} ({_state(w.pid)})" for w in workers)


def _state(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "gone"
    return _STATES.get(text.rpartition(")")[2].split()[0], "running")
