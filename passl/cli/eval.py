"""Score weights on the validation data of a config. The last line on stdout is the result as
JSON.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Literal

from passl.cli.options import (
    TRANSFORMS,
    add_config_options,
    add_thresholds_option,
    add_weights_option,
    as_path,
    changes_transforms,
    filled,
    path_or_name,
    read_config,
)
from passl.errors import ConfigError

if TYPE_CHECKING:
    from passl.utils.config import Config

EXAMPLES = """\
passl eval runs/a/config.yaml --weights runs/a/best.safetensors --per-class classes.csv
passl eval convit/convit_tiny --weights convit_tiny.mindcv_in1k -o dataloader.val.dataset...
passl eval my.yaml --weights w.pth --tta flip --confusion confusion.csv
passl eval my.yaml --weights w.pth --corruptions corruptions.csv --severities 1 3 5
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
    add_weights_option(parser)
    parser.add_argument(
        "--crop",
        choices=("squash", "resize"),
        help="squash the whole image to the square; or resize the shorter side, crop the centre",
    )
    parser.add_argument(
        "--tta",
        choices=("none", "flip"),
        default="none",
        help="flip: mean probabilities of the image and its mirror image",
    )
    parser.add_argument(
        "--valid-labels",
        type=path_or_name,
        metavar="FILE|present",
        help="compare only these classes: a text file with one per line, or those that the data "
        "has samples of",
    )
    parser.add_argument(
        "--real-labels",
        type=path_or_name,
        metavar="real.json",
        help="score also by ReaL's labels of ImageNet's validation set",
    )
    parser.add_argument(
        "--per-class", type=as_path, metavar="FILE.csv", help="write the scores of each class"
    )
    parser.add_argument(
        "--confusion",
        type=as_path,
        metavar="FILE.csv",
        help="write the confusion matrix; for up to 50 classes also as FILE.png",
    )
    parser.add_argument(
        "--predictions",
        type=as_path,
        metavar="FILE.csv|FILE.jsonl",
        help="write the predictions for each image: the five best, or those of every label",
    )
    add_thresholds_option(parser)
    parser.add_argument(
        "--best-thresholds",
        type=as_path,
        metavar="FILE.csv",
        help="of a multi-label model: write the thresholds that maximise each class's F1 score",
    )
    _add_calibration_options(parser)
    _add_corruption_options(parser)


def _add_calibration_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration",
        type=as_path,
        metavar="FILE.csv|FILE.png",
        help="write confidence and accuracy in bins as FILE.csv, drawn as FILE.png",
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        metavar="fit|NUMBER",
        help="report the calibration also with logits divided by this; fit: by the number that is "
        "best on these images",
    )


def _add_corruption_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corruptions",
        type=as_path,
        metavar="FILE.csv",
        help="write the scores on images corrupted by ImageNet-C's definitions",
    )
    parser.add_argument(
        "--corruption-kinds",
        nargs="+",
        metavar="KIND",
        help="only these corruptions, by ImageNet-C's names, such as gaussian_noise",
    )
    parser.add_argument(
        "--severities",
        nargs="+",
        type=int,
        choices=range(1, 6),
        metavar="N",
        help="only these severities, from 1 to 5",
    )


def _temperature(text: str) -> float | str:
    """Type of --temperature: `fit`, or a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if text != "fit" and not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither fit nor a number above 0")
    return text if text == "fit" else number


def main(args: argparse.Namespace) -> None:
    cfg = read_evaluation(args, args.crop)

    from passl.data.build import class_names, task_of
    from passl.engine.check import check_config
    from passl.evaluation.evaluate import Options, evaluate_weights
    from passl.evaluation.scores import TASKS

    check_config(cfg, for_training=False)
    options = filled(Options, args)
    node = cfg.dataloader.val.dataset
    options.check(task_of(node), TASKS[task_of(node)])
    classes = class_names(node)
    options.files(len(classes))  # what cannot be written is reported before the work

    from passl.distributed import ranks as distributed
    from passl.logging import log_to_console

    log_to_console()
    with distributed.start(cfg.get("device", "auto"), cfg.get("timeouts")) as ranks:
        found = evaluate_weights(cfg, args.weights, options, ranks)
    if ranks.is_first:
        print(json.dumps({"weights": args.weights, "crop": args.crop, **found}))


def read_evaluation(
    args: argparse.Namespace, crop: Literal["squash", "resize"] | None = None
) -> Config:
    """The config with the transforms that the options ask for: those of -o, else those of a crop,
    else those of the zoo's weights.
    """
    from passl.evaluation.preset import transforms_of, with_crop
    from passl.porting.resolve import zoo_entry

    cfg = read_config(args)
    entry = zoo_entry(args.weights)
    is_chosen = changes_transforms(cfg)
    if entry is not None and not is_chosen:
        cfg = _with_transforms(args, transforms_of(entry.preset))
    if crop is None:
        return cfg
    if is_chosen:
        raise ConfigError(
            f"--crop {crop} and -o {TRANSFORMS} both set the transforms; leave one out"
        )
    from passl.engine.check import check_config

    check_config(cfg, for_training=False)
    return _with_transforms(args, with_crop(cfg.dataloader.val.dataset.transforms, crop))


def _with_transforms(args: argparse.Namespace, transforms: list) -> Config:
    return read_config(args, [f"{TRANSFORMS}={json.dumps(transforms)}"])
