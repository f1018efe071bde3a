"""Write a network as a folder that Paddle Inference runs without its code. The last line on stdout
describes what was written as JSON.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from passl.cli.options import (
    add_network_options,
    add_thresholds_option,
    add_weights_option,
    as_path,
    at_least,
    load_network,
    read_config,
)
from passl.errors import ConfigError

if TYPE_CHECKING:
    from passl.deploy.calibration_data import CalibrationData
    from passl.deploy.exported import Description

EXAMPLES = """\
passl export --weights runs/a/best.safetensors exported
passl export --weights convit_tiny.mindcv_in1k exported --onnx
passl export --weights runs/a/best.safetensors exported/a --triton models
passl export -c my.yaml --weights w.pth exported
passl export --weights runs/a/best.safetensors small --int8 --calibrate data/train
passl export --weights runs/multilabel/best.safetensors exported --thresholds thresholds.csv
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_network_options(parser)
    add_weights_option(
        parser,
        "checkpoint of a run, weight file of any kind, https address, or name of the model zoo, "
        "whose transforms are then exported too",
    )
    parser.add_argument(
        "out", type=as_path, metavar="OUT", help="folder to write; it must not exist"
    )
    add_thresholds_option(parser)
    parser.add_argument("--onnx", action="store_true", help="write ONNX as well")
    parser.add_argument(
        "--triton",
        type=as_path,
        metavar="DIR",
        help="write ONNX, and a model named as OUT into this model repository of NVIDIA Triton",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="write ONNX and a quantized network as well, a quarter of the size; with --calibrate",
    )
    parser.add_argument(
        "--calibrate",
        type=as_path,
        metavar="DATA",
        help="images to quantize with: the folder of the training data (its dataroot), or one with "
        "a folder per class",
    )
    parser.add_argument(
        "--max-loss",
        type=at_least(0, float),
        metavar="POINTS",
        help="of top-1 accuracy that int8 may lose on a part of these images (default 0.5); a "
        "network that loses more is not exported",
    )


def main(args: argparse.Namespace) -> None:
    from passl.logging import log_to_console

    if args.int8 != (args.calibrate is not None) or (args.max_loss is not None and not args.int8):
        raise ConfigError("--int8, --calibrate DATA and --max-loss go together")
    log_to_console()
    from passl.deploy.triton import model_folder, write_model

    if args.triton is not None:
        model_folder(args.triton, args.out)
    model, description = load_network(args)

    from passl.deploy.export import export
    from passl.deploy.exported import read_folder, with_thresholds

    description = with_thresholds(description, args.thresholds)
    onnx = args.onnx or args.triton is not None
    out = export(model, description, args.out, onnx, _calibration(args, description))
    triton = None if args.triton is None else write_model(out, args.triton)
    summary = {
        "out": str(out),
        "files": sorted(path.name for path in out.iterdir()),
        "classes": len(description.classes),
        "weights": description.weights,
        "input": list(description.input),
        "parameters": description.parameters,
        "numerics": dict(description.numerics),
    }
    if args.int8:
        summary["int8"] = read_folder(out, (), args.allow_imports).int8
    if triton is not None:
        summary["triton"] = str(triton)
    print(json.dumps(summary))


def _calibration(args: argparse.Namespace, description: Description) -> CalibrationData | None:
    """The data of --calibrate; null without --int8."""
    if not args.int8:
        return None
    from passl.deploy.calibration_data import MAX_LOSS, read_calibration
    from passl.deploy.quantize import check_packages

    check_packages()
    cfg = None if args.config is None else read_config(args)
    max_loss = MAX_LOSS if args.max_loss is None else args.max_loss
    options = (args.calibrate, description, max_loss, args.allow_imports)
    return read_calibration(args.weights, cfg, *options)
