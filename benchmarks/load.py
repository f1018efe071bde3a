"""A load of HTTP requests from one thread: python benchmarks/load.py TASK

TASK is JSON, see `run`. Needs only the standard library and little processor time: requests are
made before the first is sent, and answers are read as bytes.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 300.0
"""Seconds after which a load ends whatever has been answered."""
BOUNDARY = "passl-images-0123456789abcdef"
"""Between the parts of a form; no part contains it."""


class Answer:
    """What has come back.

    Args:
        index: of the request's body.
        status: of HTTP; 0 if the connection was lost.
        seconds: from when the request was due to the last byte of its answer.
        body: of the answer.
    """

    def __init__(self, index: int, status: int, seconds: float, body: bytes):
        self.index, self.status, self.seconds, self.body = index, status, seconds, body


class Client(asyncio.Protocol):
    """One connection, which is kept; it takes the next request when it has its answer.

    Args:
        load: whose requests it sends.
    """

    def __init__(self, load: Load):
        self._load = load
        self._received = bytearray()
        self._size: int | None = None
        self._index, self._due = 0, 0.0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, index: int, due: float) -> None:
        self._index, self._due = index, due
        self.transport.write(self._load.requests[index])

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._size is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            start = head.index(b"content-length:") + len(b"content-length:")
            self._size = end + 4 + int(head[start:].split(b"\r\n", 1)[0])
        if len(self._received) < self._size:
            return
        status, body = int(self._received[9:12]), bytes(self._received).partition(b"\r\n\r\n")[2]
        self._received.clear()
        self._size = None
        self._load.answered(self, self._index, self._due, status, body)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self, self._index, self._due)


class Load:
    """Requests, and who sends them.

    Args:
        requests: whole requests of HTTP, sent in turns.
        count: of the requests to send.
        rate: requests per second, at random times (a Poisson process); null to send each when the
            answer before it has come.
    """

    def __init__(self, requests: Sequence[bytes], count: int, rate: float | None):
        self.requests, self.count, self.rate = requests, count, rate
        self.answers: list[Answer] = []
        self._sent = 0
        self._idle: deque[Client] = deque()
        self._due: deque[tuple[int, float]] = deque()
        self._done = asyncio.Event()

    async def send(self, clients: Sequence[Client]) -> None:
        """Send every request, and wait for the answers."""
        for client in clients:
            self._next(client)
        if self.rate is not None:
            await self._send_at_random_times(self.rate)
        await self._done.wait()

    async def _send_at_random_times(self, rate: float) -> None:
        rng, due = random.Random(0), time.perf_counter()
        for number in range(self.count):
            due += rng.expovariate(rate)
            while (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            self._due.append((number % len(self.requests), due))
            if self._idle:
                self._idle.popleft().send(*self._due.popleft())

    def _next(self, client: Client) -> None:
        """Give an idle client its next request."""
        if self.rate is None and self._sent < self.count:
            self._sent += 1
            client.send((self._sent - 1) % len(self.requests), time.perf_counter())
        elif self._due:
            client.send(*self._due.popleft())
        else:
            self._idle.append(client)

    def answered(self, client: Client, index: int, due: float, status: int, body: bytes) -> None:
        """Keep an answer; the next request goes out."""
        self.answers.append(Answer(index, status, time.perf_counter() - due, body))
        if len(self.answers) >= self.count:
            self._done.set()
        else:
            self._next(client)

    def lost(self, client: Client, index: int, due: float) -> None:
        """Note a connection that the server has closed while a request was under way."""
        if client in self._idle:
            self._idle.remove(client)
        elif not self._done.is_set():
            self.answers.append(Answer(index, 0, time.perf_counter() - due, b""))
            self._done.set()


def request(path: str, host: str, images: Sequence[bytes]) -> bytes:
    """A whole request of HTTP, whose connection is kept: an image as the body, or a form of several
    images.
    """
    kind, body = "application/octet-stream", images[0]
    if len(images) > 1:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        field = 'Content-Disposition: form-data; name="image"; filename="image"'
        head = f"--{BOUNDARY}\r\n{field}\r\n\r\n".encode()
        body = b"".join(head + image + b"\r\n" for image in images) + f"--{BOUNDARY}--\r\n".encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    return head + body


async def run(task: Mapping[str, Any]) -> dict[str, Any]:
    """Send a load.

    Args:
        task: `host`, `port` and `path` of the requests; `files` of images, sent in turns, `each`
            (default 1) of them in a request; `count`, of requests; `clients`, connections; and
            `rate`, see `Load`.

    Returns:
        `seconds` from the first request to the last answer, `cpu_seconds` of this process in that
        time, and `answers`, each [index of its first file, status, seconds, text].
    """
    host, port = task["host"], task["port"]
    images = []
    for file in task["files"]:
        with open(file, "rb") as opened:
            images.append(opened.read())
    requests = [
        request(
            task["path"],
            f"{host}:{port}",
            [images[(first + i) % len(images)] for i in range(task.get("each", 1))],
        )
        for first in range(len(images))
    ]
    load = Load(requests, task["count"], task.get("rate"))
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(task["clients"]):
        _, client = await loop.create_connection(lambda: Client(load), host, port)
        clients.append(client)
    start, cpu_start = time.perf_counter(), time.process_time()
    await asyncio.wait_for(load.send(clients), LONGEST)
    spent = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
    }
    for client in clients:
        client.transport.abort()
    answers = [
        [answer.index, answer.status, answer.seconds, answer.body.decode()]
        for answer in load.answers
    ]
    return {**spent, "answers": answers}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.loads(sys.argv[1])))))
