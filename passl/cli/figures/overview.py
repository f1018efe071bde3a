"""A run on one page: curves, predictions, mistakes, confusion, gates and attention."""

import argparse
from pathlib import Path

from passl.cli.figures.options import add_evaluation_options, add_out_options, check_out, evaluated
from passl.errors import ConfigError

EXAMPLES = """\
passl visualize overview runs/a
passl visualize overview runs/a --out a.png --force
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_evaluation_options(parser)
    add_out_options(parser)


def main(args: argparse.Namespace) -> None:
    folder = Path(args.weights)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is no run; an overview needs the output_dir of one")
    check_out(args, (".png",))

    from passl.analysis.curves import read_run
    from passl.analysis.overview import overview
    from passl.io.files import write_atomically
    from passl.logging import printable

    metrics = read_run(folder)
    page = overview(folder.resolve().name, metrics, evaluated(args))
    write_atomically(args.out, lambda temporary: page.save(temporary, format="PNG"))
    print(printable(str(args.out)))
