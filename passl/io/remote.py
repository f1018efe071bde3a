"""Files at addresses (https://, s3://, ...), read through fsspec in ranges that are checked, and
written.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from passl.errors import ConfigError, RunError
from passl.io.download import TEMPORARY
from passl.logging import get_logger

TIMEOUT = 60.0
"""Seconds that one answer, of at most `PIECE` bytes, may take."""
PAUSES = (1.0, 2.0, 4.0)
"""Seconds before the second and each further attempt."""
PIECE = 4 << 20
"""Bytes that are asked for at a time: a server's delay is then small beside the transfer."""
T = TypeVar("T")
_SYSTEMS: dict[str, Any] = {}
"""fsspec's file systems of this process, by protocol and host."""


def _close_connections() -> None:
    """Close the connections of this process. The next read opens new ones."""
    if _SYSTEMS:
        _SYSTEMS.clear()
        gc.collect()  # fsspec's systems refer to themselves, and close when they are removed


if hasattr(os, "register_at_fork"):
    # A forked process inherits the connections, but not the thread that serves them. When it closes
    # them, it does so in the event loop that it shares with its parent, which then gets no answers.
    os.register_at_fork(before=_close_connections)


def is_url(path: str) -> bool:
    """Whether this is an address rather than the path of a local file."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def read_url(
    url: str,
    begin: int | None = None,
    end: int | None = None,
    check: Callable[[bytes], object] = lambda content: None,
) -> bytes:
    """Return the bytes of a file at an address, after up to four attempts.

    Args:
        begin, end: a range of the file; null reads all of it.
        check: raises ValueError, with the reason, for bytes that are not the wanted ones.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: fsspec or the package of the protocol is missing, or the address has a user's
            name.
        RunError: the file cannot be read, or is not the wanted one.
    """

    def read() -> bytes:
        content = _read(url, begin, end)
        _check_length(content, begin, end)
        check(content)
        return content

    return _attempted(url, read, "copy the data to this machine and give its path")


def write_url(url: str, content: bytes) -> None:
    """Write a small file at an address and read it back, in up to four attempts.

    Raises:
        ConfigError, RunError: as for `read_url`.
    """

    def write() -> None:
        system = _system_of(url)
        system.pipe_file(system._strip_protocol(url), content)
        if _read(url, None, None) != content:
            raise ValueError("what was written reads back differently")

    _attempted(url, write, "try again later")


def upload(path: Path, url: str) -> None:
    """Copy a local file to an address, unless it is there with that size, in up to four attempts.

    Raises:
        ConfigError, RunError: as for `read_url`.
    """
    size = path.stat().st_size

    def put() -> None:
        system = _system_of(url)
        there = system._strip_protocol(url)
        if _size(system, there) == size:
            return
        system.put_file(str(path), there)
        if (written := _size(system, there)) != size:
            raise ValueError(f"it has {written} bytes there instead of {size:,}")

    _attempted(url, put, "try again later")


def make_folder(url: str) -> None:
    """Make a folder at an address whose file system has folders; that of object storage has not.
    Buckets are not made.
    """
    system = _system_of(url)
    with suppress(Exception):  # it is there, or writing to it says what is wrong
        system.mkdir(system._strip_protocol(url), create_parents=False)


def names_at(url: str) -> list[str]:
    """Names of the files in a folder at an address, as far as its server lists them by now."""
    system = _system_of(url)
    system.invalidate_cache()
    try:
        paths = system.ls(system._strip_protocol(url), detail=False)
    except FileNotFoundError:
        return []
    return [path.rstrip("/").rpartition("/")[2] for path in paths]


def remove_url(url: str) -> None:
    """Remove the file at an address, in one attempt. A failure costs space only: a warning."""
    try:
        system = _system_of(url)
        system.rm_file(system._strip_protocol(url))
    except FileNotFoundError:
        pass
    except Exception as error:  # each protocol has errors of its own
        get_logger().warning("%s cannot be removed: %s", url, _explained(error))


def _size(system: Any, path: str) -> int | None:
    system.invalidate_cache()
    try:
        return system.info(path)["size"]
    except FileNotFoundError:
        return None


def _attempted(url: str, act: Callable[[], T], advice: str) -> T:
    """What `act` returns, after up to four attempts."""
    reason = ""
    for attempt, pause in enumerate((0.0, *PAUSES)):
        if attempt:
            get_logger().warning("%s: %s; attempt %d follows", url, reason, attempt + 1)
            time.sleep(pause)
        try:
            return act()
        except (ConfigError, FileNotFoundError):
            raise
        except _RefusedError as error:
            raise RunError(f"{url}: {error}") from None
        except Exception as error:  # each protocol has errors of its own
            reason = _explained(error)
            if _is_final(error):
                raise RunError(f"{url}: {reason}; check the address and your access") from None
    raise RunError(
        f"{url}: {reason}, after {len(PAUSES) + 1} attempts; check the server and the network, or "
        f"{advice}"
    )


def fetch(url: str, path: Path, size: int, sha256: str) -> None:
    """Write the file at an address to a local one, in pieces.

    Raises:
        FileNotFoundError, ConfigError, RunError: as for `read_url`.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for begin in range(0, size, PIECE):
            content = read_url(url, begin, min(begin + PIECE, size))
            digest.update(content)
            file.write(content)
    if digest.hexdigest() != sha256:
        raise RunError(
            f"{url}: its SHA-256 is {digest.hexdigest()}, that of the wanted file {sha256}; upload "
            "the file again"
        )


class _RefusedError(Exception):
    """An answer that another attempt would not change."""


def _read(url: str, begin: int | None, end: int | None) -> bytes:
    system = _system_of(url)
    # fsspec's own argument of asynchronous systems; others have none, and no network as a rule.
    limits = {"timeout": TIMEOUT} if system.async_impl else {}
    return system.cat_file(system._strip_protocol(url), start=begin, end=end, **limits)


def _system_of(url: str) -> Any:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{url}: is not an address: {error}") from None
    if "@" in parts.netloc:
        raise ConfigError(
            f"an address at {parts.netloc.rpartition('@')[2]} has a user's name, which would be "
            "written to logs and checkpoints; set access in fsspec's configuration files"
        )
    key = f"{parts.scheme}://{parts.netloc}"
    try:
        system = _SYSTEMS.get(key)
        if system is None:
            from fsspec.core import url_to_fs

            system, _ = url_to_fs(url, skip_instance_cache=True)
            _SYSTEMS[key] = system
    except ImportError as error:
        # fsspec names the package of a protocol itself.
        what = "reading addresses needs fsspec: install it"
        if not (error.name or "").startswith("fsspec"):
            what = f"{error}, beside fsspec"
        raise ConfigError(f"{url}: {what}; in a checkout: pip install '.[remote]'") from None
    except ValueError as error:  # an unknown protocol
        raise ConfigError(f"{url}: {error}") from None
    return system


def _check_length(content: bytes, begin: int | None, end: int | None) -> None:
    if begin is None or end is None or len(content) == end - begin:
        return
    if len(content) > end - begin:
        raise _RefusedError(
            f"the answer has {len(content):,} bytes instead of the {end - begin:,} of the range; "
            "use a server that supports range requests"
        )
    raise ValueError(f"the answer has {len(content):,} bytes instead of {end - begin:,}")


def _is_final(error: Exception) -> bool:
    """Whether another attempt cannot help."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 400:
        return status not in TEMPORARY
    return isinstance(error, PermissionError | NotImplementedError)


def _explained(error: Exception) -> str:
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 400:
        return f"the server says {status} {getattr(error, 'message', '')}".rstrip()
    if type(error).__name__ == "FSTimeoutError":
        return f"no complete answer in {TIMEOUT:g} s"
    return " ".join(str(error).split()) or type(error).__name__
