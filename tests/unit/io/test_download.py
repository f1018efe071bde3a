"""Downloads from an https server on loopback, and everything that can go wrong on the way."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from passl.errors import ConfigError, RunError
from passl.io import download
from passl.io.download import cache_folder, fetch_url
from passl.porting.resolve import fetch
from tests.unit.io.download_server import (
    BODY,
    SHA256,
    cut,
    entry,
    in_chunks,
    place,
    redirect,
    stall,
    status,
    target,
    whole,
)

pytestmark = pytest.mark.usefixtures("environment")


# --------------------------------------------------------------------------------------------------
# Success
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sha256", [None, SHA256[:8], SHA256])
def test_download(get, server, tmp_path, log, sha256):
    umask = os.umask(0o022)
    try:
        path = get(sha256=sha256, size=len(BODY))
    finally:
        os.umask(umask)
    assert path == target(tmp_path)
    assert path.read_bytes() == BODY
    assert path.stat().st_mode & 0o777 == 0o644  # pooch's temporary file is its owner's only
    assert {file.name for file in path.parent.iterdir()} == {"weights.pth", "weights.pth.lock"}
    assert server.url in log[0]
    assert SHA256 in log[-1]
    assert get(sha256=sha256) == path  # from the cache
    assert len(server.requests) == 1


def test_download_in_chunks(get, server):
    server.answers = [in_chunks]
    assert get().read_bytes() == BODY


def test_each_address_has_its_own_folder(server, tmp_path):
    first = fetch_url(server.url)
    second = fetch_url(server.url + "?v=2")
    assert first.parent != second.parent
    assert first.name == second.name == "weights.pth"
    assert fetch_url(server.url) == first
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirect_to_https_is_followed(get, server, code):
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


def test_mirror_replaces_the_beginning_of_an_address(server, monkeypatch, tmp_path):
    pairs = ["https://b.example/=https://127.0.0.1:9", f"https://hub.example={server.origin}/copy/"]
    monkeypatch.setenv("PASSL_MIRRORS", " ".join(pairs))
    path = fetch(entry("https://hub.example/a/weights.pth"))
    assert path.read_bytes() == BODY
    assert [request["path"] for request in server.requests] == ["/copy/a/weights.pth"]
    monkeypatch.setenv("PASSL_HOME", str(tmp_path / "other"))
    with pytest.raises(RunError, match=r"get https://hub\.example\.org/a/w\.pth by other means"):
        fetch(entry("https://hub.example.org/a/w.pth"))


@pytest.mark.parametrize(
    "pair", ["https://mirror.example", "https://a=http://b", "=", "a=https://b"]
)
def test_wrong_mirror_is_refused(tmp_path, monkeypatch, pair):
    monkeypatch.setenv("PASSL_MIRRORS", pair)
    with pytest.raises(ConfigError, match="PASSL_MIRRORS.*https://ORIGINAL=https://MIRROR"):
        fetch(entry("https://127.0.0.1:9/weights.pth"))


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "https_proxy_original"])
def test_proxy(get, server, monkeypatch, variable):
    """The proxy answers CONNECT and passes bytes on."""
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


def test_progress_bar_is_for_terminals(get, capsys, monkeypatch, tmp_path):
    get()
    assert capsys.readouterr().err == ""
    target(tmp_path).unlink()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    get()
    assert "300.0 kB of 300.0 kB" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------
# Failures that another attempt may resolve
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "answer",
    [
        status(429),
        status(503),
        cut(100_000),
        cut(0),
        lambda handler: in_chunks(handler, complete=False),
        lambda handler: handler.connection.close(),
    ],
    ids=["429", "503", "cut body", "no body", "cut chunks", "no answer"],
)
def test_temporary_failure_is_retried(get, server, answer, log):
    server.answers = [answer, answer]
    assert get(size=len(BODY)).read_bytes() == BODY
    assert len(server.requests) == 3
    assert len(log) == 4  # the start, two failures, the end


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (status(500), "500 Internal Server Error, after 4 att"),
        (cut(1000), "1000 bytes read, 299000"),
    ],
)
def test_attempts_are_counted(fails, server, answer, message):
    server.answers = [answer] * 9
    assert message in fails()
    assert len(server.requests) == 4


@pytest.mark.parametrize("answer", [stall, lambda handler: handler.server.over.wait(10)])
def test_slow_server_ends(fails, server, monkeypatch, answer):
    monkeypatch.setattr(download, "RETRIES", 1)
    monkeypatch.setattr(download, "TIMEOUTS", (5.0, 0.2))
    server.answers = [answer, answer]
    assert "Read timed out" in fails()
    assert len(server.requests) == 2


def test_killed_download_leaves_nothing(get, tmp_path, monkeypatch):
    """The temporary folder of a process that was killed goes with the next download."""
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    folder = place(tmp_path, b"").parent / f".weights.pth.{dead.pid}.tmp"
    folder.mkdir()
    (folder / "half").write_bytes(BODY[:1000])
    target(tmp_path).unlink()
    get()
    assert not folder.exists()


# --------------------------------------------------------------------------------------------------
# Failures that end the download
# --------------------------------------------------------------------------------------------------
def test_404_is_not_retried(fails, server):
    server.answers = [status(404)]
    message = fails()
    assert "404 Not Found" in message
    assert f"get {server.url} by other means" in message
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><p>Log in first",
        b'{"error": "not found"}',
        b"version https://git-lfs.github.com/spec/v1\noid sha256:",
        b"",
    ],
)
def test_page_is_not_weights(fails, server, body):
    server.answers = [lambda handler: handler.send(200, body)]
    message = fails()
    assert "page" in message or "empty" in message
    assert len(server.requests) == 1


def test_compressed_answer_is_refused(fails, server):
    server.answers = [lambda handler: handler.send(200, BODY, Content_Encoding="gzip")]
    assert "gzip" in fails()


@pytest.mark.parametrize("digits", [8, 64])
def test_wrong_bytes(fails, server, digits):
    message = fails(sha256="0" * digits)
    assert SHA256 in message
    assert "0" * digits in message
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [whole, in_chunks])
def test_wrong_size(fails, server, answer):
    server.answers = [answer]
    message = fails(size=299_999)
    assert "300,000 bytes" in message and "299,999" in message


def test_body_of_unknown_length_is_refused(fails, server):
    server.answers = [lambda handler: handler.send(200, BODY, Content_Length="")]
    assert "does not send its length" in fails()


@pytest.mark.parametrize("target_url", ["http://127.0.0.1:9/w.pth", "file:///etc/passwd"])
def test_redirect_away_from_https_is_refused(fails, server, target_url):
    server.answers = [redirect(302, target_url)]
    assert target_url in fails()
    assert len(server.requests) == 1


def test_redirects_end(fails, server):
    server.answers = [redirect(302, f"/{i}") for i in range(50)]
    assert "redirects" in fails()
    assert len(server.requests) < 50


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
        fetch_url(url)
    assert not list(tmp_path.iterdir())


def test_entry_with_an_http_address(tmp_path):
    with pytest.raises(RunError, match="over https only"):
        fetch(entry("http://127.0.0.1:9/weights.pth"))


def test_untrusted_certificate(fails, server, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    message = fails()
    assert "no trusted connection" in message and "SSL_CERT_FILE" in message
    assert server.requests == []


def test_missing_certificate_file(fails, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    assert "/nowhere.pem" in fails()


def test_no_network_is_not_retried(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: pytest.fail("waits"))
    with socket.create_server(("127.0.0.1", 0)) as free:  # a port where nobody listens afterwards
        url = f"https://127.0.0.1:{free.getsockname()[1]}/weights.pth"
    with pytest.raises(RunError) as error:
        fetch(entry(url))
    message = str(error.value)
    assert "no connection to the server: [Errno 111] Connection refused" in message
    assert "PASSL_MIRRORS" in message
    assert f"get {url} by other means and put it at {target(tmp_path)}" in message


def test_unknown_host_is_not_retried(tmp_path, monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: pytest.fail("waits"))
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(RunError, match="no connection.*hub.example.*Name or service not known"):
        fetch(entry("https://hub.example/weights.pth"))


def test_no_address(tmp_path):
    with pytest.raises(RunError) as error:
        fetch(entry(None, note="in the authors' cupboard"))
    for part in ("no address", "in the authors' cupboard", str(target(tmp_path))):
        assert part in str(error.value)
