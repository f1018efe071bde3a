"""Print what a bug report needs: versions, processor, devices and settings."""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from passl import __version__
from passl.logging import printable
from passl.machine import commit_of, cpu_features, processor, versions

EXAMPLES = """\
passl env
passl env --json
"""
_PACKAGES = (
    *("paddlepaddle", "paddlepaddle-gpu", "numpy", "pillow", "pyyaml", "pydantic", "safetensors"),
    *("visualdl", "matplotlib", "paddle2onnx", "onnx", "onnxruntime", "openvino", "scikit-learn"),
    *("optuna",),
)
_FEATURES = ("avx", "fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd")
"""The instruction sets that decide which kernels run."""
_SETTINGS = ("CUDA_VISIBLE_DEVICES", "FLAGS_", "GLOG_", "MKL_", "OMP_", "PADDLE_", "PASSL_")
"""Beginnings of the environment variables that are shown. No other ones are: they may be secret."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def main(args: argparse.Namespace) -> None:
    from passl.deploy.auto import installed, known_choices

    package = Path(__file__).resolve().parents[1]
    features = cpu_features()
    found = {
        "passl": __version__,
        "folder": str(package),
        **commit_of(package.parent),
        "system": platform.platform(),
        "versions": versions(_PACKAGES),
        "processor": processor(),
        "cpu_features": [name for name in _FEATURES if name in features],
        "paddle": _paddle(),
        "engines": installed(),
        "auto": known_choices(),
        "settings": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(_SETTINGS)
        },
    }
    if args.json:
        print(json.dumps(found, default=asdict))
        return
    for name, value in found.items():
        for each in value if name == "auto" else [value]:
            print(printable(f"{name}: {_shown(each)}"))


def _paddle() -> dict[str, Any]:
    """Build and devices of Paddle, or why it cannot be imported."""
    try:
        import paddle
    except Exception as error:  # a broken Paddle is a reason to report
        return {"error": f"{type(error).__name__}: {error}"}
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    return {
        "commit": paddle.version.commit,
        "cuda": str(paddle.version.cuda()),
        "cudnn": str(paddle.version.cudnn()),
        "device": paddle.get_device(),
        "gpus": [paddle.device.cuda.get_device_name(index) for index in range(gpus)],
    }


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)
