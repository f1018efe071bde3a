"""`passl serve` as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from passl.data.datasets.digits import Digits
from passl.deploy import Predictor
from tests.integration.test_deploy import exported

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def server(*arguments: object) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server and its address."""
    command = [sys.executable, "-m", "passl", "serve", *map(str, arguments), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ}, **pipes)
    try:
        lines = []
        while not (found := re.search(r"http://\S+", lines[-1] if lines else "")):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        yield process, found[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def predict(address: str, content: bytes) -> list[dict]:
    request = urllib.request.Request(f"{address}/v1/models/out:predict?top_k=3", content)
    with urllib.request.urlopen(request, timeout=60) as answer:
        (found,) = json.load(answer)["predictions"]
    return found["best"]


def test_answers_are_those_of_the_predictor(tmp_path):
    """Of concurrent clients, whose images share batches. SIGTERM ends it in order."""
    exported("convit_fb", tmp_path / "out")
    digits, predictor = Digits(split="val"), Predictor(tmp_path / "out", threads=1)
    files = []
    for index in range(24):
        files.append(tmp_path / f"{index}.png")
        digits.load_image(index).resize((50, 40)).save(files[-1])
    expected = predictor.top([str(file) for file in files], k=3, batch_size=1)
    with server(tmp_path / "out", "--threads", 1) as (process, address):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda file: predict(address, file.read_bytes()), files))
        for answers, predictions in zip(found, expected, strict=True):
            for answer, prediction in zip(answers, predictions, strict=True):
                assert answer["label"] == prediction.label
                # Rounded to six digits, and a batch rounds otherwise than an image alone.
                assert answer["probability"] == pytest.approx(prediction.probability, abs=2e-6)
        with pytest.raises(urllib.error.HTTPError) as refused:
            predict(address, b"damaged")
        refused.value.close()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        statuses = [json.loads(line)["status"] for line in out.splitlines()]
        assert sorted(statuses) == [200] * 24 + [415]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x"], ["there is no such", "x"]),
        (["."], ["passl export"]),
        (["a=.", "a=.."], ["'a'", "NAME=MODEL"]),
        ([".", "--engine", "tvm"], ["tvm", "onnxruntime"]),
        ([".", "--host", "256.0.0.1"], ["--host 256.0.0.1"]),
        ([".", "--port", "65536"], ["65536", "65535"]),
        ([".", "--origin", "https://a.example/"], ["https://a.example/", "https://example.org"]),
        ([".", "--origin", "a.example"], ["a.example", "https://example.org"]),
    ],
)
def test_wrong_calls(arguments, words, monkeypatch, capsys):
    from passl.cli import dispatch

    monkeypatch.setattr(sys, "argv", ["passl", "serve", *arguments])
    with pytest.raises(SystemExit) as ended:
        dispatch.main()
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    for word in words:
        assert word in shown


def test_short_token_and_port_in_use(monkeypatch, capsys, tmp_path):
    import socket

    from passl.cli import dispatch

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["passl", "serve", *arguments])
        with pytest.raises(SystemExit) as ended:
            dispatch.main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    (tmp_path / "token").write_text("short\n")
    assert "16" in call(".", "--token-file", str(tmp_path / "token"))
    assert "cannot be read" in call(".", "--token-file", str(tmp_path / "none"))
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        assert "choose another port" in call(".", "--port", port)
