"""The options by which a tool is told which weights it works with, and what they mean."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from passl.cli.main import path_or_name, read_config
from passl.errors import ConfigError
from passl.utils.config import COMMAND_LINE

if TYPE_CHECKING:
    from passl.deploy.exported import Description
    from passl.modeling.classifier import Model

_TRANSFORMS = ("dataloader", "val", "dataset", "transforms")


def add_weight_options(parser: argparse.ArgumentParser) -> None:
    """-c FILE, -o KEY=VALUE and --size, none of which is needed where the weights tell."""
    parser.add_argument(
        "-c",
        "--config",
        type=path_or_name,
        metavar="FILE",
        help="config of the network (default: what the weights tell)",
    )
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change a value of the config",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the input, where the transforms do not fix it",
    )


def load_named_weights(args: argparse.Namespace) -> tuple[Model, Description]:
    """The model that --weights, -c and -o mean, and its description.

    Weights of the model zoo bring the pictures that they are scored on, unless -o says others.
    """
    if args.override and args.config is None:
        raise ConfigError("-o changes a value of a config; name one by -c")
    cfg = None if args.config is None else read_config(args)

    from passl.deploy.source import load
    from passl.evaluation.preset import transforms_of
    from passl.porting.resolve import zoo_entry

    entry = zoo_entry(args.weights)
    told = cfg is not None and any(
        keys[:4] == _TRANSFORMS and origin == COMMAND_LINE for keys, origin in cfg.origins.items()
    )
    transforms = None if entry is None or told else transforms_of(entry.preset)
    return load(args.weights, cfg, transforms, args.size)
