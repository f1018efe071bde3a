"""What a loader's workers have in shared memory, and what is left of it when they are killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from passl.logging import get_logger

SHARED_MEMORY = Path("/dev/shm")


def fits_shared_memory(needed: int) -> bool:
    """Whether so many bytes fit into shared memory; a warning says if they do not."""
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
    """Remove the batches that workers which have ended had in shared memory."""
    for pid in pids:
        markers = SHARED_MEMORY.glob(_marker("*", pid).name)
        for path in [*SHARED_MEMORY.glob(f"paddle_{pid}_*"), *markers]:
            with suppress(OSError):
                path.unlink()


def remove_leftovers() -> None:
    """Remove what workers have left that were killed together with the process that they read for,
    which may still need the batches of a worker that has ended.
    """
    for path in SHARED_MEMORY.glob(_marker("*", "*").name):
        pids = [int(number) for number in path.name.split("_")[-2:]]
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            remove_shared_memory(pids[1:])


def mark_worker() -> None:
    """Note that this process is a worker of its parent."""
    if SHARED_MEMORY.is_dir():
        _marker(os.getppid(), os.getpid()).touch()


def _marker(parent: int | str, pid: int | str) -> Path:
    """A file that says that a process is, or was, a worker of that parent. Containers may share
    memory without sharing process numbers, so these are told apart.
    """
    namespace = os.stat("/proc/self/ns/pid").st_ino if os.path.exists("/proc/self/ns/pid") else 0
    return SHARED_MEMORY / f"passl_worker_{namespace}_{parent}_{pid}"
