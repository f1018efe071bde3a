"""Fixtures of the readers' tests."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from passl.errors import CheckpointError
from tests.stress.fuzzing import (
    READERS,
    SUFFIXES,
)


@pytest.fixture
def refused(tmp_path):
    """Return the message with which a reader refuses a file, in one line and in little memory."""

    def refuse(kind: str, data: bytes, memory: int = 2**27) -> str:
        path = tmp_path / f"hostile.{SUFFIXES[kind]}"
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(CheckpointError) as caught:
                READERS[kind](path)
            assert tracemalloc.get_traced_memory()[1] < memory
        finally:
            tracemalloc.stop()
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert message.isprintable()
        return message.removeprefix(f"{path}: ")

    return refuse


@pytest.fixture
def write(tmp_path):
    def write(data: bytes, name: str = "weights") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write
