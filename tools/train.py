"""Train a model: python tools/train.py -c configs/digits/convit.yaml [-o KEY=VALUE ...] [--resume
auto]
"""

import argparse

from _main import add_config_options, read_config, run


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train and evaluate the model of a config. Results go to its output_dir."
    )
    add_config_options(parser)
    parser.add_argument(
        "--resume",
        metavar="auto|FILE",
        help="go on from the last checkpoint of output_dir, or from a given one",
    )
    args = parser.parse_args()
    cfg = read_config(args)

    from passl.engine.check import check_config

    check_config(cfg)

    from passl.engine.train import train
    from passl.utils.logging import get_logger, log_to_console

    log_to_console()
    progress = train(cfg, args.resume)
    get_logger().info(
        "best top1 %.2f %% in epoch %d; everything is in %s",
        progress.best_top1,
        progress.best_epoch,
        cfg.output_dir,
    )


if __name__ == "__main__":
    run(main)
