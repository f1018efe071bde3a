"""One run at a time in a folder: a run holds `run.lock` until it ends, and `run.lock.json` says
which run holds it.
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
"""Seconds to wait for the lock: the loader's workers of a killed run may hold it one longer."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class RunLock:
    """The lock of a folder, held until `release`. The system releases it when the process ends,
    however it ends, so a dead process blocks nobody.

    Args:
        folder: of the run, which exists.
        way_on: how a run that was ended is continued, for the message.

    Raises:
        ConfigError: another run holds it; the message has its host and process.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, way_on: str = "by --resume auto"):
        self._holder = folder / HOLDER
        # Whoever may write into the folder may lock it.
        mode = folder.stat().st_mode & 0o666
        self._lock = FileLock(folder / LOCK, timeout=_PATIENCE, mode=mode)
        try:
            self._lock.acquire()
        except Timeout:
            raise ConfigError(
                f"output_dir: {folder} is in use by {_read(self._holder)}; wait for its end, or "
                f"end it and continue {way_on}, or choose another with -o output_dir=..."
            ) from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            get_logger().warning(
                "%s: the file system has no locks (%s); make sure that no other run writes there",
                folder,
                error,
            )
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        try:
            write_text(self._holder, json.dumps(holder) + "\n")
        except OSError as error:  # a full disk; the lock does not depend on it
            get_logger().warning("%s cannot be written: %s", self._holder, error.strerror)

    def release(self) -> None:
        """Release the folder. `run.lock` stays: removing it could give two runs a lock each."""
        with suppress(OSError):  # without a lock it has no meaning
            self._holder.unlink()
        self._lock.release()


def _read(holder: Path) -> str:
    """The holder of a lock as text."""
    try:
        found = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process, which has just started"
