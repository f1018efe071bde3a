"""Train and evaluate the model of a config. Results go to its output_dir."""

import argparse
import json
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from passl.cli.options import add_config_options, at_least, path_or_name, port, read_config
from passl.errors import ConfigError

if TYPE_CHECKING:
    from passl.utils.config import Config

EXAMPLES = """\
passl train digits/convit
passl train digits/convit -o output_dir=runs/a epochs=10 optimizer.lr=1e-3
passl train runs/a/config.yaml --resume auto
passl train my.yaml --dry-run
passl train my.yaml --profile 20
passl train my.yaml --benchmark 50
passl launch train my.yaml --benchmark 50 --json --nproc_per_node 2
passl train my.yaml --metrics-port 9400
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
        "--metrics-port",
        type=port,
        metavar="PORT",
        help="serve loss, learning rate, speed and scores of the run to Prometheus at this port; 0 "
        "for any",
    )
    parser.add_argument(
        "--metrics-host",
        metavar="ADDRESS",
        help="where --metrics-port listens (default: 127.0.0.1, for this machine only)",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--dry-run",
        action="store_true",
        help="do not train: print what was found and would be done, and draw augmented images",
    )
    instead.add_argument(
        "--profile",
        type=at_least(1),
        metavar="N",
        help="do not train: record N steps, print their time by phase, operator and layer, and "
        "write a trace for Chrome",
    )
    instead.add_argument(
        "--benchmark",
        type=at_least(1),
        metavar="N",
        help="do not train: time N steps after some to warm up, and print throughput, parts of a "
        "step and memory of each rank; nothing is written",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result of --benchmark as a line of JSON"
    )


def main(args: argparse.Namespace) -> None:
    _check_options(args)
    cfg = read_config(args)

    from passl.engine.check import check_config

    check_config(cfg)

    from passl.logging import log_to_console

    log_to_console()
    if args.dry_run:
        from passl.analysis.first_look import first_look

        first_look(cfg, _unused(cfg, "augmented", ".png"))
        return
    if args.profile is not None:
        from passl.analysis.profile import profile

        for line in profile(cfg, args.profile, _unused(cfg, "profile", ".json")):
            print(line)
        return
    if args.benchmark is not None:
        from passl.analysis.benchmark import benchmark

        speed = benchmark(cfg, args.benchmark)
        if speed is not None:
            lines = [json.dumps(speed.to_dict())] if args.json else speed.lines()
            print("\n".join(lines))
        return

    from passl.engine.train import train

    host = args.metrics_host or "127.0.0.1"
    train(cfg, args.resume, None if args.metrics_port is None else (host, args.metrics_port))


def _check_options(args: argparse.Namespace) -> None:
    if args.metrics_host is not None and args.metrics_port is None:
        raise ConfigError(f"--metrics-host {args.metrics_host} needs --metrics-port")
    is_run = not args.dry_run and args.profile is None and args.benchmark is None
    if args.metrics_port is not None and not is_run:
        raise ConfigError(
            "--metrics-port is for training, not for --dry-run, --profile or --benchmark"
        )
    for name in ("profile", "benchmark"):
        if getattr(args, name) is not None and args.resume is not None:
            raise ConfigError(f"--{name} starts with the weights of the config, without --resume")
    if args.json and args.benchmark is None:
        raise ConfigError("--json is for --benchmark; a run writes its numbers to metrics.jsonl")


def _unused(cfg: "Config", stem: str, suffix: str) -> Path:
    """The path of a new file in the output folder, where a run can still start."""
    folder = Path(cfg.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    names = (f"{stem}{f'_{number}' if number > 1 else ''}{suffix}" for number in count(1))
    return next(folder / name for name in names if not (folder / name).exists())
