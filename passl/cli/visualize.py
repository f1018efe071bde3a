"""Draw what a network has learned and how a run went. Each figure has its own options and help."""

import argparse
import importlib
from typing import Any

from passl.cli.options import about

FIGURES = (
    *("overview", "curves", "errors", "confusion", "augment", "gates", "positions"),
    *("attention", "rollout", "gradcam", "features", "embeddings", "filters"),
)
"""Modules of `passl.cli.figures`. Each has a docstring, `EXAMPLES`, `add_options(parser)` and
`main(args)`, like a command.
"""
EXAMPLES = """\
passl visualize curves runs/a
passl visualize features runs/a cat.jpg dog.jpg --out features.png
passl visualize FIGURE --help
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    figures = parser.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    for name in FIGURES:
        module = _module(name)
        figure = figures.add_parser(name, **about(module, as_part=True))
        module.add_options(figure)
        figure.set_defaults(parser=figure)  # for usage in messages


def main(args: argparse.Namespace) -> None:
    _module(args.figure).main(args)


def _module(name: str) -> Any:
    return importlib.import_module(f"passl.cli.figures.{name}")
