"""Files from the network, into a folder where each file is whole and known, or not there.

    PASSL_HOME/weights/convit_tiny.timm_in1k/
        model.safetensors             the file, complete and verified
        model.safetensors.json        its sidecar: address, sha256, size, date
        model.safetensors.part        what has arrived of it
        model.safetensors.part.json   of which version of the file that is
        model.safetensors.lock        held by the process that is at work on it
        model.safetensors.rejected    what stood at the file's name and was not the file

Nothing from the network is believed: the address is https, redirects included, certificates are
checked, every wait has an end, a resumed file is the same version, and the length, the size and the
hash, as far as each is known, are right before the file gets its name.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from http.client import HTTPException
from pathlib import Path
from urllib import request
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from passl import __version__
from passl.errors import ConfigError, RunError
from passl.io.files import write_text
from passl.logging import get_logger

HOME = "PASSL_HOME"
TIMEOUT = 30.0
"""Seconds that connecting, and each read, may take. Longer without a byte is a stall."""
TRIES = 4
PAUSE = 1.0
"""Seconds before the second try; twice that before the third, and so on."""
_CHUNK = 1 << 20
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)
_PAGES = ("text/html", "application/xhtml+xml", "application/json", "text/xml", "application/xml")
_HEAD = 512
"""Bytes of a file's beginning that tell a page from weights or an archive."""


def fetch_file(
    name: str,
    url: str | None,
    path: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    note: str = "",
    timeout: float = TIMEOUT,
    context: ssl.SSLContext | None = None,
) -> Path:
    """The file at `path`: as it is there, else downloaded. Of several processes that want it one
    downloads and the others wait.

    Args:
        name: what messages call it.
        url: https; None if there is no lasting address.
        path: where it belongs. A file put there by hand is taken if it is the right one, else moved
            aside.
        sha256: what its hash must be or begin with, if known.
        size: in bytes, if known.
        note: what a message says of a file without an address.
        timeout: seconds that connecting, and each read, may take.
        context: whose certificates are trusted; by default the system's, or those of SSL_CERT_FILE.

    Raises:
        RunError: the file is not here and cannot be had, or what came is not the file.
    """
    return _Wanted(name, url, path, sha256, size, note).get(timeout, context)


def fetch_url(
    url: str,
    sha256: str | None = None,
    home: str | Path | None = None,
    *,
    timeout: float = TIMEOUT,
    context: ssl.SSLContext | None = None,
) -> Path:
    """The file at an address: from the cache, where its folder is named by the address's hash.

    Args:
        url: https.
        sha256: what the file's must be or begin with, in hexadecimal; None if it is not known.
        home: the cache; by default PASSL_HOME, else `passl` in the user's cache folder.
        timeout: as for `fetch_file`.
        context: as for `fetch_file`.

    Raises:
        ConfigError: the address or the hash is none.
        RunError: as for `fetch_file`.
    """
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    if not _is_safe(url) or not name.strip(".") or "\0" in name:
        raise ConfigError(
            f"{url}: weights come from https://HOST/.../FILE, without a user's name; download the "
            "file yourself and give its path"
        )
    if sha256 is not None:
        sha256 = sha256.lower()
        if not 8 <= len(sha256) <= 64 or set(sha256) - set("0123456789abcdef"):
            raise ConfigError(f"sha256 {sha256!r} is not 8 to 64 hexadecimal digits")
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    path = cache_folder(home) / "weights" / "urls" / key / name
    return _Wanted(url, url, path, sha256).get(timeout, context)


def cache_folder(home: str | Path | None = None) -> Path:
    """The given folder, else PASSL_HOME, else `passl` in the user's cache folder."""
    if home is None:
        home = os.environ.get(HOME) or None
    if home is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "passl"
    return Path(home).expanduser().absolute()


class _TransientError(Exception):
    """A failure that another try may mend."""


class _RefusedError(Exception):
    """Something that no other try may mend."""


@dataclass(frozen=True)
class _Wanted:
    """One file that somebody wants; the arguments are those of `fetch_file`."""

    name: str
    url: str | None
    path: Path
    sha256: str | None
    size: int | None = None
    note: str = ""

    def get(self, timeout: float, context: ssl.SSLContext | None) -> Path:
        # A cache that is complete need not be writable: the lock comes second.
        if self._is_trusted():
            return self.path
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(self._beside(".lock")):
                if not self._is_here():
                    self._download(timeout, context)
        except OSError as error:
            if self.path.is_file() and self._is_placed():
                return self.path  # put by hand into a cache that is not ours to write
            raise RunError(
                f"{self.name}: the folder {self.path.parent} cannot be written: {error}. Give one "
                f"that can be and has room for the file; {HOME} names the one of weights"
            ) from error
        return self.path

    # What is in the cache

    def _is_trusted(self) -> bool:
        """Whether the file is the one that its sidecar describes.

        Size and time of the last change are compared, not the content: hashing a file of 1 GB takes
        seconds, in every process, at every start. They change with any write through the file
        system; against a disk that loses bits no hash of last month helps either, and the reader
        checks a file's structure. Where the time differs, the hash decides.
        """
        try:
            status = self.path.stat()
            sidecar = json.loads(self._sidecar.read_text(encoding="utf-8"))
            digest, size, mtime_ns = (sidecar[key] for key in ("sha256", "size", "mtime_ns"))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if not isinstance(digest, str) or len(digest) != 64 or status.st_size != size:
            return False
        if self._contradiction(digest, size):
            return False  # the zoo has learnt more than it knew then
        if status.st_mtime_ns != mtime_ns:
            if _sha256(self.path) != digest:
                return False
            with suppress(OSError):  # not ours to write: then it is hashed again next time
                self._describe(self.path, sidecar.get("url"), digest)
        return True

    def _is_here(self) -> bool:
        """Whether the file is here and right. What is not is set aside, its name is free then."""
        if not self.path.exists():
            return False
        if self._is_trusted():  # another process brought it while this one waited
            return True
        if self._is_placed():
            self._describe(self.path, None, _sha256(self.path))
            return True
        aside = self._beside(".rejected")
        os.replace(self.path, aside)
        self._sidecar.unlink(missing_ok=True)
        get_logger().warning("%s is not the file that belongs there; moved to %s", self.path, aside)
        return False

    def _is_placed(self) -> bool:
        """Whether a file that no sidecar vouches for can be taken: put here by hand, with the right
        hash if that is known; and if it is not, only if there is no sidecar that says otherwise.
        """
        if self.sha256 is None and self._sidecar.exists():
            return False
        size, digest = self.path.stat().st_size, _sha256(self.path)
        with open(self.path, "rb") as file:
            wrong = self._contradiction(digest, size) or _page(file.read(_HEAD))
        if wrong:
            get_logger().warning("%s: %s", self.path, wrong)
        elif self.sha256 is None:
            get_logger().warning(
                "%s was put there by hand and no hash of it is known: taken as it is, sha256 %s",
                self.path,
                digest,
            )
        return wrong is None

    def _contradiction(self, digest: str, size: int) -> str | None:
        """What is wrong with a file of this hash and size."""
        if self.size is not None and size != self.size:
            return f"it has {size:,} bytes, the file that is wanted {self.size:,}"
        if self.sha256 is not None and not digest.startswith(self.sha256):
            return f"its sha256 is {digest}, that of the file that is wanted {self.sha256}"
        return None

    # What comes from the network

    def _download(self, timeout: float, context: ssl.SSLContext | None) -> None:
        if self.url is None:
            raise self._failure("there is no address to download it from")
        if not _is_safe(self.url):
            raise self._failure("files are downloaded over https only")
        get_logger().info("downloading %s to %s", self.url, self.path)
        opener = _opener(context)
        for attempt in range(1, TRIES + 1):
            try:
                digest = self._verified(self._receive(opener, timeout))
                break
            except _RefusedError as error:
                raise self._failure(str(error)) from None
            except _TransientError as error:
                if attempt == TRIES:
                    raise self._failure(f"{error}, after {TRIES} tries") from None
                pause = PAUSE * 2 ** (attempt - 1)
                get_logger().warning("%s: %s; trying again in %g s", self.name, error, pause)
                time.sleep(pause)
        # Sidecar first: a crash between the two leaves a sidecar without a file, which is harmless,
        # and never a file that looks as if it had been put there by hand.
        self._describe(self._part, self.url, digest)
        os.replace(self._part, self.path)
        self._state.unlink(missing_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        known = "as published" if self.sha256 else "none is published to compare it with"
        get_logger().info("%s: complete, sha256 %s (%s)", self.path, digest, known)

    def _receive(self, opener: request.OpenerDirector, timeout: float) -> bool:
        """Bring the .part file to its full length. Returns whether an older one was continued."""
        validator, total = self._version()
        done = self._part.stat().st_size if validator and self._part.exists() else 0
        if done and done == total:
            return True  # all had arrived when the process before was ended
        # What would be compressed on the way has another length than Content-Length says.
        headers = {"User-Agent": f"passl/{__version__}", "Accept-Encoding": "identity"}
        if done:
            headers |= {"Range": f"bytes={done}-", "If-Range": validator}
        with self._open(opener, headers, timeout) as response:
            if response.status == 206:
                self._check_continuation(response, done, validator, total)
            else:
                done, total = 0, _length(response)
            if self.size is not None and total is not None and total != self.size:
                self._drop()
                raise _RefusedError(
                    f"the server's file has {total:,} bytes, not the published {self.size:,}"
                )
            free = shutil.disk_usage(self.path.parent).free
            if total is not None and total - done > free:
                raise _RefusedError(
                    f"{total - done:,} bytes are to come and {free:,} are free on the disk"
                )
            self._copy(response, done, total)
        return done > 0

    def _copy(self, response, done: int, total: int | None) -> None:
        """Append the body to the .part file, or begin a new one."""
        begin = b""
        if not done:
            begin = self._read(response.read, _HEAD)  # all of them, if there are as many
            if not begin and total != 0:
                raise _TransientError("the connection ended before the first byte")
            if page := _page(begin):
                self._drop()
                raise _RefusedError(page)
        with (
            open(self._part, "ab" if done else "wb") as file,
            tqdm(
                desc=self.name,
                total=total,
                initial=done,
                unit="B",
                unit_scale=True,
                leave=False,
                disable=not sys.stderr.isatty(),
            ) as bar,
        ):
            if not done:
                self._remember_version(response, total)
            data = begin or self._read(response.read1, _CHUNK)
            while data:
                file.write(data)
                done += len(data)
                bar.update(len(data))
                data = b"" if done == total else self._read(response.read1, _CHUNK)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and done != total:
            raise _TransientError(f"the connection ended after {done:,} of {total:,} bytes")

    def _read(self, read: Callable[[int], bytes], size: int) -> bytes:
        # Apart from the writing: a full disk is an OSError too, and no other try mends it.
        try:
            return read(size)
        except (OSError, HTTPException) as error:
            raise _TransientError(f"the connection broke: {_told(error)}") from None

    def _open(self, opener: request.OpenerDirector, headers: dict[str, str], timeout: float):
        assert self.url is not None
        try:
            response = opener.open(request.Request(self.url, headers=headers), timeout=timeout)
        except HTTPError as error:
            error.close()
            if error.code == 416:  # not the version that the .part file is of
                self._drop()
            problem = f"the server says {error.code} {error.reason}"
            if error.code in (*_MAY_PASS, 416):
                raise _TransientError(problem) from None
            raise _RefusedError(problem) from None
        except (OSError, HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise _RefusedError(
                    f"the server's certificate is not trusted: {reason.verify_message}. "
                    "SSL_CERT_FILE names a file of certificates to trust instead of the system's"
                ) from None
            raise _TransientError(f"no answer: {_told(reason)}") from None
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if response.status not in (200, 206) or kind in _PAGES or encoding != "identity":
            response.close()
            answer = f"{response.status} {response.reason}, {kind or 'of no type'}, {encoding}"
            raise _RefusedError(f"the server sends a page or worse, not the file: {answer}")
        return response

    def _check_continuation(self, response, done: int, validator: str, total: int | None) -> None:
        """Refuse to append what is not the rest of the same version. Not every server that knows
        Range knows If-Range.
        """
        told = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        same = told and int(told[1]) == done and int(told[2]) == total
        if not same or _validator(response) != validator:
            self._drop()
            raise _TransientError("the file has changed since a part of it was downloaded")

    def _verified(self, resumed: bool) -> str:
        """The hash of the .part file, if it is the file that is wanted."""
        digest = _sha256(self._part)
        wrong = self._contradiction(digest, self._part.stat().st_size)
        if wrong:
            self._drop()
            # The old part may have been damaged here, so it gets one more chance without it.
            raise (
                _TransientError(wrong) if resumed else _RefusedError(f"what came is wrong: {wrong}")
            )
        return digest

    def _failure(self, reason: str) -> RunError:
        where = f"get {self.url} by other means" if self.url else "get it yourself"
        note = f" ({self.note})" if self.note and not self.url else ""
        return RunError(f"{self.name}: {reason}; {where}{note} and put it at {self.path}")

    # Files beside the file

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    @property
    def _part(self) -> Path:
        return self._beside(".part")

    @property
    def _state(self) -> Path:
        return self._beside(".part.json")

    @property
    def _sidecar(self) -> Path:
        return self._beside(".json")

    def _drop(self) -> None:
        self._part.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def _remember_version(self, response, total: int | None) -> None:
        """Note which version of the file the .part file is of, so that it can be continued."""
        validator = _validator(response)
        self._state.unlink(missing_ok=True)
        if validator and total is not None:
            state = {"url": self.url, "validator": validator, "size": total}
            write_text(self._state, json.dumps(state))

    def _version(self) -> tuple[str, int | None]:
        """What `_remember_version` noted: validator and length; an empty one if it is unknown."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            if state["url"] == self.url:
                return str(state["validator"]), int(state["size"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return "", None

    def _describe(self, file: Path, url: str | None, digest: str) -> None:
        """Write the sidecar, of the file or of the .part file: a renaming changes no times."""
        status = file.stat()
        description = {
            "url": url,
            "sha256": digest,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        write_text(self._sidecar, json.dumps(description, indent=2) + "\n")


# --------------------------------------------------------------------------------------------------
# Connections and files
# --------------------------------------------------------------------------------------------------
class _HttpsOnly(request.HTTPRedirectHandler):
    """Follows redirects, to https only: the hub's addresses redirect to where the files are."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not _is_safe(newurl):
            fp.close()
            raise _RefusedError(f"the server redirects to {newurl}, which is not https")
        code = 307 if code == 308 else code  # the same for GET, and Python 3.10 knows only 307
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    http_error_308 = request.HTTPRedirectHandler.http_error_302


def _opener(context: ssl.SSLContext | None) -> request.OpenerDirector:
    """Opens https addresses and nothing else, through the user's proxy if there is one."""
    proxy = request.getproxies().get("https") or os.environ.get("https_proxy_original")  # noqa: SIM112
    opener = request.OpenerDirector()
    for handler in (
        # Paddle's launcher takes https_proxy from its workers and leaves https_proxy_original.
        request.ProxyHandler({"https": proxy} if proxy else {}),
        request.HTTPSHandler(context=context or ssl.create_default_context()),
        _HttpsOnly(),
        request.HTTPErrorProcessor(),
        request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _is_safe(url: str) -> bool:
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


def _length(response) -> int | None:
    """Of the whole file, in bytes; None if it comes in chunks, whose end is marked."""
    length = response.headers.get("Content-Length", "")
    if length.isdecimal():
        return int(length)
    if response.headers.get("Transfer-Encoding", "").lower() != "chunked":
        raise _RefusedError("the server does not say how long the file is: a half would look whole")
    return None


def _validator(response) -> str:
    """What names this version of the file to If-Range: a strong ETag, else the date."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _page(begin: bytes) -> str | None:
    """What is wrong with a file that begins so: every kind of weight file or archive has bytes
    there that no text has.
    """
    if not begin:
        return "the file is empty"
    if re.search(rb"[\x00-\x08\x0e-\x1f]", begin):
        return None
    shown = " ".join(begin[:60].decode("utf-8", "replace").split())
    return f"it is a page or another text, not the file: it begins with {shown!r}"


def _told(error: object) -> str:
    return str(error) or type(error).__name__


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock file. The system releases it when the process ends, however it ends; so waiting
    for another process ends as well, because all its waits do.
    """
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            get_logger().info("waiting for another process that holds %s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
