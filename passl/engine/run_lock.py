"""One run at a time in a folder: a run holds `run.lock` as long as it lasts, and `run.lock.json`
says which run that is.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from passl.errors import ConfigError
from passl.io.files import write_text
from passl.logging import get_logger

LOCK, HOLDER = "run.lock", "run.lock.json"
_PATIENCE = 3.0
"""Seconds to wait for the lock: the loader's workers of a run that was killed may hold it for one
more.
"""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class RunLock:
    """The lock of a folder, held until `release`. The system releases it when the process ends,
    however it ends; so what a dead process has left blocks nobody.

    Args:
        folder: of the run; it exists.

    Raises:
        ConfigError: another run holds it; the message names its host and process.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path):
        self._holder = folder / HOLDER
        # Who may write into the folder may lock it.
        mode = folder.stat().st_mode & 0o666
        self._lock = FileLock(folder / LOCK, timeout=_PATIENCE, mode=mode)
        try:
            self._lock.acquire()
        except Timeout:
            raise ConfigError(
                f"output_dir: {folder} is in use by {_read(self._holder)}; wait for its end, or "
                "end it and go on by --resume auto, or choose another with -o output_dir=..."
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            get_logger().warning(
                "%s: the file system has no locks (%s); make sure that no other run writes there",
                folder,
                error,
            )
        told = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        try:
            write_text(self._holder, json.dumps(told) + "\n")
        except OSError as error:  # a full disk: the lock holds without it
            get_logger().warning("%s cannot be written: %s", self._holder, error.strerror)

    def release(self) -> None:
        """Let go of the folder. `run.lock` stays: removing it could give two runs a lock each."""
        with suppress(OSError):  # it says nothing as long as nobody holds the lock
            self._holder.unlink()
        self._lock.release()


def _read(holder: Path) -> str:
    """Who holds a lock, in words."""
    try:
        told = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process, which has just begun"
