"""What a process spends the time of its training steps on, by its own clock."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any, TypeVar

T = TypeVar("T")

READER, COPY, OTHER = "reader", "copy", "other"
COMPUTE, COMM = "compute", "comm"
"""Parts where operations are finished when they return: on a CPU."""
QUEUE, DEVICE = "queue", "device"
"""Parts where operations are queued: the host sees that it queues them and that it waits for what
they give, and not which of them the device spends its time on.
"""

NAMES = {
    READER: "waiting for data",
    COPY: "copying",
    COMPUTE: "computing",
    COMM: "communicating",
    QUEUE: "queueing operations",
    DEVICE: "waiting for the device",
    OTHER: "other work",
}
"""Parts of a step, as the log names them."""


class StepTimes:
    """Splits the time of a process into parts. Each moment counts for one part, the innermost of
    those that are open, so the parts sum to the time that has passed. It never waits for a device.

    Args:
        is_queued: whether operations are queued on a device.

    Attributes:
        parts: `reader` is waiting for data, `copy` copying it to tensors of the device, `compute`
            the step, `comm` its collective operations, which includes waiting for other ranks,
            `other` whatever is between steps: checkpoints, comparisons of weights, the log. Where
            operations are queued, `queue` is queueing all of those of a step, and `device` waiting
            for the device.
    """

    def __init__(self, is_queued: bool = False):
        self.is_queued = is_queued
        self.parts = (
            (READER, COPY, QUEUE, DEVICE, OTHER)
            if is_queued
            else (READER, COPY, COMPUTE, COMM, OTHER)
        )
        self._seconds = dict.fromkeys(self.parts, 0.0)
        self._part = self._outer = OTHER
        self._since = time.perf_counter()

    def reading(self, batches: Generator[T, None, None]) -> Iterator[T]:
        """The batches, whose reading counts as `reader`."""
        with closing(batches):
            while True:
                with self._open(READER):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch

    def copying(self) -> AbstractContextManager:
        """The context of copying a batch to tensors."""
        return self._open(COPY)

    def computing(self) -> AbstractContextManager:
        """The context of a training step."""
        return self._open(QUEUE if self.is_queued else COMPUTE)

    def communicating(self) -> AbstractContextManager:
        """The context of a collective operation. If it is queued, the host does not see its time,
        and queueing it counts for the part around it.
        """
        return nullcontext() if self.is_queued else self._open(COMM)

    def waiting(self) -> AbstractContextManager:
        """The context in which the host waits for what is queued."""
        return self._open(DEVICE) if self.is_queued else nullcontext()

    def begin_communicating(self) -> None:
        """Like `communicating`, for hooks."""
        self._outer = self._switch(COMM)

    def end_communicating(self) -> None:
        self._switch(self._outer)

    def take(self) -> dict[str, float]:
        """The seconds of each part since the last call."""
        self._switch(self._part)
        found, self._seconds = self._seconds, dict.fromkeys(self.parts, 0.0)
        return found

    def _switch(self, part: str) -> str:
        """Begin a part, and return the one before."""
        now, before = time.perf_counter(), self._part
        self._seconds[before] += now - self._since
        self._part, self._since = part, now
        return before

    @contextmanager
    def _open(self, part: str) -> Iterator[Any]:
        before = self._switch(part)
        try:
            yield
        finally:
            self._switch(before)
