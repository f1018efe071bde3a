"""Write the features of a dataset to a file. They are the output of a backbone, or of one of its
layers. The same call continues an interrupted one. The last line on stdout describes what was
written as JSON.
"""

from __future__ import annotations

import argparse
import json

from passl.cli.eval import read_evaluation
from passl.cli.options import add_config_options, add_weights_option, as_path, filled

EXAMPLES = """\
passl features my.yaml --weights convit_tiny.mindcv_in1k --split train --out train.npy
passl features my.yaml --weights w.pth --layer -1 --dtype float16 --out val.npz
passl launch features my.yaml --weights w.pth --out val.npy --nproc_per_node 4
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
    add_weights_option(parser)
    parser.add_argument(
        "--out",
        type=as_path,
        required=True,
        metavar="FILE.npy|FILE.npz",
        help="a memory map, with its labels in FILE.labels.npz; or one archive with all",
    )
    parser.add_argument(
        "--split",
        choices=("train", "val"),
        default="val",
        help="the part of the config's data (default val), with the transforms of val",
    )
    parser.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="block of ConViT or stage of CvT, from 0 or (negative) from the end; default: the "
        "output of the backbone",
    )
    parser.add_argument(
        "--dense",
        action="store_true",
        help="the feature map of the layer, not its mean over rows and columns",
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")


def main(args: argparse.Namespace) -> None:
    cfg = read_evaluation(args)

    from passl.engine.check import check_config
    from passl.evaluation.features import Options, extract

    check_config(cfg, for_training=args.split == "train")
    options = filled(Options, args)
    options.check()

    from passl.distributed import ranks as distributed
    from passl.logging import log_to_console

    log_to_console()
    with distributed.start(cfg.get("device", "auto"), cfg.get("timeouts")) as ranks:
        found = extract(cfg, args.weights, options, ranks)
    if ranks.is_first:
        print(json.dumps({"out": str(args.out), "weights": args.weights, **found}))
