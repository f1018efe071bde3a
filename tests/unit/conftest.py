from __future__ import annotations

import sys

import pytest

from passl.cli import dispatch
from tests.browser import open_browser


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `passl ARGUMENTS` in this process: exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["passl", *map(str, arguments)])
        code = 0
        try:
            dispatch.main()
        except SystemExit as ended:
            code = ended.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def browser():
    """Chromium, see `tests/browser.py`."""
    with open_browser() as opened:
        yield opened
