"""Writes a network as a folder that runs without the code of the network."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from passl.deploy import quantize
from passl.deploy.calibration_data import CalibrationData
from passl.deploy.engines import TOLERANCE, Engine, as_engine
from passl.deploy.exported import (
    DESCRIPTION,
    GRAPH,
    ONNX,
    WEIGHTS,
    Description,
    write_description,
)
from passl.deploy.fold import fold
from passl.deploy.predictor import Predictor
from passl.errors import ConfigError, RunError
from passl.io.files import obstacles, sync, unfinished
from passl.io.stdout import captured_stdout
from passl.logging import get_logger, printable
from passl.machine import usable_processors
from passl.modeling.tf32 import tf32

BATCHES = (1, 3)
"""Sizes of the batches that are compared: one image, where a dropped axis shows, and several."""
_OPSET = 17  # the first with LayerNormalization
_PROGRESS = re.compile(r"^\[Paddle2ONNX\]|\[INFO\]\tONNX model saved in")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@tf32(False)  # in which the forms that are compared would round differently
def export(
    model: nn.Layer,
    description: Description,
    out: str | Path,
    onnx: bool = False,
    int8: CalibrationData | None = None,
) -> Path:
    """Write a network as a folder. The folded network is compared with the model before anything
    is written, and the written network is run and compared too.

    Args:
        model: a `Model`. Its mode is restored.
        description: of the model; `input` is the size that the graph is made for.
        out: the folder, which must not exist.
        onnx: whether to write ONNX as well.
        int8: the data to quantize the network with, also as ONNX; null: it is not quantized.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder exists or its parent does not, the network does not take the input
            size, or what ONNX needs is not installed.
        RunError: two forms of the network differ, one cannot be written, or int8 loses more than it
            may.
    """
    out = Path(out)
    _check_free(out)
    if int8 is not None:
        onnx = True
        quantize.check_packages()
    if onnx:
        _check_onnx()
    was_training = model.training
    model.eval()
    try:
        images = _examples(description)
        try:
            expected = [as_engine(model)(batch) for batch in images]
        except ValueError as error:  # a size that the backbone refuses
            raise ConfigError(f"input {list(description.input)}: {error}") from None
        folded = fold(model, *description.input[1:])
        _compare("the folded network", as_engine(folded), images, expected)
    finally:
        if was_training:
            model.train()
    with unfinished(out) as temporary:
        _write_graph(folded, description, temporary)
        if onnx:
            _write_onnx(temporary)
        write_description(temporary, description)
        for engine in ["paddle", "onnxruntime"] if onnx else ["paddle"]:
            written = Predictor(temporary, engine, threads=1)
            _compare(f"the written network, run by {engine},", written.run, images, expected)
        if int8 is not None:
            _write_int8(temporary, description, int8)
        _publish(temporary, out)
    return out


def _publish(temporary: Path, out: Path) -> None:
    """Give a complete folder its name, once its files are on the disk."""
    for path in temporary.iterdir():
        sync(path)
    sync(temporary)
    _check_free(out)
    os.rename(temporary, out)
    sync(out.parent)


def _write_int8(folder: Path, description: Description, int8: CalibrationData) -> None:
    """Quantize, and describe the folder anew."""
    record = quantize.quantize(folder, int8, usable_processors())
    (folder / DESCRIPTION).unlink()
    write_description(folder, replace(description, int8=record))


def _write_graph(folded: nn.Layer, description: Description, folder: Path) -> None:
    spec = paddle.static.InputSpec([-1, *description.input], "float32", "images")
    static = paddle.jit.to_static(folded, input_spec=[spec], full_graph=True, backend=None)
    paddle.jit.save(static, str(folder / Path(GRAPH).stem))


def _write_onnx(folder: Path) -> None:
    import paddle2onnx

    # Not paddle.onnx.export: that lets an optimiser install packages by itself.
    paths = (str(folder / name) for name in (GRAPH, WEIGHTS, ONNX))
    printed: list[str] = []
    try:
        with captured_stdout() as printed:
            paddle2onnx.export(*paths, opset_version=_OPSET, optimize_tool="None")
    except (Exception, SystemExit) as error:  # it leaves by sys.exit, and prints why
        reasons = [line for line in printed if not _PROGRESS.search(line)]
        why = " ".join(_COLOUR.sub("", " ".join([str(error), *reasons])).split())
        raise RunError(f"{folder / ONNX}: paddle2onnx failed: {why[-1000:]}") from None
    # Other threads may have printed too.
    sys.stdout.writelines(line for line in printed if not _PROGRESS.search(line))
    if not (folder / ONNX).is_file():
        raise RunError(f"{folder / ONNX}: paddle2onnx wrote no file")


def _check_onnx() -> None:
    needed = ("paddle2onnx", "onnxruntime")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--onnx needs {' and '.join(missing)}; install it: pip install {' '.join(missing)}"
        )


def _check_free(out: Path) -> None:
    if printable(str(out)) != str(out):
        raise ConfigError(f"{out}: the name is not UTF-8, which Paddle needs; choose another name")
    for rule in obstacles(out):
        raise ConfigError(f"{out}: {rule}")


def _examples(description: Description) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = [(batch, *description.input) for batch in BATCHES]
    return [rng.standard_normal(size, dtype=np.float32) for size in sizes]


def _compare(
    what: str,
    run: Engine,
    images: list[np.ndarray],
    expected: list[np.ndarray],
) -> None:
    for batch, logits in zip(images, expected, strict=True):
        found = run(batch)
        scale = max(float(np.abs(logits).max()), 1e-6)
        difference = float(np.abs(found - logits).max()) / scale
        if not difference <= TOLERANCE:
            raise RunError(
                f"{what} differs from the model by {difference:.1e} of the largest logit, more "
                f"than {TOLERANCE:g}, on a batch of {len(batch)}: nothing was exported"
            )
        get_logger().info("%s agrees with the model to %.1e", what, difference)
