"""Export a network: python tools/export.py --weights RUN/best.safetensors OUT"""

import argparse
import json
from dataclasses import asdict

from passl.cli.main import as_path, path_or_name
from passl.cli.weights import add_weight_options, load_named_weights


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write a network as a folder that Paddle Inference runs without its code. The "
        "last line on stdout is what was written as JSON."
    )
    add_weight_options(parser)
    parser.add_argument(
        "--weights",
        type=path_or_name,
        required=True,
        metavar="FILE",
        help="checkpoint of a run, weight file of any kind, https address, or name of the model "
        "zoo, whose pictures are then exported too",
    )
    parser.add_argument(
        "out", type=as_path, metavar="OUT", help="folder to write; not written over"
    )
    parser.add_argument("--onnx", action="store_true", help="write ONNX as well")
    args = parser.parse_args()

    from passl.logging import log_to_console

    log_to_console()
    model, description = load_named_weights(args)

    from passl.deploy.export import export

    out = export(model, description, args.out, args.onnx)
    told = asdict(description)
    shown = {key: told[key] for key in ("weights", "input", "parameters", "numerics")}
    files = sorted(path.name for path in out.iterdir())
    print(json.dumps({"out": str(out), "files": files, "classes": len(told["classes"]), **shown}))
