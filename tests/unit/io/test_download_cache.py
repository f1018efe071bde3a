"""Files that are in the cache of downloads, and several processes that use it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from passl.errors import RunError
from passl.porting.resolve import fetch
from tests.unit.io.download_server import (
    BODY,
    OTHER,
    SHA256,
    entry,
    place,
    target,
)

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("environment")


# --------------------------------------------------------------------------------------------------
# Files that are in the cache
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sha256", [None, SHA256[:8], SHA256])
def test_file_put_there_by_hand_is_used(tmp_path, log, sha256):
    place(tmp_path, BODY)
    assert fetch(entry(None, sha256=sha256)) == target(tmp_path)
    assert not log


@pytest.mark.parametrize("content", [OTHER, b"<html>Log in first", b""])
def test_wrong_file_is_moved_aside(get, tmp_path, content, log):
    place(tmp_path, content)
    assert get(sha256=SHA256).read_bytes() == BODY
    aside = target(tmp_path).with_name("weights.pth.rejected")
    assert aside.read_bytes() == content
    assert any(str(aside) in line for line in log)


def test_wrong_file_without_an_address_is_moved_aside(tmp_path):
    place(tmp_path, b"<html>Log in first")
    with pytest.raises(RunError, match="no address"):
        fetch(entry(None))
    assert not target(tmp_path).exists()


def test_hash_that_became_known_counts_for_cached_files(get, tmp_path):
    get()
    with pytest.raises(RunError, match="the download is not the file"):
        get(sha256="0" * 64)
    assert target(tmp_path).with_name("weights.pth.rejected").read_bytes() == BODY


def test_cache_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PASSL_HOME", str(tmp_path / "file"))
    with pytest.raises(RunError, match="cannot be written.*PASSL_HOME"):
        fetch(entry("https://127.0.0.1:9/weights.pth"))


@pytest.fixture
def read_only(monkeypatch) -> Callable[[], None]:
    """Make the cache read-only. Root may write everywhere, so the lock is refused in its place."""

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    return lambda: monkeypatch.setattr("passl.io.lock.FileLock", denied)


def test_read_only_cache(get, server, tmp_path, read_only):
    read_only()
    with pytest.raises(RunError, match="cannot be written.*Permission denied.*PASSL_HOME"):
        get()
    assert server.requests == []
    assert not target(tmp_path).exists()


def test_files_of_a_read_only_cache_are_used(get, read_only):
    path = get()
    read_only()
    assert get(sha256=SHA256) == path


def test_disk_that_fails(get, server, tmp_path, monkeypatch):
    def full(source, destination):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pooch.core.shutil.move", full)
    with pytest.raises(RunError, match="cannot be written.*No space left"):
        get()
    assert len(server.requests) == 1
    assert not target(tmp_path).exists()


# --------------------------------------------------------------------------------------------------
# Several processes
# --------------------------------------------------------------------------------------------------
def test_two_processes_make_one_download(server, tmp_path):
    def slow(handler):
        handler.send(200, BODY, 150_000)
        handler.wfile.flush()
        server.over.wait(0.5)
        handler.wfile.write(BODY[150_000:])

    server.answers = [slow]
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from passl.io.download import fetch_url
print("ready", flush=True)
input()
print(fetch_url({server.url!r}))
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
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
