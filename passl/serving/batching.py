"""Batches of what concurrent requests ask for.

Shapes in names: B images of a batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any, NamedTuple

import numpy as np

from passl.errors import RunError

Compute = Callable[[np.ndarray], Iterable[Any]]
"""From images [B, channels, height, width] to B results, such as the rows of logits [B, classes].
"""


class Item(NamedTuple):
    """A prepared image that waits.

    Args:
        image: float32 [channels, height, width].
        future: of its result.
        since: `time.perf_counter()` of its arrival.
    """

    image: np.ndarray
    future: Future[Any]
    since: float


class Batcher:
    """A thread that computes waiting images in batches.

    While a batch is computed, others wait, and form the next one; so batches grow with the load. An
    idle engine waits for `max_delay` after the first image.

    Args:
        compute: what it computes.
        max_batch: images of a batch, at most.
        max_delay: seconds that the first image of a batch waits for others, at most.
        observe: called after each batch with its number of images, the seconds that its first image
            has waited and those of the computation.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        max_batch: int,
        max_delay: float,
        observe: Callable[[int, float, float], None] = lambda images, waited, computed: None,
    ):
        self._compute, self._observe = compute, observe
        self._max_batch, self._max_delay = max_batch, max_delay
        self._items: deque[Item] = deque()
        self._changed = Condition()
        self._is_closed = False
        self._thread = Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, image: np.ndarray) -> Future[Any]:
        """Let an image, float32 [channels, height, width], wait for its batch. A cancelled future
        is left out of it.

        Raises:
            RunError: the batcher is closed.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._is_closed:
                raise RunError("the model is being removed")
            self._items.append(Item(image, future, time.perf_counter()))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Compute what waits, then end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            waiting = [item for item in batch if item.future.set_running_or_notify_cancel()]
            if waiting:
                self._compute_batch(waiting)

    def _next_batch(self) -> list[Item]:
        """Wait for a batch; none after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._is_closed)
            if not self._items:
                return []
            left = self._items[0].since + self._max_delay - time.perf_counter()
            self._changed.wait_for(
                lambda: len(self._items) >= self._max_batch or self._is_closed, max(left, 0)
            )
            count = min(len(self._items), self._max_batch)
            return [self._items.popleft() for _ in range(count)]

    def _compute_batch(self, batch: list[Item]) -> None:
        start = time.perf_counter()
        try:
            results = self._compute(np.stack([item.image for item in batch]))
        except Exception as error:  # whoever asked for the images reports it
            for item in batch:
                item.future.set_exception(error)
            return
        self._observe(len(batch), start - batch[0].since, time.perf_counter() - start)
        for item, result in zip(batch, results, strict=True):
            item.future.set_result(result)
