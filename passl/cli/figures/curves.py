"""Losses, score and learning rate of training runs."""

import argparse
from pathlib import Path

from passl.cli.figures.options import add_out_options, check_out
from passl.cli.options import as_path
from passl.logging import printable

EXAMPLES = """\
passl visualize curves runs/a
passl visualize curves runs/a runs/b --out curves.svg
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        type=as_path,
        nargs="+",
        metavar="RUN",
        help="the output_dir of a run, or that of a sweep for all its runs",
    )
    add_out_options(
        parser, "RUN/curves.png, which is drawn anew; curves.png for several runs, which is not"
    )


def main(args: argparse.Namespace) -> None:
    if args.out is None and len(args.runs) > 1:
        args.out = Path("curves.png")
    check_out(args)

    from passl.analysis.compare import named_runs
    from passl.analysis.curves import plot_runs, read_run

    out = args.out or args.runs[0] / "curves.png"
    plot_runs([(name, read_run(folder)) for name, folder in named_runs(args.runs)], out)
    print(printable(str(out)))
