"""Evaluate weights: python tools/eval.py -c configs/digits/convit.yaml --weights
RUN/best.safetensors
"""

import argparse
import json

from passl.cli.main import add_config_options, as_path, path_or_name, read_config
from passl.errors import ConfigError
from passl.utils.config import COMMAND_LINE, Config, dotted

TRANSFORMS = ("dataloader", "val", "dataset", "transforms")


def preset_of(args: argparse.Namespace) -> list[str]:
    """For weights of the model zoo, the pictures that belong to them, unless told otherwise."""
    from passl.evaluation.preset import transforms_of
    from passl.porting.resolve import zoo_entry

    entry = zoo_entry(args.weights)
    return [] if entry is None or told(args) else [override_of(transforms_of(entry.preset))]


def told(args: argparse.Namespace) -> bool:
    """Whether -o says something of the pictures."""
    origins = read_config(args).origins.items()
    return any(keys[:4] == TRANSFORMS and origin == COMMAND_LINE for keys, origin in origins)


def override_of(transforms: list) -> str:
    return f"{dotted(TRANSFORMS)}={json.dumps(transforms)}"


def read_evaluation(args: argparse.Namespace) -> Config:
    """The config with the pictures that the options ask for."""
    cfg = read_config(args, preset_of(args))
    if args.crop is None:
        return cfg
    if told(args):
        raise ConfigError(
            f"--crop {args.crop} and -o {dotted(TRANSFORMS)} both say what the pictures are; leave "
            "one out"
        )
    from passl.engine.check import check_config
    from passl.evaluation.preset import with_crop

    check_config(cfg, for_training=False)
    transforms = with_crop(cfg.dataloader.val.dataset.transforms, args.crop)
    return read_config(args, [override_of(transforms)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(
            "Score weights on the validation data of a config. The last line on stdout is "
            "the result as JSON."
        )
    )
    add_config_options(parser)
    parser.add_argument(
        "--weights",
        type=path_or_name,
        required=True,
        metavar="FILE",
        help=(
            "weight file of any kind, https address, or name of the model zoo, whose pictures are "
            "then used too"
        ),
    )
    parser.add_argument(
        "--crop",
        choices=("squash", "resize"),
        help="squash the whole picture to the square; or resize the shorter side, crop the centre",
    )
    parser.add_argument(
        "--tta",
        choices=("none", "flip"),
        default="none",
        help="flip: mean softmax of the picture and its mirror image",
    )
    parser.add_argument(
        "--valid-labels",
        type=path_or_name,
        metavar="FILE|present",
        help=(
            "compare only these classes: a text file with one a line, or those that the data has "
            "pictures of"
        ),
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
        help="write how often which class is taken for which; up to 50 classes also as FILE.png",
    )
    parser.add_argument(
        "--predictions",
        type=as_path,
        metavar="FILE.csv|FILE.jsonl",
        help="write the five best guesses for each picture",
    )
    args = parser.parse_args()
    cfg = read_evaluation(args)

    from passl.engine.check import check_config
    from passl.evaluation.evaluate import Options, evaluate_weights

    check_config(cfg, for_training=False)
    options = Options(
        tta=args.tta,
        valid_labels=args.valid_labels,
        real_labels=args.real_labels,
        per_class=args.per_class,
        confusion=args.confusion,
        predictions=args.predictions,
    )
    options.files(cfg.model.head.num_classes)  # what cannot be written is said before the work

    from passl.distributed import ranks as distributed
    from passl.logging import log_to_console

    log_to_console()
    with distributed.start(cfg.get("device", "auto"), cfg.get("timeouts")) as ranks:
        found = evaluate_weights(cfg, args.weights, options, ranks)
    if ranks.is_first:
        print(json.dumps({"weights": args.weights, "crop": args.crop, **found}))
