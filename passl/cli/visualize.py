"""Draw what a run did."""

import argparse

from passl.cli.options import as_path
from passl.logging import printable

EXAMPLES = """\
passl visualize curves runs/a
passl visualize curves runs/a --out curves.png
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    figures = parser.add_subparsers(dest="figure", required=True)
    curves = figures.add_parser("curves", help="losses, score and learning rate of a training run")
    curves.add_argument("run", type=as_path, help="the run's output_dir")
    curves.add_argument("--out", type=as_path, help="the PNG to write (default: RUN/curves.png)")


def main(args: argparse.Namespace) -> None:
    from passl.analysis.curves import plot_runs, read_run

    out = args.out or args.run / "curves.png"
    plot_runs([(args.run.resolve().name, read_run(args.run))], out)
    print(printable(str(out)))
