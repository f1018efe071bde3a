"""What a server must withstand: python tests/stress/serve.py EXPORTED

Damaged, cut, slow and too many requests are sent to a server on loopback. After each kind it must
still answer rightly; at the end no thread, file or memory may have leaked. Exits with 1 if not.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {
    **{"--threads": 1, "--max-waiting": 8, "--max-megabytes": 1},
    **{"--max-pixels": 1_000_000, "--timeout": 20, "--max-connections": 60},
}
NAME = "net"
MOST_MIB = 48
"""That a server may keep more than before the bad requests: arenas of its threads, not a leak of
each."""


class Server:
    """A server, and what may leak of it.

    Args:
        exported: the folder of its network.
        port: to listen on; 0 for any that is free.
    """

    def __init__(self, exported: Path, port: int = 0):
        command = [sys.executable, "-m", "passl", "serve", f"{NAME}={exported}"]
        options = {**OPTIONS, "--port": port}
        command += [str(part) for option in options.items() for part in option]
        # A file: nobody reads a pipe, and the server would wait for it when it is full.
        self._messages = tempfile.NamedTemporaryFile("w")  # noqa: SIM115
        engine = "onnxruntime" if (exported / "model.onnx").is_file() else "paddle"
        self._process = subprocess.Popen(
            [*command, "--engine", engine],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=self._messages,
        )
        while not (found := re.search(r"http://127.0.0.1:(\d+)", self.text())):
            if self._process.poll() is not None:
                raise SystemExit(f"the server does not start: {self.text()}")
            time.sleep(0.1)
        self.port = int(found[1])

    def figures(self) -> dict[str, float]:
        """Threads, open files and MiB of the process."""
        folder = Path(f"/proc/{self._process.pid}")
        text = (folder / "status").read_text()
        return {
            "threads": int(re.search(r"Threads:\s+(\d+)", text)[1]),
            "files": len(list((folder / "fd").iterdir())),
            "MiB": int(re.search(r"VmRSS:\s+(\d+)", text)[1]) // 1024,
        }

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            yield connection

    def send(self, *parts: bytes, pause: float = 0) -> int:
        """Send bytes, and return the status of the answer; 0 if the server closes instead."""
        with self.connection() as connection:
            try:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
                answer = b""
                while len(answer) < 12 and (received := connection.recv(4096)):
                    answer += received
            except ConnectionError:
                return 0
        return int(answer[9:12]) if len(answer) >= 12 else 0

    def text(self) -> str:
        """What it has written to stderr."""
        return Path(self._messages.name).read_text()

    def end(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=120)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def request(body: bytes, kind: str = "image/png", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = (
        f"POST /v1/models/{NAME}:predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    )
    return head.encode() + body


def image(kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    file = BytesIO()
    Image.effect_noise(size, 64).convert("RGB").save(file, kind)
    return file.getvalue()


def bomb(side: int = 60_000) -> bytes:
    """A PNG of some hundred bytes that says it has billions of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# --------------------------------------------------------------------------------------------------
# Faults: each returns how often each status came
# --------------------------------------------------------------------------------------------------
def corrupt(server: Server, rng: random.Random) -> Counter[int]:
    """Images of every format, with wrong bytes or cut."""
    found: Counter[int] = Counter()
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        for _ in range(6):
            content = bytearray(image(kind))
            if rng.random() < 0.5:
                del content[rng.randrange(1, len(content)) :]
            for _ in range(rng.randrange(1, 20)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            found[server.send(request(bytes(content)))] += 1
    return found


def bombs(server: Server, rng: random.Random) -> Counter[int]:
    """Too many pixels, too many bytes, and base64 of both."""
    text = json.dumps({"images": [base64.b64encode(bomb()).decode()]}).encode()
    large = request(b"", length=1 << 40)
    sent = [request(bomb()), request(bomb(1001)), request(text, "application/json"), large]
    return Counter(server.send(each) for each in sent)


def cut(server: Server, rng: random.Random) -> Counter[int]:
    """Uploads whose client leaves."""
    for _ in range(40):
        whole = request(image())
        with server.connection() as connection:
            connection.sendall(whole[: rng.randrange(1, len(whole))])
    return Counter()


def slow(server: Server, rng: random.Random) -> Counter[int]:
    """Clients that send a byte now and then; others are answered meanwhile."""
    whole = request(image())
    with ThreadPoolExecutor(8) as pool:
        late = [
            pool.submit(server.send, whole[:-3], *(whole[n : n + 1] for n in (-3, -2)), pause=0.5)
            for _ in range(4)
        ]
        found = Counter(pool.map(server.send, [whole] * 4))
        found += Counter(each.result() for each in late)
    return found


def flood(server: Server, rng: random.Random) -> Counter[int]:
    """More at once than may wait, and more connections than are allowed."""
    whole = request(image(size=(900, 900), kind="JPEG"))
    with ThreadPoolExecutor(50) as pool:
        return Counter(pool.map(server.send, [whole] * 100))


def fuzz(server: Server, rng: random.Random, count: int) -> Counter[int]:
    """Requests with wrong bytes anywhere, of other methods, paths and types."""
    kinds = ("image/png", "application/json", "multipart/form-data; boundary=b", "text/x", "")
    boundary = b"--b\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\nx\r\n--b--"
    bodies = [image(), b'{"images": ["aGk="]}', boundary, b"", b"[" * 5000, b"\xff" * 100]

    def one(seed: int) -> int:
        own = random.Random(seed)
        whole = bytearray(request(own.choice(bodies), own.choice(kinds)))
        for _ in range(own.randrange(0, 6)):
            place = own.randrange(len(whole))
            if own.random() < 0.5:
                whole[place] = own.randrange(256)
            else:
                whole[place : place + own.randrange(8)] = own.randbytes(own.randrange(8))
        with server.connection() as connection:
            try:
                connection.sendall(whole)
                if own.random() < 0.5:
                    connection.shutdown(socket.SHUT_WR)
                else:
                    connection.settimeout(2)  # the server waits for what the head has promised
                answer = connection.recv(4096)
            except (ConnectionError, TimeoutError):
                return 0
        return int(answer[9:12]) if answer[:5] == b"HTTP/" else 0

    seeds = [rng.getrandbits(40) for _ in range(count)]
    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(one, seeds))


FAULTS: dict[str, tuple[Callable[..., Counter[int]], set[int]]] = {
    "corrupt images": (corrupt, {200, 413, 415, 422}),
    "bombs": (bombs, {413}),
    "cut uploads": (cut, set()),
    "slow clients": (slow, {0, 200, 400, 504}),
    "full queue": (flood, {200, 503}),
    "fuzzed requests": (fuzz, {0, 200, 400, 404, 405, 408, 411, 413, 415, 422, 503}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exported", type=Path)
    parser.add_argument("--requests", type=int, default=10_000, help="that are fuzzed")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, server, problems = random.Random(args.seed), Server(args.exported), []
    try:
        for _ in range(3):  # arenas and threads of the first requests
            server.send(request(image()))
            flood(server, rng)
        before = server.figures()
        for name, (fault, allowed) in FAULTS.items():
            extra = {"count": args.requests} if fault is fuzz else {}
            found = fault(server, rng, **extra)
            print(f"{name}: {dict(sorted(found.items()))}", flush=True)
            problems += [f"{name}: status {status}" for status in found if status not in allowed]
            if server.send(request(image())) != 200:
                problems.append(f"{name}: no answer after it")
        time.sleep(7)  # kept connections end
        after = server.figures()
        print(f"before: {before}\nafter:  {after}")
        problems += [
            f"more {key} than before" for key in ("threads", "files") if after[key] > before[key]
        ]
        if after["MiB"] > before["MiB"] + MOST_MIB:
            problems.append(f"{after['MiB'] - before['MiB']} MiB more than before")
        if "Traceback" in server.text():
            print(server.text()[-5000:], file=sys.stderr)
            problems.append("a traceback")
        server.kill()
        server = Server(args.exported, server.port)
        print(f"killed, and started again at the same port: {server.send(request(image()))}")
        if server.send(request(image())) != 200:
            problems.append("no answer after it was killed and started again")
        if (code := server.end()) != 0:
            problems.append(f"exit code {code}")
    finally:
        server.kill()
    print("\n".join(problems) or "nothing leaked, every status as it should be")
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
