"""Lock files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from passl.logging import get_logger


@contextmanager
def locked(path: Path, quiet: bool = False) -> Iterator[None]:
    """Hold the lock file of `path`, whose folder exists. The system releases it when the process
    ends in any way.

    Args:
        quiet: do not log that another process holds it.

    Raises:
        OSError, NotImplementedError: the file system has no locks.
    """
    mode = path.parent.stat().st_mode & 0o666  # who may write into the folder may lock
    lock = FileLock(path.with_name(f"{path.name}.lock"), mode=mode)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not quiet:
            get_logger().info("waiting for another process that holds %s", lock.lock_file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
