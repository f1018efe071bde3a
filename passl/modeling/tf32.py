"""TF32, by which GPUs from the Ampere generation on may compute products of float32. Written from
Paddle's sources, untested: no GPU was available.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from paddle.base import core


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """A context in which products and convolutions of float32 may be computed in TF32, or may not.
    On a CPU it changes nothing.
    """
    before = core.get_cublas_switch(), core.get_cudnn_switch()
    try:
        core.set_cublas_switch(allowed)
        core.set_cudnn_switch(allowed)
        yield
    finally:
        core.set_cublas_switch(before[0])
        core.set_cudnn_switch(before[1])
