"""The augmented images of a config's training data."""

import argparse
from pathlib import Path

from passl.cli.figures.options import add_out_options, check_out, save
from passl.cli.options import add_config_options, at_least, read_config

EXAMPLES = """\
passl visualize augment digits/convit
passl visualize augment runs/a --images 64 --epochs 3 --out augmented.png
passl visualize augment my.yaml -o dataloader.train.dataset.transforms.0.scale=[0.2,1.0]
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
    parser.add_argument(
        "--images",
        type=at_least(1),
        default=8,
        metavar="N",
        help="images of the first epoch, from its beginning (default %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=at_least(1),
        default=7,
        metavar="N",
        help="how often each is augmented (default %(default)s)",
    )
    add_out_options(parser, "augment.png")


def main(args: argparse.Namespace) -> None:
    args.out = args.out or Path("augment.png")
    check_out(args)
    if args.config is not None and Path(args.config, "config.yaml").is_file():
        args.config = f"{args.config}/config.yaml"  # of a run
    cfg = read_config(args)

    from passl.analysis.augmented import augmented, figure_of_augmented
    from passl.data.loader import build_loader
    from passl.engine.check import check_config
    from passl.logging import log_to_console

    log_to_console()
    check_config(cfg)
    loader = build_loader(cfg.dataloader.train, cfg.get("seed", 0), even=True)
    save(args, figure_of_augmented(augmented(loader, args.images, args.epochs)))
