"""Settings for runs that repeat to the last bit on GPUs. No GPU was at hand."""

from __future__ import annotations

import os

import paddle
import pytest

from passl.engine.check import check_config
from passl.engine.determinism import make_deterministic
from passl.logging import get_logger
from passl.utils.config import get_config

CUDNN, EMBEDDING = "FLAGS_cudnn_deterministic", "FLAGS_embedding_deterministic"


@pytest.fixture(autouse=True)
def logged(monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # restored after the test
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


@pytest.mark.parametrize("known", [(CUDNN, EMBEDDING), (CUDNN,), ()])
def test_the_flags_that_paddle_knows_are_set(monkeypatch, caplog, known):
    found = {}

    def set_flags(flags):
        for name, value in flags.items():
            if name not in known:
                raise ValueError(f"Flag {name} cannot set its value through this function.")
            found[name] = value

    monkeypatch.setattr(paddle, "set_flags", set_flags)
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    make_deterministic()
    expected = {CUDNN: True, EMBEDDING: 1}
    assert found == {name: value for name, value in expected.items() if name in known}
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # NVIDIA's, for cuBLAS
    for name in (CUDNN, EMBEDDING):
        assert (name in caplog.text) == (name not in known)


def test_a_variable_that_the_user_has_set_is_kept(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle, "set_flags", lambda flags: None)
    make_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_on_a_cpu_there_is_nothing_to_do(caplog):
    with caplog.at_level("INFO", logger="passl"):
        make_deterministic()
    assert "deterministic: changes nothing on a CPU" in caplog.text
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_the_config_may_ask_for_it(tiny_config):
    check_config(get_config(tiny_config(deterministic=True)))
