"""Shared memory of a loader's workers, which stays when they are killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from passl.logging import get_logger

SHARED_MEMORY = Path("/dev/shm")


def fits_shared_memory(needed: int) -> bool:
    """Whether so many bytes fit into shared memory; log a warning if not."""
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    if needed > free:
        get_logger().warning(
            "%s has %d MiB free, the loader's workers on this machine may need %d: batches go "
            "through pipes instead, which is slower",
            SHARED_MEMORY,
            free >> 20,
            needed >> 20,
        )
    return needed <= free


def remove_shared_memory(pids: Iterable[int]) -> None:
    """Remove the batches of workers that have ended from shared memory."""
    for pid in pids:
        markers = SHARED_MEMORY.glob(_marker("*", pid).name)
        for path in [*SHARED_MEMORY.glob(f"paddle_{pid}_*"), *markers]:
            with suppress(OSError):
                path.unlink()


def remove_leftovers() -> None:
    """Remove the batches of workers that were killed together with their parent, which else may
    still need them.
    """
    for path in SHARED_MEMORY.glob(_marker("*", "*").name):
        pids = [int(number) for number in path.name.split("_")[-2:]]
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            remove_shared_memory(pids[1:])


def mark_worker() -> None:
    """Mark this process as a worker of its parent."""
    if SHARED_MEMORY.is_dir():
        _marker(os.getppid(), os.getpid()).touch()


def _marker(parent: int | str, pid: int | str) -> Path:
    """The file that marks a process as a worker of that parent. Its name has the namespace of the
    process numbers, because containers may share memory without sharing process numbers.
    """
    namespace = os.stat("/proc/self/ns/pid").st_ino if os.path.exists("/proc/self/ns/pid") else 0
    return SHARED_MEMORY / f"passl_worker_{namespace}_{parent}_{pid}"
