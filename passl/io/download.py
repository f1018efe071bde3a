"""Downloads: a file is complete and verified, or it is absent.

pooch receives the file, with retries. This module decides what may be received:
files over https only, redirects included, of the published size and SHA-256 where they are known,
and no error page. A file gets its name after it has been verified, and of several processes that
want it one downloads while the others wait.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from passl import __version__
from passl.errors import ConfigError, RunError
from passl.io.files import HOME, cache_folder, sha256_of, write_atomically
from passl.io.lock import locked
from passl.io.terminal import Bar
from passl.logging import get_logger

MIRRORS = "PASSL_MIRRORS"
TIMEOUTS = (10.0, 30.0)
"""Seconds for connecting, and for each read."""
RETRIES = 3
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP status codes that another attempt may resolve."""
_CHUNK = 1 << 20
_HEAD = 512
"""Bytes at the beginning of a file that tell text from weights or an archive."""


class _RefusedError(Exception):
    """A download that failed, or must not be made; another attempt would not help."""


def fetch_file(
    name: str,
    url: str | None,
    path: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    note: str = "",
) -> Path:
    """Return `path`, after downloading the file if it is not there.

    Args:
        name: what messages call the file.
        url: https address; None if there is no lasting one.
        path: where the file belongs. A file that was put there by hand is used if it has the size
            and hash below, and moved aside if not.
        sha256: its SHA-256 or the first digits of it, if known.
        size: in bytes, if known.
        note: shown in the error message if there is no address.

    Raises:
        ConfigError: PASSL_MIRRORS is malformed.
        RunError: the file is not there and cannot be downloaded, or the download is not the file.
    """
    url = url and _mirrored(url)
    try:
        # A complete cache need not be writable, so the lock comes after the check.
        if path.is_file() and problem_of(path, sha256, size) is None:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            if not path.is_file() or _moved_aside(path, sha256, size):
                _download(name, url, path, sha256, size)
    except _RefusedError as error:
        where = f"get {url} by other means" if url else "get it yourself"
        more = f" ({note})" if note and not url else ""
        raise RunError(f"{name}: {error}; {where}{more} and put it at {path}") from None
    except (OSError, NotImplementedError) as error:  # the latter from filelock
        raise RunError(
            f"{name}: the folder {path.parent} cannot be written: {error}. Give one that can be "
            f"and has room for the file; {HOME} names the one of weights"
        ) from error
    return path


def fetch_url(url: str) -> Path:
    """Return the file at an address, from the cache if it is there. Its folder in the cache is
    named by the hash of the address.

    Raises:
        ConfigError: the address is not https, or names no file.
        RunError: as for `fetch_file`.
    """
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    if not _is_safe(url) or not name.strip(".") or "\0" in name:
        raise ConfigError(
            f"{url}: weights come from https://HOST/.../FILE, without a user's name; download the "
            "file yourself and give its path"
        )
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    return fetch_file(url, url, cache_folder() / "weights" / "urls" / key / name)


# --------------------------------------------------------------------------------------------------
# Files in the cache
# --------------------------------------------------------------------------------------------------
def problem_of(path: Path, sha256: str | None, size: int | None = None) -> str | None:
    """Return why this is not the wanted file, or None if it is."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found:,} bytes, the wanted file {size:,}"
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "it is empty"
    # Every format of weights or archives has bytes there that no text has.
    if not re.search(rb"[\x00-\x08\x0e-\x1f]", head):
        shown = " ".join(head[:60].decode("utf-8", "replace").split())
        return f"it is a page or another text, beginning with {shown!r}"
    if sha256 is not None and not (digest := sha256_of(path)).startswith(sha256):
        return f"its SHA-256 is {digest}, that of the wanted file {sha256}"
    return None


def _moved_aside(path: Path, sha256: str | None, size: int | None) -> bool:
    """Move the file to NAME.rejected if it is not the wanted one."""
    problem = problem_of(path, sha256, size)
    if problem:
        aside = path.with_name(f"{path.name}.rejected")
        os.replace(path, aside)
        get_logger().warning("%s: %s; moved to %s", path, problem, aside)
    return problem is not None


# --------------------------------------------------------------------------------------------------
# Files from the network
# --------------------------------------------------------------------------------------------------
def _download(name: str, url: str | None, path: Path, sha256: str | None, size: int | None) -> None:
    """Download a file to `path`, which gets its name after it has been verified."""
    if url is None:
        raise _RefusedError("there is no address to download it from")
    if not _is_safe(url):
        raise _RefusedError("files are downloaded over https only")
    import pooch  # with requests: neither is needed for a file that is there
    import requests

    def receive(address: str, temporary: str, _: Any) -> None:
        """Receive and verify the file. pooch tries again after a RequestException."""
        responses: list[requests.Response] = []

        def check(response: requests.Response, **_: Any) -> None:
            responses.append(response)
            _check_response(response, size)

        try:
            with Bar(path.name, unit="B") as bar:
                _downloader(check, bar)(address, temporary, None)
        except OSError as error:  # as a RequestException is
            if error.errno is not None:
                raise  # the disk's
            reason, is_temporary = _explain(error)
            if not is_temporary:
                raise _RefusedError(reason) from None
            get_logger().warning("%s: %s", name, reason)
            raise
        finally:
            for response in responses:  # pooch leaves a broken connection open
                response.close()
        problem = problem_of(Path(temporary), sha256, size)
        if problem:
            raise _RefusedError(f"the download is not the file: {problem}")

    def write(temporary: Path) -> None:
        registry, urls = {temporary.name: None}, {temporary.name: url}
        pooch.Pooch(
            temporary.parent, base_url="", registry=registry, urls=urls, retry_if_failed=RETRIES
        ).fetch(temporary.name, downloader=receive)

    get_logger().info("downloading %s to %s", url, path)
    pooch.get_logger().setLevel(logging.WARNING)  # its lines repeat ours
    try:
        write_atomically(path, write)
    except requests.RequestException as error:
        raise _RefusedError(f"{_explain(error)[0]}, after {RETRIES + 1} attempts") from None
    verified = "as published" if sha256 else "none is published to compare it with"
    get_logger().info("%s: complete, SHA-256 %s (%s)", path, sha256_of(path), verified)


def _downloader(check_response: Callable[..., None], bar: Bar) -> Any:
    from pooch import HTTPDownloader

    # Paddle's launcher takes https_proxy from its workers and leaves https_proxy_original.
    proxy = os.environ.get("https_proxy_original")  # noqa: SIM112
    return HTTPDownloader(
        progressbar=bar,
        chunk_size=_CHUNK,
        timeout=TIMEOUTS,
        # Compressed content would have another length than Content-Length says.
        headers={"User-Agent": f"passl/{__version__}", "Accept-Encoding": "identity"},
        hooks={"response": check_response},
        proxies={"https": proxy} if proxy else None,
        verify=os.environ.get("SSL_CERT_FILE") or True,
    )


def _check_response(response: Any, size: int | None) -> None:
    """Refuse a response before its body is received, or its redirect followed."""
    if response.is_redirect:
        target = urljoin(response.url, response.headers["Location"])
        if not _is_safe(target):
            raise _RefusedError(f"the server redirects to {target}, which is not https")
    elif response.ok:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise _RefusedError(f"the server sends it compressed, as {encoding}")
        length = response.headers.get("Content-Length", "")
        if not length.isdecimal():
            if response.headers.get("Transfer-Encoding", "").lower() == "chunked":
                return  # the end is marked
            raise _RefusedError("the server does not send its length: a part would look complete")
        if size is not None and int(length) != size:
            raise _RefusedError(
                f"the server's file has {int(length):,} bytes, not the published {size:,}"
            )


def _explain(error: OSError) -> tuple[str, bool]:
    """Return what went wrong, and whether another attempt can help."""
    import requests
    from urllib3.exceptions import MaxRetryError

    cause = error.args[0] if error.args else error
    if isinstance(cause, MaxRetryError):  # there is no connection
        reason = str(cause.reason).rpartition(": ")[2]
        if isinstance(error, requests.exceptions.SSLError):
            advice = "SSL_CERT_FILE names a file of certificates to trust"
            return f"no trusted connection to the server: {cause.reason}; {advice}", False
        return f"no connection to the server: {reason}; {MIRRORS} names mirrors", False
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return f"the server says {status} {error.response.reason}", status in TEMPORARY
    broken = (
        requests.ConnectionError,
        requests.ReadTimeout,
        requests.exceptions.ChunkedEncodingError,
    )
    return str(error), isinstance(error, broken)


def _mirrored(url: str) -> str:
    """Return the address with the mirror's prefix, where PASSL_MIRRORS has one for it."""
    for pair in os.environ.get(MIRRORS, "").split():
        original, _, mirror = (part.rstrip("/") for part in pair.partition("="))
        if not _is_safe(original) or not _is_safe(mirror):
            raise ConfigError(
                f"{MIRRORS}: {pair!r} is not https://ORIGINAL=https://MIRROR; separate several by "
                "blanks"
            )
        if url.startswith(f"{original}/"):
            return mirror + url.removeprefix(original)
    return url


def _is_safe(url: str) -> bool:
    """Whether this is an https address without a user's name."""
    try:
        parts = urlsplit(url)
        return (
            parts.scheme == "https"
            and bool(parts.hostname)
            and parts.port != 0  # and a number: else ValueError
            and "@" not in parts.netloc
            and re.fullmatch(r"[!-~]+", url) is not None
        )
    except ValueError:
        return False
