from __future__ import annotations

from types import SimpleNamespace

import pytest

from passl.deploy import engines
from passl.deploy.engines import check_engine, load_engine
from passl.errors import ConfigError, RunError


def cpu(tmp_path, flags: str):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbogomips\t: 1\n")
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("tensorrt", "fp32", 1), "'tensorrt' is not one of paddle, .*openvino, auto"),
        (("paddle", "fp8", 1), "precision 'fp8' is not one of fp32, bf16, int8"),
        (("paddle", "int8", 1), "precision int8: paddle .* use engine onnxruntime or openvino"),
        (("paddle", "fp32", 0), "threads 0 must be at least 1"),
        (("onnxruntime", "bf16", 1), "bf16: onnxruntime .*engine paddle or openvino"),
    ],
)
def test_wrong_options(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        check_engine(*options, cpu(tmp_path, "avx512_bf16"))


def test_a_processor_without_bf16(tmp_path):
    with pytest.raises(ConfigError, match="no bf16 instructions.*use fp32"):
        check_engine("paddle", "bf16", 1, cpu(tmp_path, "avx2 avx512f"))
    with pytest.raises(ConfigError, match="no bf16 instructions"):
        check_engine("paddle", "bf16", 1, tmp_path / "absent")
    for flag in ("avx512_bf16", "amx_bf16"):
        assert check_engine("paddle", "bf16", 1, cpu(tmp_path, flag)) is None


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_engine_that_is_not_installed(name, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, name, None)  # importing it fails as if it were absent
    with pytest.raises(ConfigError, match=f"engine {name} is not installed.*pip install {name}"):
        load_engine(tmp_path, name, "fp32", 1)


def test_an_invalid_graph(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "model.pdiparams").write_bytes(b"")
    with pytest.raises(RunError, match="paddle cannot load it"):
        load_engine(tmp_path, "paddle", "fp32", 1)


@pytest.mark.parametrize(
    ("name", "device", "precision", "expected"),
    [
        ("paddle", "gpu:1", "fp32", (100, 1, "Float32")),
        ("paddle", "gpu:0", "bf16", (100, 0, "Bfloat16")),
        ("paddle_plain", "gpu:0", "fp32", None),
        ("paddle", "cpu", "fp32", None),
    ],
)
def test_paddle_computes_on_its_current_device(
    name, device, precision, expected, tmp_path, monkeypatch
):
    """By what Paddle Inference is told; it ran on no GPU."""
    import paddle

    calls = {}

    class Config:
        def __init__(self, *paths):
            pass

        def __getattr__(self, method):
            return lambda *arguments: calls.setdefault(method, arguments)

    class Created(Exception):
        pass

    def create_predictor(config):
        raise Created

    types = SimpleNamespace(Float32="Float32", Bfloat16="Bfloat16")
    inference = SimpleNamespace(
        Config=Config, PrecisionType=types, create_predictor=create_predictor
    )
    monkeypatch.setattr(engines, "_imported", lambda module, package: inference)
    monkeypatch.setattr(paddle, "get_device", lambda: device)
    if expected:  # the processor needs no bf16 of its own
        check_engine(name, precision, 1, tmp_path / "absent")
    with pytest.raises(RunError, match="Created"):
        load_engine(tmp_path, name, precision, 1)
    assert calls.get("enable_use_gpu") == expected
    assert ("disable_gpu" in calls) == (expected is None)
