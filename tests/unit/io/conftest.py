"""Fixtures of the downloads' tests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from passl.errors import RunError
from passl.io import download
from passl.logging import get_logger
from passl.porting.resolve import fetch
from tests.unit.io.download_server import (
    Server,
    entry,
    running,
    target,
)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificates(authority, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def server(authority) -> Iterator[Server]:
    with running(authority) as server:
        yield server


@pytest.fixture
def environment(monkeypatch, certificates, tmp_path):
    """An empty cache, no proxies or mirrors, a trusted server, and no pauses between attempts."""
    monkeypatch.setenv("PASSL_HOME", str(tmp_path))
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    monkeypatch.setattr(download, "TIMEOUTS", (5.0, 5.0))
    for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
        for variable in (name, name.upper(), f"{name}_original"):
            monkeypatch.delenv(variable, raising=False)
    for variable in ("PASSL_MIRRORS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates))


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines that are logged; the logger may not propagate, so caplog would not see them."""
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
def get(server, tmp_path) -> Callable[..., Path]:
    """get(sha256=..., size=...) fetches the server's file as an entry of the zoo."""
    return lambda **values: fetch(entry(server.url, **values))


@pytest.fixture
def fails(get, tmp_path) -> Callable[..., str]:
    """Fetch in vain and return the message. Nothing is left of the download."""

    def call(**values) -> str:
        with pytest.raises(RunError) as error:
            get(**values)
        assert {path.name for path in target(tmp_path).parent.iterdir()} == {"weights.pth.lock"}
        assert f"and put it at {target(tmp_path)}" in str(error.value)
        return str(error.value)

    return call
