"""Downloads from a real https server on loopback, and everything that can go wrong on the way."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme

from passl.errors import ConfigError, RunError
from passl.io import download
from passl.io.download import cache_folder, fetch_url
from passl.logging import get_logger
from passl.porting.resolve import fetch
from passl.porting.zoo import Entry, Preset

ROOT = Path(__file__).resolve().parents[3]
BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
PRESET = Preset(224, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


# --------------------------------------------------------------------------------------------------
# The server
# --------------------------------------------------------------------------------------------------
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers.items()) | {"path": self.path})
        answer = server.answers.pop(0) if server.answers else whole
        self.close_connection = True
        answer(self)

    def send(self, status: int, body: bytes, sent: int | None = None, **headers: str) -> None:
        """An answer of which only `sent` bytes of the body are sent."""
        self.send_response(status)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields = {
            "Content-Length": str(len(body)),
            "Content-Type": "application/octet-stream",
        } | fields
        for name, value in fields.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    def __init__(self, authority: trustme.CA):
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.body, self.etag, self.date = BODY, '"1"', ""
        self.ranges = self.knows_if_range = True
        self.answers: list[Answer] = []
        self.requests: list[dict[str, str]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_port}/a/weights.pth"

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # a client that leaves is what some tests are about
            super().handle_error(request, client_address)


Answer = Callable[[Handler], None]


def whole(handler: Handler, sent: int | None = None) -> None:
    """The file, or the rest of it, as a good server sends it."""
    server = handler.server
    versions = {"ETag": server.etag, "Last_Modified": server.date}
    asked = handler.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
    same = handler.headers.get("If-Range") in (server.etag, server.date)
    if asked and server.ranges and (same or not server.knows_if_range):
        start, size = int(asked), len(server.body)
        if start >= size:
            handler.send(416, b"", Content_Range=f"bytes */{size}")
            return
        rest = f"bytes {start}-{size - 1}/{size}"
        handler.send(206, server.body[start:], sent, Content_Range=rest, **versions)
    else:
        handler.send(200, server.body, sent, **versions)


def cut(sent: int) -> Answer:
    """A connection that ends after so many bytes of the body."""
    return lambda handler: whole(handler, sent)


def status(code: int) -> Answer:
    return lambda handler: handler.send(code, b"no", Content_Type="text/plain")


def page(body: bytes, kind: str) -> Answer:
    return lambda handler: handler.send(200, body, Content_Type=kind)


def redirect(code: int, target: str) -> Answer:
    return lambda handler: handler.send(code, b"", Location=target)


def stall(handler: Handler) -> None:
    whole(handler, 1000)
    handler.wfile.flush()
    handler.server.over.wait(10)


def in_chunks(handler: Handler) -> None:
    handler.send(200, b"", Content_Length="", Transfer_Encoding="chunked")
    for start in range(0, len(BODY), 100_000):
        handler.wfile.write(b"%x\r\n" % 100_000 + BODY[start : start + 100_000] + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def in_broken_chunks(handler: Handler) -> None:
    handler.send(200, b"", Content_Length="", Transfer_Encoding="chunked")
    handler.wfile.write(b"%x\r\n" % 100_000 + BODY[:50_000])


def without_length(handler: Handler) -> None:
    handler.send(200, BODY, Content_Length="")


# --------------------------------------------------------------------------------------------------
# Fixtures
# --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def context(authority) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def server(authority) -> Iterator[Server]:
    server = Server(authority)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()  # waits for the handlers
    thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
        for variable in (name, name.upper(), f"{name}_original"):
            monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What is logged; the logger may have stopped propagating, so caplog would not see it."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = get_logger()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def get(server, context, tmp_path) -> Callable[..., Path]:
    """Fetch the server's file as a zoo's entry: get(sha256=..., size=...)."""

    def call(timeout: float = 5.0, **values) -> Path:
        return fetch(entry(server.url, **values), tmp_path, timeout=timeout, context=context)

    return call


@pytest.fixture
def fails(get, tmp_path) -> Callable[..., str]:
    """Fetch in vain: the message. Nothing stands at the file's name afterwards."""

    def call(**values) -> str:
        with pytest.raises(RunError) as error:
            get(**values)
        assert not target(tmp_path).exists()
        assert not sidecar(tmp_path).exists()
        assert str(target(tmp_path)) in str(error.value)
        return str(error.value)

    return call


def entry(url: str | None, **values) -> Entry:
    given = {"sha256": None, "note": ""} | values
    return Entry("convit_tiny.x", "convit_tiny", "timm", url, "weights.pth", "MIT", PRESET, **given)


def target(home: Path) -> Path:
    return home / "weights" / "convit_tiny.x" / "weights.pth"


def sidecar(home: Path) -> Path:
    return target(home).with_name("weights.pth.json")


def place(home: Path, content: bytes) -> Path:
    target(home).parent.mkdir(parents=True, exist_ok=True)
    target(home).write_bytes(content)
    return target(home)


# --------------------------------------------------------------------------------------------------
# What goes well
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sha256", [None, SHA256[:8], SHA256])
def test_download(get, server, tmp_path, log, sha256):
    path = get(sha256=sha256, size=len(BODY))
    assert path == target(tmp_path)
    assert path.read_bytes() == BODY
    told = json.loads(sidecar(tmp_path).read_text())
    assert (told["url"], told["sha256"], told["size"]) == (server.url, SHA256, len(BODY))
    assert told["date"].endswith("+00:00")
    left = {file.name for file in path.parent.iterdir()}
    assert left == {"weights.pth", "weights.pth.json", "weights.pth.lock"}
    assert server.url in log[0]
    assert SHA256 in log[-1]
    assert get(sha256=sha256) == path  # from the cache
    assert len(server.requests) == 1
    assert server.requests[0]["Accept-Encoding"] == "identity"


def test_download_in_chunks(get, server):
    server.answers = [in_chunks]
    assert get().read_bytes() == BODY


def test_an_address_has_a_folder_of_its_own(server, context, tmp_path):
    first = fetch_url(server.url, None, tmp_path, context=context)
    second = fetch_url(server.url + "?v=2", SHA256.upper(), tmp_path, context=context)
    assert first.parent != second.parent
    assert first.name == second.name == "weights.pth"
    assert fetch_url(server.url, None, tmp_path, context=context) == first
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_to_https_is_followed(get, server, code):
    server.answers = [redirect(code, "/b/elsewhere.bin")]
    assert get().read_bytes() == BODY
    assert [request["path"] for request in server.requests] == [
        "/a/weights.pth",
        "/b/elsewhere.bin",
    ]


def test_cache_folder(monkeypatch, tmp_path):
    for name in ("PASSL_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path.home() / ".cache" / "passl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "passl"
    monkeypatch.setenv("PASSL_HOME", str(tmp_path / "h"))
    assert cache_folder() == tmp_path / "h"
    assert cache_folder(tmp_path / "given") == tmp_path / "given"


# --------------------------------------------------------------------------------------------------
# Interruptions
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("versions", [('"1"', ""), ("", "Wed, 01 Jan 2025 00:00:00 GMT")])
def test_an_interrupted_download_is_continued(get, server, versions):
    server.etag, server.date = versions
    server.answers = [cut(100_000), cut(50_000)]
    assert get().read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
    ]
    assert server.requests[1]["If-Range"] == "".join(versions)


def test_another_process_continues(get, fails, server, monkeypatch, tmp_path):
    monkeypatch.setattr(download, "TRIES", 1)
    server.answers = [cut(100_000)]
    assert "ended after 100,000 of 300,000 bytes" in fails()
    assert target(tmp_path).with_name("weights.pth.part").stat().st_size == 100_000
    assert get().read_bytes() == BODY
    assert server.requests[1]["Range"] == "bytes=100000-"


def test_a_process_that_ended_before_the_renaming_left_all_bytes(
    get, server, monkeypatch, tmp_path
):
    replace = os.replace

    def killed(old, new):
        if new == target(tmp_path):
            raise KeyboardInterrupt
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(download.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            get()
    assert not target(tmp_path).exists()
    assert get().read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_server_without_range_sends_all_again(get, server):
    server.ranges = False
    server.answers = [cut(100_000)]
    assert get().read_bytes() == BODY


def test_a_file_without_a_version_is_not_continued(get, server):
    server.etag = ""
    server.answers = [cut(100_000)]
    assert get().read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [None, None]


@pytest.mark.parametrize("etag", ['W/"1"', ""])
def test_a_weak_version_is_not_continued(get, server, etag):
    server.etag = etag
    server.answers = [cut(100_000)]
    assert get().read_bytes() == BODY
    assert "Range" not in server.requests[1]


@pytest.mark.parametrize("knows_if_range", [True, False])
def test_a_file_that_changed_between_is_not_spliced(get, server, knows_if_range):
    def changed(handler):
        server.body, server.etag = OTHER, '"2"'
        whole(handler)

    server.knows_if_range = knows_if_range
    server.answers = [cut(100_000), changed]
    assert get().read_bytes() == OTHER


def test_a_part_that_is_longer_than_the_file_is_dropped(get, server, tmp_path):
    part = place(tmp_path, b"").rename(target(tmp_path).with_name("weights.pth.part"))
    part.write_bytes(OTHER + b"more")
    state = {"url": server.url, "validator": '"1"', "size": 400_000}
    part.with_name("weights.pth.part.json").write_text(json.dumps(state))
    assert get().read_bytes() == BODY
    assert len(server.requests) == 2  # 416 first


def test_a_damaged_part_is_noticed_by_the_hash(get, server, tmp_path):
    part = place(tmp_path, b"").rename(target(tmp_path).with_name("weights.pth.part"))
    part.write_bytes(OTHER[:1000])
    state = {"url": server.url, "validator": '"1"', "size": len(BODY)}
    part.with_name("weights.pth.part.json").write_text(json.dumps(state))
    assert get(sha256=SHA256).read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == ["bytes=1000-", None]


def test_a_stall_ends(fails, server, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 2)
    server.answers = [stall, stall]
    begin = time.monotonic()
    assert "timed out, after 2 tries" in fails(timeout=0.2)
    assert time.monotonic() - begin < 4


def test_a_stall_before_the_first_byte_ends(fails, server, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 1)
    server.answers = [lambda handler: server.over.wait(10)]
    begin = time.monotonic()
    assert "no answer: " in fails(timeout=0.2)
    assert time.monotonic() - begin < 4


# --------------------------------------------------------------------------------------------------
# Failures
# --------------------------------------------------------------------------------------------------
def test_404_is_not_tried_again(fails, server):
    server.answers = [status(404)]
    message = fails()
    assert "404 Not Found" in message
    assert server.url in message
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_may_recover(get, server, code, log):
    server.answers = [status(code), status(code)]
    assert get().read_bytes() == BODY
    assert len(server.requests) == 3
    assert sum("trying again" in line for line in log) == 2


def test_tries_are_counted(fails, server):
    server.answers = [status(500)] * 9
    assert "500 Internal Server Error, after 4 tries" in fails()
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<!DOCTYPE html><p>Log in first", "text/html; charset=utf-8"),
        (b"<!DOCTYPE html><p>Log in first", "application/octet-stream"),
        (b'{"error": "not found"}', "application/json"),
        (b'{"error": "not found"}', ""),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "application/octet-stream"),
        (BODY, "text/html"),
        (b"", "application/octet-stream"),
    ],
)
def test_a_page_is_not_weights(fails, server, body, kind):
    server.answers = [page(body, kind)]
    message = fails()
    assert "page" in message or "empty" in message
    assert len(server.requests) == 1


def test_a_compressed_answer_is_refused(fails, server):
    server.answers = [lambda handler: handler.send(200, BODY, Content_Encoding="gzip")]
    assert "gzip" in fails()


@pytest.mark.parametrize("digits", [8, 64])
def test_a_wrong_hash(fails, digits):
    message = fails(sha256="0" * digits)
    assert SHA256 in message
    assert "0" * digits in message


def test_a_wrong_size(fails):
    assert "300,000 bytes, not the published 299,999" in fails(size=299_999)


def test_a_wrong_size_that_is_not_told_before(fails, server):
    server.answers = [in_chunks]
    assert "it has 300,000 bytes" in fails(size=299_999)


def test_a_truncated_body(fails, server):
    server.ranges = False
    server.answers = [cut(1000)] * 4
    assert "ended after 1,000 of 300,000 bytes, after 4 tries" in fails()


def test_a_body_that_never_begins(fails, server):
    server.answers = [cut(0)] * 4
    assert "ended before the first byte" in fails()


def test_truncated_chunks(fails, server):
    server.answers = [in_broken_chunks] * 4
    assert "the connection broke" in fails()


def test_a_body_of_unknown_length_is_refused(fails, server):
    server.answers = [without_length]
    assert "does not say how long" in fails()


def test_a_full_disk_is_told_before(fails, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    assert "300,000 bytes are to come and 10 are free" in fails()


@pytest.mark.parametrize("target_url", ["http://127.0.0.1:9/w.pth", "file:///etc/passwd"])
def test_a_redirect_away_from_https_is_refused(fails, server, target_url):
    server.answers = [redirect(302, target_url)]
    message = fails()
    assert target_url in message
    assert len(server.requests) == 1


def test_redirects_end(fails, server):
    server.answers = [redirect(302, f"/{i}") for i in range(20)]
    assert "302" in fails()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/w.pth",
        "file:///etc/passwd",
        "ftp://127.0.0.1/w.pth",
        "https:///w.pth",
        "https://127.0.0.1:9/",
        "https://127.0.0.1:9/a/..",
        "https://127.0.0.1:x/w.pth",
        "https://me:secret@127.0.0.1:9/w.pth",
        "https://127.0.0.1:9/a b.pth",
    ],
)
def test_only_https_addresses_of_files(tmp_path, url):
    with pytest.raises(ConfigError, match="weights come from https://HOST"):
        fetch_url(url, None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_entry_with_a_plain_http_address(tmp_path):
    with pytest.raises(RunError, match="over https only"):
        fetch(entry("http://127.0.0.1:9/weights.pth"), tmp_path)
    assert not target(tmp_path).exists()


@pytest.mark.parametrize("sha256", ["abc", "g" * 64, "a" * 65])
def test_a_hash_that_is_none(tmp_path, sha256):
    with pytest.raises(ConfigError, match="is not 8 to 64 hexadecimal digits"):
        fetch_url("https://127.0.0.1:9/w.pth", sha256, tmp_path)


def test_a_certificate_that_nobody_trusts(server, tmp_path):
    with pytest.raises(RunError, match="certificate is not trusted.*SSL_CERT_FILE") as error:
        fetch(entry(server.url), tmp_path, timeout=5)
    assert str(target(tmp_path)) in str(error.value)
    assert not target(tmp_path).exists()
    assert server.requests == []


def test_no_network(tmp_path, context):
    with socket.create_server(("127.0.0.1", 0)) as free:  # a port where nobody listens afterwards
        url = f"https://127.0.0.1:{free.getsockname()[1]}/weights.pth"
    with pytest.raises(RunError) as error:
        fetch(entry(url), tmp_path, timeout=5, context=context)
    message = str(error.value)
    assert "Connection refused" in message
    assert f"get {url} by other means and put it at {target(tmp_path)}" in message
    assert not target(tmp_path).exists()


def test_no_address(tmp_path):
    with pytest.raises(RunError) as error:
        fetch(entry(None, note="in the authors' cupboard"), tmp_path)
    assert "no address" in str(error.value)
    assert "in the authors' cupboard" in str(error.value)
    assert str(target(tmp_path)) in str(error.value)


# --------------------------------------------------------------------------------------------------
# What stands in the cache already
# --------------------------------------------------------------------------------------------------
def test_a_file_put_there_by_hand(tmp_path, log):
    place(tmp_path, BODY)
    assert fetch(entry(None, sha256=SHA256[:8]), tmp_path) == target(tmp_path)
    assert not log
    assert json.loads(sidecar(tmp_path).read_text())["sha256"] == SHA256


def test_a_file_put_there_by_hand_of_which_no_hash_is_known(tmp_path, log):
    place(tmp_path, BODY)
    for _ in range(2):
        assert fetch(entry(None), tmp_path).read_bytes() == BODY
    assert len(log) == 1
    assert "by hand" in log[0]
    assert SHA256 in log[0]


@pytest.mark.parametrize("content", [OTHER, b"<html>Log in first", b""])
def test_a_wrong_file_put_there_by_hand_is_set_aside(get, tmp_path, content, log):
    place(tmp_path, content)
    assert get(sha256=SHA256).read_bytes() == BODY
    aside = target(tmp_path).with_name("weights.pth.rejected")
    assert aside.read_bytes() == content
    assert any(str(aside) in line for line in log)


def test_a_wrong_file_without_a_network(tmp_path):
    place(tmp_path, b"<html>Log in first")
    with pytest.raises(RunError, match="no address"):
        fetch(entry(None), tmp_path)
    assert not target(tmp_path).exists()


def test_a_file_that_was_changed_is_not_trusted(get, server, tmp_path):
    path = get()
    path.write_bytes(OTHER)  # of the same length
    os.utime(path, ns=(0, 0))
    assert get().read_bytes() == BODY
    assert len(server.requests) == 2


def test_a_file_that_was_copied_is_trusted_by_its_hash(get, server, tmp_path):
    path = get()
    os.utime(path, ns=(0, 0))
    assert get() == path
    assert json.loads(sidecar(tmp_path).read_text())["mtime_ns"] == 0  # not hashed again
    assert json.loads(sidecar(tmp_path).read_text())["url"] == server.url
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"sha256": 1, "size": 300000, "mtime_ns": 0}']
)
def test_a_bad_sidecar_is_not_believed(get, server, tmp_path, text):
    get()
    sidecar(tmp_path).write_text(text)
    assert get().read_bytes() == BODY
    assert len(server.requests) == 2
    assert json.loads(sidecar(tmp_path).read_text())["sha256"] == SHA256


def test_a_bad_sidecar_does_not_matter_where_the_hash_is_known(get, server, tmp_path):
    get()
    sidecar(tmp_path).write_text("{")
    assert get(sha256=SHA256).read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_hash_that_became_known_counts_for_what_is_cached(get, fails):
    get()
    assert "what came is wrong" in fails(sha256="0" * 64)


def test_a_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written.*PASSL_HOME"):
        fetch(entry("https://127.0.0.1:9/weights.pth"), tmp_path / "file")


@pytest.fixture
def read_only(tmp_path, monkeypatch) -> Callable[[], None]:
    """Make the cache read-only. Root may write everywhere, so that open says no in its place."""

    def make() -> None:
        def denied(path, mode="r", *args, **kwargs):
            if set(mode) & set("wax"):
                raise PermissionError(13, "Permission denied", str(path))
            return open(path, mode, *args, **kwargs)

        monkeypatch.setattr(download, "open", denied, raising=False)
        monkeypatch.setattr(download, "write_text", lambda path, text: denied(path, "w"))

    return make


def test_a_read_only_cache(server, context, tmp_path, read_only):
    read_only()
    with pytest.raises(RunError, match="cannot be written.*Permission denied.*PASSL_HOME"):
        fetch(entry(server.url), tmp_path, context=context)
    assert server.requests == []
    assert not target(tmp_path).exists()


def test_a_read_only_cache_can_be_read(get, server, tmp_path, read_only):
    path = get()
    read_only()
    assert get() == path
    os.utime(path, ns=(0, 0))
    assert get() == path
    assert len(server.requests) == 1


def test_a_read_only_cache_with_a_file_put_there_by_hand(tmp_path, read_only):
    place(tmp_path, BODY)
    read_only()
    assert fetch(entry(None, sha256=SHA256), tmp_path).read_bytes() == BODY


# --------------------------------------------------------------------------------------------------
# Others at work, and proxies
# --------------------------------------------------------------------------------------------------
def test_two_processes_make_one_download(server, authority, tmp_path):
    def slow(handler):
        whole(handler, 150_000)
        handler.wfile.flush()
        server.over.wait(0.5)
        handler.wfile.write(BODY[150_000:])

    server.answers = [slow]
    certificates = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(certificates))
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from passl.io.download import fetch_url
print("ready", flush=True)
input()
print(fetch_url({server.url!r}, None, {str(tmp_path / "home")!r}))
"""
    environment = os.environ | {"SSL_CERT_FILE": str(certificates)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [process.communicate(timeout=15)[0].strip() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0]
    assert results[0] == results[1]
    assert Path(results[0]).read_bytes() == BODY
    assert len(server.requests) == 1


def test_threads_make_one_download(get, server):
    found = []
    threads = [threading.Thread(target=lambda: found.append(get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert found[0].read_bytes() == BODY
    assert len(server.requests) == 1


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "https_proxy_original"])
def test_a_proxy(get, server, monkeypatch, variable):
    """One that answers CONNECT and passes bytes on."""
    asked = []
    proxy = socket.create_server(("127.0.0.1", 0))
    proxy.settimeout(3)

    def serve():
        client, _ = proxy.accept()
        with client, socket.create_connection(server.server_address) as upstream:
            asked.append(client.recv(1000).split(b"\r\n")[0])
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            other = {client: upstream, upstream: client}
            while True:
                for one in select.select([client, upstream], [], [], 10)[0]:
                    data = one.recv(65536)
                    if not data:
                        return
                    other[one].sendall(data)

    monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.getsockname()[1]}")
    thread = threading.Thread(target=serve)
    with proxy:
        thread.start()
        assert get().read_bytes() == BODY
        thread.join()
    assert asked[0].startswith(f"CONNECT 127.0.0.1:{server.server_port} ".encode())


def test_the_bar_is_for_terminals(get, capsys, monkeypatch, tmp_path):
    get()
    assert capsys.readouterr().err == ""
    target(tmp_path).unlink()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    get()
    assert "convit_tiny.x" in capsys.readouterr().err
