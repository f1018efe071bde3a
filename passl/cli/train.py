"""Train and evaluate the model of a config. Results go to its output_dir."""

import argparse
from pathlib import Path

from passl.cli.options import add_config_options, path_or_name, read_config

EXAMPLES = """\
passl train digits/convit
passl train digits/convit -o output_dir=runs/a epochs=10 optimizer.lr=1e-3
passl train runs/a/config.yaml --resume auto
passl train my.yaml --dry-run
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
    parser.add_argument(
        "--resume",
        type=path_or_name,
        metavar="auto|FILE",
        help="continue from the last checkpoint of output_dir, or from the given one",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="do not train: print what was found and would be done, and draw augmented images",
    )


def main(args: argparse.Namespace) -> None:
    cfg = read_config(args)

    from passl.engine.check import check_config

    check_config(cfg)

    from passl.logging import log_to_console

    log_to_console()
    if args.dry_run:
        from passl.analysis.first_look import first_look

        folder = Path(cfg.output_dir)
        folder.mkdir(parents=True, exist_ok=True)  # a run can still start in it
        count = len(list(folder.glob("augmented*.png")))
        first_look(cfg, folder / f"augmented{f'_{count + 1}' if count else ''}.png")
        return

    from passl.engine.train import train

    train(cfg, args.resume)
