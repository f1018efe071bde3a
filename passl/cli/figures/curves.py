"""Losses, score and learning rate of a training run."""

import argparse

from passl.cli.figures.options import add_out_options, check_out
from passl.cli.options import as_path
from passl.logging import printable

EXAMPLES = """\
passl visualize curves runs/a
passl visualize curves runs/a --out curves.svg
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=as_path, metavar="RUN", help="the run's output_dir")
    add_out_options(parser, "RUN/curves.png, which is drawn anew")


def main(args: argparse.Namespace) -> None:
    check_out(args)

    from passl.analysis.curves import plot_runs, read_run

    out = args.out or args.run / "curves.png"
    plot_runs([(args.run.resolve().name, read_run(args.run))], out)
    print(printable(str(out)))
