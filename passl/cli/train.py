"""Train a model: python tools/train.py -c configs/digits/convit.yaml [-o KEY=VALUE ...] [--resume
auto]
"""

import argparse
from pathlib import Path

from passl.cli.main import add_config_options, path_or_name, read_config


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train and evaluate the model of a config. Results go to its output_dir."
    )
    add_config_options(parser)
    parser.add_argument(
        "--resume",
        type=path_or_name,
        metavar="auto|FILE",
        help="go on from the last checkpoint of output_dir, or from a given one",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="train nothing: say what was found and would be done, and draw augmented pictures",
    )
    args = parser.parse_args()
    cfg = read_config(args)

    from passl.engine.check import check_config

    check_config(cfg)

    from passl.logging import log_to_console

    log_to_console()
    if args.dry_run:
        from passl.analysis.first_look import first_look

        folder = Path(cfg.output_dir)
        folder.mkdir(parents=True, exist_ok=True)  # a run may still begin in it
        taken = len(list(folder.glob("augmented*.png")))
        first_look(cfg, folder / f"augmented{f'_{taken + 1}' if taken else ''}.png")
        return

    from passl.engine.train import train

    train(cfg, args.resume)
