"""An http server on loopback that sends ranges of the files of a folder, well or badly."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        self.server.clients.add(self.client_address)
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            return self.send(404, b"")
        body, status = path.read_bytes(), 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            body, status = body[int(match[1]) : int(match[2]) + 1], 206
        fault = self.server.fault_of(self.path)
        return self.send(status, body) if fault is None else fault(self, status, body)

    def send(self, status: int, body: bytes, sent: int | None = None) -> None:
        """Answer, with only the first `sent` bytes of the body."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, format, *args):
        pass


Fault = Callable[[Handler, int, bytes], None]


def cut(handler: Handler, status: int, body: bytes) -> None:
    handler.send(status, body, len(body) // 2)
    handler.close_connection = True


def slow(handler: Handler, status: int, body: bytes) -> None:
    handler.send(status, body, len(body) // 2)
    handler.wfile.flush()
    handler.server.over.wait(10)
    handler.close_connection = True


def wrong(handler: Handler, status: int, body: bytes) -> None:
    handler.send(status, body[:-1] + bytes([body[-1] ^ 1]))


def short(handler: Handler, status: int, body: bytes) -> None:
    handler.send(status, body[:-1])


def busy(handler: Handler, status: int, body: bytes) -> None:
    handler.send(503, b"later")


def forbidden(handler: Handler, status: int, body: bytes) -> None:
    handler.send(403, b"no")


def ignored_range(handler: Handler, status: int, body: bytes) -> None:
    handler.send(200, body + b"more")


class Server(ThreadingHTTPServer):
    """Serves the files of a folder.

    Attributes:
        faults: how the next requests for shards are answered.
        always: how all of them are, after these.
        requests: path and range of each request.
        clients: addresses of the connections.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.url = folder, f"http://127.0.0.1:{self.server_port}"
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.requests: list[tuple[str, str | None]] = []
        self.clients: set[tuple[str, int]] = set()
        self.over = threading.Event()

    def fault_of(self, path: str) -> Fault | None:
        if not path.endswith(".tar"):
            return None
        return self.faults.pop(0) if self.faults else self.always

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # clients leave
            super().handle_error(request, client_address)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
