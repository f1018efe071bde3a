"""Writes an exported network as a model of NVIDIA Triton Inference Server.

Source of the format: `model_config.proto` of triton-inference-server/common, and the page on model
repositories of its manual.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from passl.deploy.exported import ONNX, read_folder
from passl.errors import ConfigError
from passl.io.files import obstacles, sync, unfinished
from passl.porting.classes import readable

CONFIG, CLASSES = "config.pbtxt", "classes.txt"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BATCH, _DELAY_US, _WAITING = 16, 2000, 256
"""Images of a batch, microseconds that the first one waits, and images that may wait: those of
`passl serve`.
"""


def model_folder(repository: Path, exported: Path) -> Path:
    """The folder of a model in a repository, which has the name of the exported folder.

    Raises:
        ConfigError: it exists, its parent cannot be written to, or the name is none for Triton.
    """
    name = Path(os.path.abspath(exported)).name
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{exported}: the name {name!r} of the folder is that of the model in Triton, and must "
            "have letters, digits, dots, dashes and underscores only; choose another name"
        )
    if repository.is_dir():  # one of several models
        rules = obstacles(repository / name)
    else:
        rules = obstacles(repository)
    for rule in rules:
        raise ConfigError(f"--triton {repository}: {name}: {rule}")
    return repository / name


def write_model(exported: Path, repository: Path) -> Path:
    """Write a model for Triton's backend `onnxruntime`, with dynamic batches.

    Args:
        exported: an exported folder with ONNX.
        repository: Triton's model repository; other models may be in it.

    Returns:
        The model's folder, which has the name of the exported one.

    Raises:
        ConfigError: it exists, or the exported folder has no ONNX.
    """
    description = read_folder(exported, (ONNX,))
    out = model_folder(repository, exported)
    repository.mkdir(exist_ok=True)
    with unfinished(out) as temporary:
        (temporary / "1").mkdir()
        shutil.copyfile(exported / ONNX, temporary / "1" / ONNX)
        lines = [" ".join(name.split()) for name in readable(description.classes)]
        (temporary / CLASSES).write_text("\n".join(lines) + "\n", encoding="utf-8")
        config = _config(out.name, exported / ONNX, description.task)
        (temporary / CONFIG).write_text(config, encoding="utf-8")
        for path in (temporary / "1" / ONNX, temporary / CLASSES, temporary / CONFIG):
            sync(path)
        sync(temporary / "1")
        sync(temporary)
        os.rename(temporary, out)
        sync(repository)
    return out


def _config(name: str, onnx: Path, task: str) -> str:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    # Triton's own list of the best classes takes a vector.
    labels = f"\n    label_filename: {json.dumps(CLASSES)}" if task != "segmentation" else ""
    return f"""\
name: {json.dumps(name)}
backend: "onnxruntime"
max_batch_size: {_BATCH}
input [
  {{
    name: {json.dumps(images.name)}
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: {list(images.shape[1:])}
  }}
]
output [
  {{
    name: {json.dumps(logits.name)}
    data_type: TYPE_FP32
    dims: {list(logits.shape[1:])}{labels}
  }}
]
dynamic_batching {{
  max_queue_delay_microseconds: {_DELAY_US}
  default_queue_policy {{ max_queue_size: {_WAITING} }}
}}
{_warmup(images.name, list(images.shape[1:]), 1)}
{_warmup(images.name, list(images.shape[1:]), _BATCH)}
"""


def _warmup(name: str, shape: list[int], batch: int) -> str:
    """A batch that Triton computes before the first request: the first of each size is slow."""
    value = f"{{ data_type: TYPE_FP32 dims: {shape} zero_data: true }}"
    inputs = f"inputs {{ key: {json.dumps(name)} value: {value} }}"
    return f'model_warmup {{ name: "batch of {batch}" batch_size: {batch} {inputs} }}'
