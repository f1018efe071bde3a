"""The clients of the server's benchmark, by a server of a few lines."""

from __future__ import annotations

import asyncio
import email

import pytest

from benchmarks.load import BOUNDARY, run


def load(tmp_path, answer, **task) -> tuple[dict, list[bytes]]:
    """Send a load to a server that answers each request by `answer(body)`."""
    files = []
    for name in ("red", "green"):
        files.append(tmp_path / name)
        files[-1].write_bytes(name.encode())
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = int(head.partition("Content-Length: ")[2].partition("\r\n")[0])
                bodies.append(await reader.readexactly(size))
                for part in answer(bodies[-1]):  # in parts, as a network gives it
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.0005)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        finally:
            writer.close()

    async def both() -> dict:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        where = {"host": "127.0.0.1", "port": port, "path": "/", "files": files}
        async with server:
            return await run({**where, **task})

    return asyncio.run(both()), bodies


@pytest.mark.parametrize("rate", [None, 2000.0])
def test_every_request_gets_its_answer(tmp_path, rate):
    def answer(body: bytes):
        status = b"200 OK" if body == b"red" else b"503 Busy"
        return [b"HTTP/1.1 " + status, b"\r\ncontent-length: %d\r\n\r\n" % len(body), body]

    found, bodies = load(tmp_path, answer, count=41, clients=5, rate=rate)
    assert sorted(bodies) == [b"green"] * 20 + [b"red"] * 21
    assert sorted((index, status, text) for index, status, _, text in found["answers"]) == (
        [(0, 200, "red")] * 21 + [(1, 503, "green")] * 20
    )
    assert all(0 < seconds <= found["seconds"] for _, _, seconds, _ in found["answers"])


def test_a_closed_connection_ends_the_load(tmp_path):
    def answer(body: bytes):
        if body == b"green":
            raise ConnectionResetError
        return [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]

    found, _ = load(tmp_path, answer, count=10, clients=1)
    assert [(index, status) for index, status, _, _ in found["answers"]] == [(0, 200), (1, 0)]


def test_an_idle_connection_may_be_closed(tmp_path):
    """As a server does after some seconds; the other clients go on."""

    def answer(body: bytes):
        yield from [b""] * (100 if body == b"red" else 0)
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        if body == b"green":
            raise ConnectionResetError

    found, _ = load(tmp_path, answer, count=2, clients=2)
    assert [status for _, status, _, _ in found["answers"]] == [200, 200]


def test_several_images_are_sent_as_a_form(tmp_path):
    def answer(body: bytes):
        return [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]

    found, bodies = load(tmp_path, answer, count=2, clients=1, each=3)
    head = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\n\n".encode()
    forms = [email.message_from_bytes(head + body).get_payload() for body in bodies]
    assert [[part.get_payload().strip() for part in form] for form in forms] == [
        ["red", "green", "red"],
        ["green", "red", "green"],
    ]
    assert {part.get_param("name", header="content-disposition") for part in sum(forms, [])} == {
        "image"
    }
    assert [index for index, *_ in found["answers"]] == [0, 1]
