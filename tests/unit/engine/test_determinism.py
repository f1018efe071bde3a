"""What is asked of Paddle for runs that repeat to the last bit. No GPU was at hand."""

from __future__ import annotations

import os

import paddle
import pytest

from passl.engine.check import check_config
from passl.engine.determinism import ask_for_determinism, report
from passl.logging import get_logger
from passl.utils.config import get_config

CUDNN, EMBEDDING = "FLAGS_cudnn_deterministic", "FLAGS_embedding_deterministic"


@pytest.mark.parametrize("known", [(CUDNN, EMBEDDING), (CUDNN,), ()])
def test_the_flags_that_paddle_knows_are_set(monkeypatch, caplog, known):
    told = {}

    def set_flags(flags):
        for name, value in flags.items():
            if name not in known:
                raise ValueError(f"Flag {name} cannot set its value through this function.")
            told[name] = value

    monkeypatch.setattr(paddle, "set_flags", set_flags)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # and back after the test
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    unknown = ask_for_determinism()
    assert told == {name: value for name, value in ((CUDNN, True), (EMBEDDING, 1)) if name in known}
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"  # NVIDIA's, for cuBLAS
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(get_logger(), "propagate", True)
    report(unknown)
    for name in (CUDNN, EMBEDDING):
        assert (name in caplog.text) == (name not in known)


def test_on_a_cpu_there_is_nothing_to_do(monkeypatch, caplog):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr(get_logger(), "propagate", True)
    with caplog.at_level("INFO", logger="passl"):
        report(ask_for_determinism())
    assert "deterministic: changes nothing on a CPU" in caplog.text
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"  # the user's


def test_the_config_may_ask_for_it(tiny_config):
    check_config(get_config(tiny_config(deterministic=True)))
