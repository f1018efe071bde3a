"""Say what pictures show: python tools/predict.py cat.jpg --model EXPORTED
or --weights RUN/best.safetensors
"""

import argparse
import sys

from passl.cli.main import EXIT_FAILED_RUN, as_path, path_or_name
from passl.cli.weights import add_weight_options, load_named_weights
from passl.errors import ConfigError
from passl.logging import printable


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="The best guesses for pictures, by an exported network or by weights. A "
        "picture that cannot be read is told on stderr and left out; the exit code is then 1."
    )
    parser.add_argument(
        "images",
        nargs="*",
        type=image_or_list,
        metavar="IMAGE",
        help="a picture; a folder, for all below it; or @LIST, a text file with one a line",
    )
    parser.add_argument("--list", type=path_or_name, metavar="LIST", help="the same as @LIST")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model", type=as_path, metavar="DIR", help="what tools/export.py has made"
    )
    source.add_argument(
        "--weights",
        type=path_or_name,
        metavar="FILE",
        help="checkpoint of a run, weight file of any kind, https address, or name of the zoo",
    )
    add_weight_options(parser)
    parser.add_argument(
        "--engine", metavar="NAME", help="paddle (default), onnxruntime or openvino; for --model"
    )
    parser.add_argument("--precision", metavar="NAME", help="fp32 (default) or bf16; for --model")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all; for --model")
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="guesses (default 5)")
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="pictures at once (default 16)"
    )
    parser.add_argument("--csv", type=as_path, metavar="FILE", help="write a table, not to stdout")
    parser.add_argument(
        "--jsonl", type=as_path, metavar="FILE", help="write one JSON object a line, not to stdout"
    )
    return parser.parse_args()


def image_or_list(text: str) -> str:
    """Pictures are called as a shell's wildcards give them; the path of a list is expanded, which
    no shell does behind the @.
    """
    return f"@{path_or_name(text[1:])}" if text.startswith("@") else text


def check(args: argparse.Namespace) -> None:
    """What is wrong with the options, before anything is loaded."""
    problems = []
    if args.top_k < 1:
        problems.append(f"--top-k {args.top_k}: ask for at least 1 guess")
    for option in ("config", "size") if args.model else ("engine", "precision", "threads"):
        if getattr(args, option) is not None:
            other = "--weights" if args.model else "--model"
            problems.append(f"--{option} goes with {other}, not with what was given")
    for file in filter(None, (args.csv, args.jsonl)):
        if file.exists():
            problems.append(f"{file}: is there already, and is not written over")
        elif not file.absolute().parent.is_dir():
            problems.append(f"{file}: the folder {file.parent} does not exist; make it first")
    if args.csv and args.jsonl and args.csv.absolute() == args.jsonl.absolute():
        problems.append(f"--csv and --jsonl both name {args.csv}; choose two names")
    if problems:
        raise ConfigError(*problems)


def load(args: argparse.Namespace):
    """The classifier that the options name."""
    from passl.deploy.predictor import Classifier, Predictor

    if args.model:
        engine, precision = args.engine or "paddle", args.precision or "fp32"
        return Predictor(args.model, engine, precision, args.threads)
    model, description = load_named_weights(args)

    from passl.deploy.source import as_engine

    return Classifier(as_engine(model), description)


def show(found) -> None:
    """One picture on stdout."""
    print(printable(found.name))
    for guess in found.best:
        print(f"  {100 * guess.probability:6.2f} %  {guess.label:>5}  {printable(guess.name)}")


def write(args: argparse.Namespace, rows: list) -> None:
    """The files that were asked for."""
    from passl.evaluation.tables import write_csv
    from passl.io.files import to_json, write_text

    if args.jsonl:
        lines = (to_json(row.to_dict()) + "\n" for row in rows)
        write_text(args.jsonl, "".join(lines))
    if args.csv:
        places = range(1, max((len(row.best) for row in rows), default=0) + 1)
        head = [f"{key}_{place}" for place in places for key in ("label", "name", "probability")]
        cells = (
            [value for g in row.best for value in (g.label, g.name, f"{g.probability:.6f}")]
            for row in rows
        )
        table = [[row.name, *line] for row, line in zip(rows, cells, strict=True)]
        width = len(head) + 1  # a picture that cannot be read has empty cells
        table = [line + [""] * (width - len(line)) for line in table]
        write_csv(args.csv, ["name", *head], table)


def main() -> None:
    args = parse()
    check(args)

    from passl.deploy.batch import find_pictures, predict_files
    from passl.logging import log_to_console

    log_to_console()
    listed = [f"@{args.list}"] if args.list else []
    files = find_pictures([*args.images, *listed])
    classifier = load(args)
    rows, bad = [], 0
    for found in predict_files(classifier, files, args.top_k, args.batch_size):
        if found.error is not None:
            bad += 1
            print(f"error: {printable(found.error)}", file=sys.stderr)
        elif not (args.csv or args.jsonl):
            show(found)
        if args.csv or args.jsonl:
            rows.append(found)
    write(args, rows)
    if bad:
        print(f"error: {bad} of {len(files)} pictures cannot be read", file=sys.stderr)
        sys.exit(EXIT_FAILED_RUN)
