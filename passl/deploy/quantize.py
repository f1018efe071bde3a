"""int8 weights and activations for an exported network, by ONNX Runtime's static quantization.

Weights of matrix products and convolutions have a scale for each output channel; activations have
one scale, from a percentile of what they are on calibration images. The graph holds pairs of
QuantizeLinear and DequantizeLinear (QDQ), which ONNX Runtime and OpenVINO compute in int8.

Shapes in names: K classes, N samples.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from passl.deploy.calibration_data import BATCH, CalibrationData
from passl.deploy.engines import load_engine
from passl.deploy.exported import ONNX, ONNX_INT8
from passl.errors import ConfigError, RunError
from passl.io.stdout import captured_stdout
from passl.logging import get_logger

PERCENTILE = 99.99
"""Of the values of an activation that its range covers: rarer ones would cost all others steps."""
_KINDS = ("MatMul", "Gemm", "Conv")
"""Operations that are quantized, if one of their factors is a weight."""
_RESTORED = 8
"""Part of the layers, as a divisor, that go back to float at a time."""
_WARNINGS, _ERRORS = 2, 3
"""ONNX Runtime's levels of messages; the first is its default."""
_PACKAGES = ("onnx", "onnxruntime", "ml_dtypes")


@dataclass(frozen=True)
class _Score:
    """How a network does on the held-out samples.

    Args:
        top1: percent.
        divergence: mean KL divergence of the probabilities from those of float32.
    """

    top1: float
    divergence: float


def check_packages() -> None:
    """Check that what quantization needs is installed.

    Raises:
        ConfigError: something is not.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--int8 needs {', '.join(missing)}; in a checkout: pip install '.[int8]'"
        )


def quantize(folder: Path, calibration: CalibrationData, threads: int) -> dict[str, Any]:
    """Write `model.int8.onnx` beside `model.onnx`.

    While more accuracy is lost than may be, the layers whose quantization changes the probabilities
    most are kept in float32, an eighth of all at a time.

    Returns:
        How it was quantized, and its scores, for the description.

    Raises:
        RunError: too much accuracy is lost also with most layers in float32.
    """
    with tempfile.TemporaryDirectory() as work, _quiet():
        quantizer = _Quantizer(folder, Path(work), calibration, threads)
        float_layers: list[str] = []
        score = quantizer.score(float_layers)
        ranked: list[str] = []
        while quantizer.loss(score) > calibration.max_loss:
            ranked = ranked or quantizer.by_harm()
            count = len(float_layers) + -(-len(ranked) // _RESTORED)
            if count >= len(ranked):
                raise RunError(
                    f"int8 loses {quantizer.loss(score):.2f} points of top-1 on "
                    f"{len(calibration.held_out)} held-out images, more than "
                    f"{calibration.max_loss:g}, with {len(float_layers)} of {len(ranked)} layers "
                    "in float32: nothing was exported; allow more by --max-loss, calibrate with "
                    "more images, or export without --int8"
                )
            float_layers = ranked[:count]
            score = quantizer.score(float_layers)
        quantizer.write(float_layers, folder / ONNX_INT8)
    if float_layers:
        get_logger().info("kept in float32: %s", ", ".join(float_layers))
    get_logger().info(
        "top-1 on %d held-out images: float32 %.2f %%, int8 %.2f %%",
        len(calibration.held_out),
        quantizer.reference.top1,
        score.top1,
    )
    return {
        "method": f"onnxruntime, QDQ, weights per channel, activations {PERCENTILE} %",
        "calibration": calibration.source,
        "images": len(calibration.ranges),
        "held_out": len(calibration.held_out),
        "top1_fp32": round(quantizer.reference.top1, 2),
        "top1_int8": round(score.top1, 2),
        "max_loss": calibration.max_loss,
        "layers": len(quantizer.layers),
        "float_layers": float_layers,
    }


class _Quantizer:
    """Quantizes one network, with any of its layers in float32."""

    def __init__(self, folder: Path, work: Path, calibration: CalibrationData, threads: int):
        import onnx
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self.work, self.calibration, self.threads = work, calibration, threads
        self.prepared = work / "prepared.onnx"
        quant_pre_process(str(folder / ONNX), str(self.prepared), skip_symbolic_shape=True)
        model = onnx.load(str(self.prepared))
        self.input = model.graph.input[0].name
        self.layers = _layers(model)
        # Attention's products of activations stay in float32.
        self.others = [
            node.name
            for node in model.graph.node
            if node.op_type in _KINDS and node.name not in self.layers
        ]
        self.inputs = list(calibration.batches(calibration.held_out))
        run = load_engine(folder, "onnxruntime", "fp32", threads)
        self.logits_NK = np.concatenate([run(batch) for batch in self.inputs])
        self.reference = self._score_of(self.logits_NK)

    def loss(self, score: _Score) -> float:
        """Points of top-1 that are lost."""
        return self.reference.top1 - score.top1

    def score(self, float_layers: Sequence[str]) -> _Score:
        """The score with these layers in float32 and the others in int8."""
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            self.write(float_layers, Path(folder) / ONNX_INT8)
            run = load_engine(Path(folder), "onnxruntime", "int8", self.threads)
            return self._score_of(np.concatenate([run(batch) for batch in self.inputs]))

    def by_harm(self) -> list[str]:
        """The layers, first the one whose return to float32 brings the probabilities closest."""
        harm = {}
        for layer in self.layers:
            harm[layer] = self.score([layer]).divergence
        return sorted(self.layers, key=harm.__getitem__)

    def write(self, float_layers: Sequence[str], out: Path) -> None:
        """Write the network with these layers in float32."""
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        quantize_static(
            str(self.prepared),
            str(out),
            _Reader(self.input, self.calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_KINDS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*self.others, *float_layers],
            calibrate_method=CalibrationMethod.Percentile,
            calibration_cache_path=self.work / "ranges.json",
            extra_options={
                "CalibPercentile": PERCENTILE,
                "CalibStridedMinMax": 1,  # histograms after each batch: all activations are large
                "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
            },
        )
        _shorten(out)

    def _score_of(self, logits_NK: np.ndarray) -> _Score:
        labels_N = self.calibration.labels[list(self.calibration.held_out)]
        logs_NK, wanted_NK = _log_softmax(logits_NK), _log_softmax(self.logits_NK)
        divergence = (np.exp(wanted_NK) * (wanted_NK - logs_NK)).sum(-1).mean()
        return _Score(100 * float((logits_NK.argmax(-1) == labels_N).mean()), float(divergence))


class _Reader:
    """Batches as ONNX Runtime asks for them."""

    def __init__(self, name: str, calibration: CalibrationData):
        self._name, self._calibration = name, calibration
        self._batches: Iterator[np.ndarray] = iter(())

    def __len__(self) -> int:
        return -(-len(self._calibration.ranges) // BATCH)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Give these batches next."""
        indices = self._calibration.ranges[start_index * BATCH : end_index * BATCH]
        self._batches = self._calibration.batches(indices)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def _layers(model: Any) -> list[str]:
    """The names of the operations with a weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in _KINDS and len(node.input) > 1 and node.input[1] in weights
    ]


def _shorten(path: Path) -> None:
    """Number the names of tensors and nodes, and leave out what no engine reads: of a small network
    they are a third of the file.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    kept = {each.name for each in [*graph.input, *graph.output]} | {""}
    names: dict[str, str] = {}

    def short(name: str) -> str:
        return name if name in kept else names.setdefault(name, str(len(names)))

    for node in graph.node:
        node.name, node.doc_string = "", ""
        node.input[:] = map(short, node.input)
        node.output[:] = map(short, node.output)
    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    del graph.value_info[:]
    onnx.save(model, str(path))


def _log_softmax(logits_NK: np.ndarray) -> np.ndarray:
    shifted_NK = logits_NK.astype(np.float64) - logits_NK.max(-1, keepdims=True)
    return shifted_NK - np.log(np.exp(shifted_NK).sum(-1, keepdims=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what ONNX Runtime prints and logs while it quantizes."""
    import onnxruntime

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(_ERRORS)
    try:
        with captured_stdout():
            yield
    finally:
        root.setLevel(level)
        onnxruntime.set_default_logger_severity(_WARNINGS)
