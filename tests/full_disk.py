"""A disk without room, for tests."""

from __future__ import annotations

import resource
import signal
from contextlib import contextmanager


@contextmanager
def file_limit(size: int):
    """No file may grow beyond that many bytes: the system's own error, as of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
