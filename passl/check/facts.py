"""What a machine is: versions, processor, GPUs, driver and settings. `passl env` prints them."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from passl import __version__
from passl.check.findings import Findings, Row, Setup
from passl.machine import commit_of, cpu_features, processor, versions

GPUS = "GPUs that Paddle can use"
"""The name of the row with their number."""
_PACKAGES = (
    *("paddlepaddle", "paddlepaddle-gpu", "numpy", "pillow", "pyyaml", "pydantic", "safetensors"),
    *("visualdl", "matplotlib", "paddle2onnx", "onnx", "onnxruntime", "openvino", "scikit-learn"),
    *("optuna",),
)
_FEATURES = ("avx", "fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd")
"""The instruction sets that decide which kernels run."""
_SETTINGS = (
    *("CUBLAS_", "CUDA_VISIBLE_DEVICES", "FLAGS_", "GLOG_", "MKL_", "NCCL_", "NVIDIA_TF32_"),
    *("OMP_", "PADDLE_", "PASSL_"),
)
"""Beginnings of the environment variables that are shown. No other ones are: they may be secret."""
_SECRET = "PASSL_SECRET"


def environment() -> dict[str, Any]:
    """Versions, processor, devices and settings. Nothing secret is among them."""
    from passl.deploy.auto import installed, known_choices

    package = Path(__file__).resolve().parents[1]
    features = cpu_features()
    return {
        "passl": __version__,
        "folder": str(package),
        **commit_of(package.parent),
        "system": platform.platform(),
        "versions": versions(_PACKAGES),
        "processor": processor(),
        "cpu_features": [name for name in _FEATURES if name in features],
        "paddle": _paddle(),
        "driver": driver(),
        "engines": installed(),
        "auto": known_choices(),
        "settings": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(_SETTINGS) and name != _SECRET
        },
    }


def shown(value: Any) -> str:
    """A value of `environment` as text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return (
            "; ".join(map(str, value))
            if any(" " in str(v) for v in value)
            else (" ".join(map(str, value)) or "none")
        )
    return "unknown" if value is None else str(value)


def facts(setup: Setup) -> Findings:
    """The environment as rows, and a first operation on the device."""
    import paddle

    found = environment()
    found.pop("auto")
    home = str(Path.home())  # the report is public
    rows = [Row(name, shown(value).replace(home, "~")) for name, value in found.items()]
    rows.append(Row(GPUS, gpus()))
    total = paddle.ones([1000]).sum().item()
    rows.append(Row("error of a sum of 1,000 ones on the default device", abs(total - 1000), 0))
    return Findings(rows)


def gpus() -> int:
    """Number of GPUs that Paddle can use."""
    import paddle

    return paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0


def driver() -> list[str]:
    """What NVIDIA's driver says of each GPU: name, driver version, memory, clock and power limits;
    empty without a driver.
    """
    fields = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _paddle() -> dict[str, Any]:
    """Build and devices of Paddle, or why it cannot be imported."""
    try:
        import paddle
    except Exception as error:  # a broken Paddle is a reason to report
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "commit": paddle.version.commit,
        "cuda": str(paddle.version.cuda()),
        "cudnn": str(paddle.version.cudnn()),
        "nccl": str(paddle.version.nccl()),
        "device": paddle.get_device(),
        "gpus": [_gpu(index) for index in range(gpus())],
    }


def _gpu(index: int) -> str:
    """Name, memory and compute capability. (Untested: no GPU was available.)"""
    import paddle

    known = paddle.device.cuda.get_device_properties(index)
    memory = known.total_memory / 2**20
    return f"{known.name} ({memory:,.0f} MiB, compute capability {known.major}.{known.minor})"
