"""Write a network as a folder that Paddle Inference runs without its code. The last line on stdout
describes what was written as JSON.
"""

import argparse
import json

from passl.cli.options import (
    add_network_options,
    add_thresholds_option,
    add_weights_option,
    as_path,
    load_network,
)

EXAMPLES = """\
passl export --weights runs/a/best.safetensors exported
passl export --weights convit_tiny.mindcv_in1k exported --onnx
passl export --weights runs/a/best.safetensors exported/a --triton models
passl export -c my.yaml --weights w.pth exported
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


def main(args: argparse.Namespace) -> None:
    from passl.logging import log_to_console

    log_to_console()
    from passl.deploy.triton import model_folder, write_model

    if args.triton is not None:
        model_folder(args.triton, args.out)
    model, description = load_network(args)

    from passl.deploy.export import export
    from passl.deploy.exported import with_thresholds

    description = with_thresholds(description, args.thresholds)
    out = export(model, description, args.out, args.onnx or args.triton is not None)
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
    if triton is not None:
        summary["triton"] = str(triton)
    print(json.dumps(summary))
