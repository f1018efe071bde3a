from __future__ import annotations

import json

import numpy as np
import pytest

from passl.deploy import auto
from passl.deploy.exported import Description, write_description
from passl.errors import RunError

ENGINES = ["paddle", "onnxruntime", "openvino"]
LOGITS = np.array([[1.0, -4.0]], np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(auto, "installed", lambda: ENGINES)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("model.json", "model.pdiparams", "model.onnx"):
        (out / name).touch()
    nodes = [{"name": "Resize", "size": [4, 6]}, {"name": "Normalize"}]
    write_description(out, Description({}, nodes, [3, 4, 6], ["a", "b"], {}, 1, "w", False))
    return out


@pytest.fixture
def measured(monkeypatch):
    """Engines that take given times and compute given logits; which were measured."""
    calls = []

    def set_up(**engines):
        def measure(folder, name, precision, threads, batch, shape):
            calls.append((name, batch))
            if isinstance(engines[name], str):
                raise RunError(engines[name])
            return engines[name]

        monkeypatch.setattr(auto, "_measure", measure)
        return calls

    return set_up


def test_the_fastest_is_measured_once(folder, measured):
    close = LOGITS + 4e-5  # 1e-5 of the largest
    calls = measured(paddle=(5.0, LOGITS), onnxruntime=(1.5, close), openvino=(1.2, LOGITS + 1e-2))
    choice = auto.choose_engine(folder, "fp32", 1, 8)
    assert choice.engine == "onnxruntime"
    assert choice.milliseconds == {"paddle": 5.0, "onnxruntime": 1.5}
    assert "logits differ by 2.5e-03" in choice.left_out["openvino"]  # it would be the fastest
    assert auto.choose_engine(folder, "fp32", 1, 8) == choice
    assert calls == [(name, 8) for name in ENGINES]
    assert auto.known_choices() == [choice]
    auto.choose_engine(folder, "fp32", 1, 1)  # another batch size
    assert len(calls) == 6


def test_a_changed_network_is_measured_again(folder, measured):
    calls = measured(paddle=(5.0, LOGITS), onnxruntime=(1.5, LOGITS), openvino=(2, LOGITS))
    auto.choose_engine(folder, "fp32", 1, 1)
    path = folder / "passl.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": "other"}))
    auto.choose_engine(folder, "fp32", 1, 1)
    assert len(calls) == 6


def test_a_damaged_cache_is_measured_again(folder, measured, tmp_path):
    measured(paddle=(5.0, LOGITS), onnxruntime=(1.5, LOGITS), openvino=(2, LOGITS))
    choice = auto.choose_engine(folder, "fp32", 1, 1)
    (file,) = (tmp_path / "home" / "engines").iterdir()
    for text in ("{", "{}", "[]", file.read_text().replace('"engine": "onnx', '"engine": "x')):
        file.write_text(text)
        assert auto.choose_engine(folder, "fp32", 1, 1) == choice


def test_engines_without_files_or_that_fail(folder, measured):
    calls = measured(paddle=(5.0, LOGITS), onnxruntime="killed", openvino="killed")
    assert auto.choose_engine(folder, "fp32", 1, 1).engine == "paddle"
    (folder / "model.json").unlink()
    calls.clear()
    with pytest.raises(RunError, match="no engine can run it .onnxruntime: killed; openvino"):
        auto.choose_engine(folder, "fp32", 1, 1)
    assert [name for name, _ in calls] == ["onnxruntime", "openvino"]
