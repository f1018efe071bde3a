"""Classify features by k-NN and ridge regression. No network is trained. The last line on stdout
is the result as JSON.
"""

import argparse
import json

from passl.cli.options import as_path, filled

EXAMPLES = """\
passl probe train.npy val.npy
passl probe train.npy val.npy --k 10 20 --temperature 0.07 --ridge
passl probe train.npz val.npz --k 1 --shots 1 5 10 --seeds 0 1 2
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("train", type=as_path, metavar="TRAIN", help="features to learn from")
    parser.add_argument("val", type=as_path, metavar="VAL", help="features to classify")
    parser.add_argument(
        "--k",
        type=int,
        nargs="*",
        default=[1, 5, 20],
        metavar="K",
        help="neighbours of the k-NN probe, by cosine similarity (default 1 5 20)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="weigh neighbours by exp(similarity / T); default: each has one vote",
    )
    parser.add_argument(
        "--ridge",
        type=float,
        nargs="*",
        default=[1.0, 10.0, 100.0],
        metavar="ALPHA",
        help="regularisation of the ridge probe (default 1 10 100); no value leaves it out",
    )
    parser.add_argument(
        "--shots",
        type=int,
        nargs="*",
        default=[],
        metavar="N",
        help="learn from N random samples of each class, once for each seed",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2, 3, 4],
        metavar="SEED",
        help="of the choice of these samples (default 0 1 2 3 4)",
    )


def main(args: argparse.Namespace) -> None:
    from passl.evaluation.feature_file import read_features
    from passl.evaluation.probe import Options, probe
    from passl.logging import get_logger, log_to_console

    log_to_console()
    train, val = read_features(args.train), read_features(args.val)
    rows = probe(train, val, filled(Options, args))
    for row in rows:
        kind = f"k-NN, k {row['value']}" if row["probe"] == "knn" else f"ridge, {row['value']:g}"
        shots = f"shots {row['shots']}, " if row["shots"] else ""
        std = f" (std {row['std']:.2f})" if row["std"] is not None else ""
        get_logger().info("%s%s: top1 %.2f %%%s", shots, kind, row["top1"], std)
    summary = {"train": len(train.labels), "val": len(val.labels), "classes": len(train.classes)}
    print(json.dumps({**summary, "temperature": args.temperature, "results": rows}))
