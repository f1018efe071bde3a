"""An https server on loopback that answers well or badly, and the files that it has."""

from __future__ import annotations

import hashlib
import random
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from passl.porting.zoo import Entry, Preset

PRESET = Preset(224, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        self.server.requests.append(dict(self.headers.items()) | {"path": self.path})
        answer = self.server.answers.pop(0) if self.server.answers else whole
        self.close_connection = True
        answer(self)

    def send(self, status: int, body: bytes, sent: int | None = None, **headers: str) -> None:
        """Answer, with only the first `sent` bytes of the body."""
        self.send_response(status)
        fields = {"Content_Length": str(len(body)), "Connection": "close"}
        for name, value in (fields | headers).items():
            if value:
                self.send_header(name.replace("_", "-"), value)
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
        self.answers: list[Answer] = []
        self.requests: list[dict[str, str]] = []
        self.over = threading.Event()

    @property
    def origin(self) -> str:
        return f"https://127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/a/weights.pth"

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # a client that leaves is what some tests are about
            super().handle_error(request, client_address)


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose certificate this process trusts; the authority's is in the folder."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "authority.pem"))
    with running(authority) as server:
        yield server


@contextmanager
def running(authority: trustme.CA) -> Iterator[Server]:
    """A server in a thread."""
    server = Server(authority)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()  # waits for the handlers
        thread.join()


Answer = Callable[[Handler], None]


def whole(handler: Handler) -> None:
    handler.send(200, BODY)


def cut(sent: int) -> Answer:
    """A connection that ends after so many bytes of the body."""
    return lambda handler: handler.send(200, BODY, sent)


def status(code: int) -> Answer:
    return lambda handler: handler.send(code, b"no", Content_Type="text/plain")


def redirect(code: int, target: str) -> Answer:
    return lambda handler: handler.send(code, b"", Location=target)


def stall(handler: Handler) -> None:
    handler.send(200, BODY, 1000)
    handler.wfile.flush()
    handler.server.over.wait(10)


def in_chunks(handler: Handler, complete: bool = True) -> None:
    handler.send(200, b"", Content_Length="", Transfer_Encoding="chunked")
    for start in range(0, len(BODY), 100_000):
        handler.wfile.write(b"%x\r\n" % 100_000 + BODY[start : start + 100_000] + b"\r\n")
        if not complete:
            return
    handler.wfile.write(b"0\r\n\r\n")


def entry(url: str | None, **values) -> Entry:
    given = {"sha256": None, "note": ""} | values
    return Entry("convit_tiny.x", "convit_tiny", "timm", url, "weights.pth", "MIT", PRESET, **given)


def target(home: Path) -> Path:
    return home / "weights" / "convit_tiny.x" / "weights.pth"


def place(home: Path, content: bytes) -> Path:
    """Put a file into the cache by hand."""
    target(home).parent.mkdir(parents=True, exist_ok=True)
    target(home).write_bytes(content)
    return target(home)
