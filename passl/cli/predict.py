"""Classify images, or predict their masks, by an exported network or by weights. An image that
cannot be read is reported on stderr and left out; the exit code is then 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from passl.cli.options import (
    FIGURES,
    add_network_options,
    add_thresholds_option,
    add_weights_option,
    as_path,
    at_least,
    load_network,
    out_problems,
    path_or_name,
)
from passl.errors import EXIT_FAILED, ConfigError
from passl.logging import printable

_SHARES = 5
"""Classes of a mask that are printed."""
_MOST_DRAWN = 64
"""Images of a drawing."""
EXAMPLES = """\
passl predict cat.jpg dog.jpg --model exported
passl predict photos --weights runs/a/best.safetensors --csv predictions.csv
passl predict cat.jpg --model convit_tiny.mindcv_in1k --top-k 3
passl predict docs/images/fashion --model fashion_cvt --draw answers.png
passl predict streets --weights runs/segmentation/best.safetensors --masks masks
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="*",
        type=_image_or_list,
        metavar="IMAGE",
        help="an image; a folder, for all images below it; or @LIST, a text file with one per line",
    )
    parser.add_argument("--list", type=path_or_name, metavar="LIST", help="the same as @LIST")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model",
        type=path_or_name,
        metavar="DIR|NAME",
        help="what `passl export` wrote, or a name of the model zoo (see `passl models`)",
    )
    add_weights_option(
        source,
        "checkpoint of a run, weight file of any kind, https address, or name of the model zoo",
        required=False,
    )
    add_network_options(parser)
    _add_engine_options(parser)
    parser.add_argument(
        "--top-k",
        type=at_least(1),
        metavar="K",
        help="predictions per image (default 5, or the labels above their threshold of a "
        "multi-label network)",
    )
    add_thresholds_option(parser, "those that were exported, or 0.5")
    parser.add_argument(
        "--batch-size",
        type=at_least(1),
        default=16,
        metavar="N",
        help="images at once (default 16)",
    )
    parser.add_argument("--csv", type=as_path, metavar="FILE", help="write a table, not to stdout")
    parser.add_argument(
        "--jsonl", type=as_path, metavar="FILE", help="write one JSON object a line, not to stdout"
    )
    parser.add_argument(
        "--draw",
        type=as_path,
        metavar="FILE",
        help=f"draw the images with their predictions, at most {_MOST_DRAWN}, as PNG or SVG",
    )
    parser.add_argument(
        "--masks",
        type=as_path,
        metavar="FOLDER",
        help="where a segmentation network writes NAME.png for each image, a palette image",
    )


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        metavar="NAME",
        help="paddle (default), paddle_plain, onnxruntime, openvino, or auto: the fastest, "
        "measured once; for --model",
    )
    parser.add_argument(
        "--precision", metavar="NAME", help="fp32 (default), bf16 or int8; for --model"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: all; for --model")


def main(args: argparse.Namespace) -> None:
    _name_weights(args)
    _check(args)

    from passl.deploy.batch import find_images, predict_files
    from passl.evaluation.tables import write_best
    from passl.logging import log_to_console

    log_to_console()
    listed = [f"@{args.list}"] if args.list else []
    files = find_images([*args.images, *listed])
    classifier = _load(args, len(files))
    if classifier.description.task == "segmentation" or args.masks:
        _predict_masks(args, classifier, files)
        return
    is_written = args.csv or args.jsonl
    rows, drawn, unreadable = [], [], 0
    for found in predict_files(classifier, files, args.top_k, args.batch_size):
        if found.error is not None:
            unreadable += 1
            print(f"error: {printable(found.error)}", file=sys.stderr)
        else:
            drawn += [found] if args.draw else []
            if not is_written:
                _show(found)
        if is_written:
            rows.append(found.to_dict())
    for path in (args.csv, args.jsonl):
        if path is not None:
            write_best(path, rows, as_table=path == args.csv)
    if drawn:
        _draw(args.draw, classifier, drawn)
    _end(unreadable, len(files))


def _draw(out: Path, classifier, found: Sequence) -> None:
    """Draw the first images with their predictions."""
    from passl.analysis.drawn_predictions import Drawn, figure_of_predictions
    from passl.deploy.inputs import open_image
    from passl.io.figures import save_figure

    opened = [open_image(each.name, classifier.description) for each in found[:_MOST_DRAWN]]
    shown = zip(found, opened, strict=False)
    drawn = [Drawn(each.name, image, each.best) for each, image in shown]
    save_figure(figure_of_predictions(drawn), out)


def _predict_masks(args: argparse.Namespace, classifier, files: Sequence[str]) -> None:
    """Write the masks of a segmentation network."""
    from passl.deploy.masks import mask_files, predict_masks

    task = classifier.description.task
    if task != "segmentation":
        raise ConfigError(f"--masks {args.masks}: this network is for {task}; leave it out")
    wrong = [
        option for option in ("top_k", "csv", "jsonl", "draw") if getattr(args, option) is not None
    ]
    if args.masks is None or wrong:
        named = [f"--{option.replace('_', '-')}: not for segmentation" for option in wrong]
        missing = ["name a folder by --masks FOLDER"] if args.masks is None else []
        raise ConfigError(f"the network is for segmentation: {'; '.join([*named, *missing])}")
    unreadable = 0
    for found in predict_masks(classifier, files, mask_files(files, args.masks)):
        if found.error is not None:
            unreadable += 1
            print(f"error: {printable(found.error)}", file=sys.stderr)
            continue
        print(printable(f"{found.name} -> {found.path}"))
        for label, share in found.shares[:_SHARES]:
            print(f"  {100 * share:6.2f} %  {label:>5}  {printable(classifier.classes[label])}")
    _end(unreadable, len(files))


def _end(unreadable: int, images: int) -> None:
    if unreadable:
        print(f"error: {unreadable} of {images} images cannot be read", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def _image_or_list(text: str) -> str:
    """Images are named as a shell's wildcards give them. The path of a list is expanded, since no
    shell expands a `~` after the @.
    """
    return f"@{path_or_name(text[1:])}" if text.startswith("@") else text


def _name_weights(args: argparse.Namespace) -> None:
    """Let --model NAME mean --weights NAME, unless there is a folder of that name."""
    from passl.porting.zoo import is_known, like

    if args.model is None or Path(args.model).exists():
        return
    if not is_known(args.model):
        raise ConfigError(
            f"--model {args.model}: there is no such exported folder (`passl export` writes one), "
            f"and no such name in the model zoo{like(args.model)}"
        )
    args.weights, args.model = args.model, None


def _check(args: argparse.Namespace) -> None:
    """Report what is wrong with the options before anything is loaded."""
    problems = []
    for option in ("config", "size") if args.model else ("engine", "precision", "threads"):
        if getattr(args, option) is not None:
            other = "--weights" if args.model else "--model DIR"
            problems.append(f"--{option} goes with {other}, not with what was given")
    files = {f"--{option}": getattr(args, option) for option in ("csv", "jsonl", "draw")}
    for option, file in files.items():
        problems += out_problems(option, file, FIGURES if option == "--draw" else ())
    named = [file.absolute() for file in files.values() if file is not None]
    if len(set(named)) < len(named):
        problems.append("--csv, --jsonl and --draw need different names")
    if problems:
        raise ConfigError(*problems)


def _load(args: argparse.Namespace, images: int):
    from passl.deploy.exported import with_thresholds
    from passl.deploy.predictor import Classifier, Predictor

    if args.model:
        engine, precision = args.engine or "paddle", args.precision or "fp32"
        options = (engine, precision, args.threads, args.allow_imports)
        found = Predictor(Path(args.model), *options, batch=min(args.batch_size, images))
        found.description = with_thresholds(found.description, args.thresholds)
        return found
    model, description = load_network(args)

    from passl.deploy.engines import as_engine

    return Classifier(as_engine(model), with_thresholds(description, args.thresholds))


def _show(found) -> None:
    print(printable(found.name))
    if not found.best:
        print("  no label is above its threshold")
    for best in found.best:
        print(f"  {100 * best.probability:6.2f} %  {best.label:>5}  {printable(best.name)}")
