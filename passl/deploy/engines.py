"""The engines that run an exported network: Paddle Inference, on a GPU or by oneDNN on a CPU, and
without oneDNN; ONNX Runtime and OpenVINO, on a CPU.

An engine is a function from float32 images [B, channels, height, width] to float32 logits
[B, classes]. Several threads may call it at the same time.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from passl.deploy.exported import GRAPH, ONNX, ONNX_INT8, WEIGHTS
from passl.errors import ConfigError, RunError
from passl.io.stdout import captured_stdout
from passl.machine import BFLOAT16_FEATURES, cpu_features

Engine = Callable[[np.ndarray], np.ndarray]
AUTO = "auto"
"""The name that means the fastest engine, see `passl.deploy.auto`."""
PRECISIONS = ("fp32", "bf16", "int8")
TOLERANCE = 2e-5
"""Largest difference of the logits of two forms of a network, relative to the largest logit: the
rounding of some dozen blocks in float32.
"""
_CHECK = "ReduceMeanCheckIfOneDNNSupport\n"
"""Paddle prints this for each mean of a graph when the graph first runs."""
_KEPT_SIZES = 2
"""Batch sizes that an engine keeps prepared: full batches, and the last one. Each takes as much
memory as the weights.
"""
_ANY_SIZE = -1
_GPU_POOL = 100
"""MiB that Paddle Inference reserves on a GPU at the start; it grows."""
EAGER = Lock()
"""Held while Paddle computes outside of an exported graph. Layers of all models share the graphs
that `passl.accelerate` traces, and Paddle runs each of them in one scope, in which two threads
overwrite each other's tensors.
"""


def load_engine(folder: Path, name: str, precision: str, threads: int) -> Engine:
    """Load an exported network.

    Args:
        folder: the exported folder, whose files have been checked.
        name, precision, threads: checked by `check_engine`.

    Raises:
        ConfigError: the engine is not installed.
        RunError: the engine cannot load the network.
    """
    try:
        return ENGINES[name].load(folder, precision, threads)
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # of many kinds: each engine has its own
        raise RunError(f"{folder}: {name} cannot load it: {_last_line(error)}") from error


def check_engine(
    name: str, precision: str, threads: int, cpuinfo: Path = Path("/proc/cpuinfo")
) -> None:
    """Check an engine's options before anything is loaded.

    Raises:
        ConfigError: there is no such engine or precision, or this processor does not support it.
    """
    if name not in (AUTO, *ENGINES):
        raise ConfigError(f"engine {name!r} is not one of {', '.join(ENGINES)}, {AUTO}")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if threads < 1:
        raise ConfigError(f"threads {threads} must be at least 1")
    able = [engine for engine, kind in ENGINES.items() if precision in kind.files]
    if name not in (AUTO, *able):
        raise ConfigError(
            f"precision {precision}: {name} does not compute in it on a CPU; use engine "
            f"{' or '.join(able)}"
        )
    has_bf16 = BFLOAT16_FEATURES & cpu_features(cpuinfo)
    if precision == "bf16" and not has_bf16 and device_of(name) == "cpu":
        raise ConfigError(
            "precision bf16: this processor has no bf16 instructions (avx512_bf16 or amx_bf16), "
            "it would only be slower; use fp32"
        )


def device_of(name: str) -> str:
    """The device that an engine computes on: `paddle` on Paddle's current one, which is a GPU where
    there is one, `cpu` or such as `gpu:0`; the others on the CPU.
    """
    if name != "paddle":
        return "cpu"
    import paddle

    return paddle.get_device()


def needed_files(name: str, precision: str) -> tuple[str, ...]:
    """The files of an exported folder that an engine loads."""
    return ENGINES[name].files[precision]


def one_at_a_time(engine: Engine) -> Engine:
    """Make an engine that keeps state during a call safe for threads: they wait for each other."""
    lock = Lock()

    def run(images: np.ndarray) -> np.ndarray:
        with lock:
            return engine(images)

    return run


def as_engine(layer: Any) -> Engine:
    """Return an engine that runs a Paddle layer in evaluation mode."""
    import paddle

    def run(images: np.ndarray) -> np.ndarray:
        with EAGER, paddle.no_grad():
            return layer(paddle.to_tensor(images)).numpy()

    return run


def _paddle(folder: Path, precision: str, threads: int, is_plain: bool = False) -> Engine:
    inference = _imported("paddle.inference", "paddlepaddle")
    config = inference.Config(str(folder / GRAPH), str(folder / WEIGHTS))
    config.disable_glog_info()
    device = device_of("paddle_plain" if is_plain else "paddle")
    if device.startswith("gpu"):
        _set_gpu(config, inference.PrecisionType, int(device.partition(":")[2]), precision)
    else:
        _set_cpu(config, precision, threads, is_plain)
    predictor = inference.create_predictor(config)
    (source,), (target,) = predictor.get_input_names(), predictor.get_output_names()
    images, logits = predictor.get_input_handle(source), predictor.get_output_handle(target)
    has_run = False

    def run(array: np.ndarray) -> np.ndarray:
        nonlocal has_run
        images.copy_from_cpu(array)
        if has_run:
            predictor.run()
        else:
            with captured_stdout() as printed:
                predictor.run()
            has_run = True
            sys.stdout.writelines(line for line in printed if line != _CHECK)  # of other threads
        return logits.copy_to_cpu()

    # predictor.clone() for each thread would take the memory of the weights again for each.
    return one_at_a_time(run)


def _set_gpu(config: Any, types: Any, index: int, precision: str) -> None:
    """Compute on a GPU. (Written from Paddle Inference's documentation, untested: no GPU was
    available.)
    """
    config.enable_use_gpu(
        _GPU_POOL, index, types.Bfloat16 if precision == "bf16" else types.Float32
    )


def _set_cpu(config: Any, precision: str, threads: int, is_plain: bool) -> None:
    config.disable_gpu()
    if is_plain:
        config.disable_onednn()
    else:
        config.enable_onednn()
        config.set_mkldnn_cache_capacity(_KEPT_SIZES)
    config.set_cpu_math_library_num_threads(threads)
    if precision == "bf16":
        config.enable_mkldnn_bfloat16()


def _onnxruntime(folder: Path, precision: str, threads: int) -> Engine:
    onnxruntime = _imported("onnxruntime", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        str(folder / _ONNX_FILES[precision][0]), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda array: session.run(None, {name: array})[0]


def _openvino(folder: Path, precision: str, threads: int) -> Engine:
    openvino = _imported("openvino", "openvino")
    hints = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    core = openvino.Core()
    model = core.read_model(str(folder / _ONNX_FILES[precision][0]))
    requests: dict[int, Any] = {}  # by batch size

    def request(batch: int):
        # For one batch size each: with any, CvT takes a fifth longer. Further sizes, of a server's
        # batches, share a network for any size: compiling takes longer than many batches.
        size = batch if batch in requests or len(requests) < _KEPT_SIZES else _ANY_SIZE
        if size not in requests:
            model.reshape([size, *list(model.input(0).partial_shape)[1:]])
            requests[size] = core.compile_model(model, "CPU", hints).create_infer_request()
        return requests[size]

    def run(array: np.ndarray) -> np.ndarray:
        outputs = request(len(array)).infer({0: array})
        return np.array(next(iter(outputs.values())), np.float32)

    return one_at_a_time(run)


class Kind(NamedTuple):
    """A kind of engine."""

    load: Callable[[Path, str, int], Engine]  # takes folder, precision and threads
    module: str  # that it imports
    files: Mapping[str, tuple[str, ...]]  # that it loads, for each precision


_ONNX_FILES = {"fp32": (ONNX,), "bf16": (ONNX,), "int8": (ONNX_INT8,)}
_PADDLE_FILES = dict.fromkeys(("fp32", "bf16"), (GRAPH, WEIGHTS))
ENGINES = {
    "paddle": Kind(_paddle, "paddle", _PADDLE_FILES),
    # Without oneDNN an operation starts faster and computes slower.
    "paddle_plain": Kind(
        partial(_paddle, is_plain=True), "paddle", {"fp32": _PADDLE_FILES["fp32"]}
    ),
    "onnxruntime": Kind(
        _onnxruntime, "onnxruntime", {key: _ONNX_FILES[key] for key in ("fp32", "int8")}
    ),
    "openvino": Kind(_openvino, "openvino", _ONNX_FILES),
}


def _imported(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise ConfigError(
            f"engine {module.split('.')[0]} is not installed; install it: pip install {package}"
        ) from None


def _last_line(error: Exception) -> str:
    """The last line of an engine's message that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]
