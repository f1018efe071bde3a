from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("ml_dtypes")

import onnx
from onnx import helper, numpy_helper

from passl.deploy.calibration_data import CalibrationData
from passl.deploy.engines import load_engine
from passl.deploy.quantize import quantize
from passl.errors import RunError

SAMPLES = 300
SHAPE = (1, 4, 4)


def write_network(folder, largest: float = 1.0) -> None:
    """Two matrix products with a ReLU between them. The first ignores the first pixel, the second
    the first hidden value, which is as large as that.
    """
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((16, 32)), rng.standard_normal((32, 4))
    first[0], second[0] = 0, 0
    first[:, 0] *= largest
    weights = {"weight1": first, "weight2": second}
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "weight1"], ["hidden"], "first"),
        helper.make_node("Relu", ["hidden"], ["positive"], "relu"),
        helper.make_node("MatMul", ["positive", "weight2"], ["logits"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))


def calibration(folder, largest: float, max_loss: float) -> CalibrationData:
    """Samples whose first pixel is large, labelled as the network classifies them."""
    images = np.random.default_rng(1).standard_normal((SAMPLES, *SHAPE), np.float32)
    images[:, 0, 0, 0] *= largest
    labels = load_engine(folder, "onnxruntime", "fp32", 1)(images).argmax(-1)
    indices = range(SAMPLES)
    return CalibrationData(
        images.__getitem__, labels, indices[:100], indices[100:], max_loss, "here"
    )


def test_weights_become_a_quarter_and_answers_stay(tmp_path):
    write_network(tmp_path)
    found = quantize(tmp_path, calibration(tmp_path, 1.0, 5.0), 1)
    assert (found["layers"], found["float_layers"], found["top1_fp32"]) == (2, [], 100.0)
    assert 95 <= found["top1_int8"] <= 100
    model = onnx.load(str(tmp_path / "model.int8.onnx"))
    sizes = {w.data_type: w for w in model.graph.initializer if len(w.dims) == 2}
    assert set(sizes) == {onnx.TensorProto.INT8}
    rng = np.random.default_rng(2)
    images = rng.standard_normal((50, *SHAPE), np.float32)
    exact, int8 = (load_engine(tmp_path, "onnxruntime", p, 1)(images) for p in ("fp32", "int8"))
    # Each of the 16 and 32 products of a logit is rounded to about 1/127 of its largest factor.
    assert 1e-4 < np.abs(int8 - exact).max() / np.abs(exact).max() < 0.1


def test_the_layer_that_loses_most_stays_in_float(tmp_path):
    """A range that holds the first pixel has no steps left for the others."""
    write_network(tmp_path)
    found = quantize(tmp_path, calibration(tmp_path, 1000.0, 5.0), 1)
    assert found["float_layers"] == ["first"]
    assert found["top1_int8"] >= 95


def test_too_large_a_loss_is_refused(tmp_path):
    write_network(tmp_path, 1000.0)
    with pytest.raises(RunError, match="more than 5, with 1 of 2 layers in float32.*--max-loss"):
        quantize(tmp_path, calibration(tmp_path, 1000.0, 5.0), 1)
    assert not (tmp_path / "model.int8.onnx").exists()
