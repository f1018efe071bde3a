from __future__ import annotations

import threading

import numpy as np
import pytest

from passl.errors import RunError
from passl.serving.batching import Batcher


def image(value: float) -> np.ndarray:
    return np.full((1, 2, 2), value, np.float32)


class Engine:
    """Means of images, after `go` is set; keeps the sizes of its batches."""

    def __init__(self):
        self.go, self.begun, self.sizes = threading.Event(), threading.Event(), []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.begun.set()
        assert self.go.wait(10)
        self.sizes.append(len(images))
        return images.mean((1, 2, 3))[:, None]


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_what_waits_is_the_next_batch(engine):
    """The first image is alone, since nothing else waits; at most 4 of the others go together."""
    figures = []
    batcher = Batcher(
        engine, max_batch=4, max_delay=0, observe=lambda *each: figures.append(each[0])
    )
    futures = [batcher.submit(image(0))]
    assert engine.begun.wait(10)
    futures += [batcher.submit(image(value)) for value in range(1, 7)]
    engine.go.set()
    assert [future.result(10).tolist() for future in futures] == [[value] for value in range(7)]
    batcher.close()
    assert engine.sizes == figures == [1, 4, 2]


def test_an_idle_engine_waits_for_a_full_batch(engine):
    engine.go.set()
    batcher = Batcher(engine, max_batch=3, max_delay=60)
    futures = [batcher.submit(image(value)) for value in range(3)]
    assert [future.result(10).item() for future in futures] == [0, 1, 2]
    batcher.close()
    assert engine.sizes == [3]


def test_delay_ends_the_wait(engine):
    engine.go.set()
    batcher = Batcher(engine, max_batch=3, max_delay=0.01)
    assert batcher.submit(image(5)).result(10).item() == 5
    batcher.close()


def test_cancelled_images_are_not_computed(engine):
    batcher = Batcher(engine, max_batch=4, max_delay=0)
    first = batcher.submit(image(0))
    assert engine.begun.wait(10)
    second, third = batcher.submit(image(1)), batcher.submit(image(2))
    assert second.cancel()
    engine.go.set()
    assert (first.result(10).item(), third.result(10).item()) == (0, 2)
    batcher.close()
    assert engine.sizes == [1, 1]


def test_an_error_is_of_its_batch_alone():
    def compute(images: np.ndarray) -> np.ndarray:
        if images.max() > 1:
            raise RuntimeError("too bright")
        return images.mean((1, 2, 3))

    batcher = Batcher(compute, max_batch=1, max_delay=0)
    wrong, right = batcher.submit(image(2)), batcher.submit(image(1))
    with pytest.raises(RuntimeError, match="too bright"):
        wrong.result(10)
    assert right.result(10) == 1
    assert batcher.is_alive
    batcher.close()


def test_close_computes_what_waits(engine):
    batcher = Batcher(engine, max_batch=2, max_delay=60)
    futures = [batcher.submit(image(value)) for value in range(3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    engine.go.set()
    closing.join(10)
    assert [future.result(0).item() for future in futures] == [0, 1, 2]
    assert not batcher.is_alive
    with pytest.raises(RunError, match="removed"):
        batcher.submit(image(0))
