"""Write a report on one or several runs: a self-contained HTML file."""

from __future__ import annotations

import argparse

from passl.cli.options import as_path, at_least, out_problems, path_or_name
from passl.errors import ConfigError

EXAMPLES = """\
passl report runs/a
passl report runs/a runs/b --out comparison.html
passl report runs/a --no-eval --recipe digits/convit
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        type=as_path,
        nargs="+",
        metavar="RUN",
        help="the output_dir of a run, or that of a sweep for all its runs",
    )
    parser.add_argument(
        "--out",
        type=as_path,
        metavar="FILE.html",
        help="the file to write (default: report.html in the folder of a single RUN, else in the "
        "current folder)",
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.add_argument(
        "--no-eval",
        action="store_true",
        help="do not evaluate the best checkpoints, and leave out what needs predictions: scores "
        "of classes, confusion, mistakes, attention",
    )
    parser.add_argument(
        "--mistakes",
        type=at_least(0),
        default=24,
        metavar="N",
        help="show the N most confident mistakes (default %(default)s)",
    )
    parser.add_argument(
        "--recipe",
        type=path_or_name,
        metavar="CONFIG",
        help="list the differences from this config (default: the shipped config that the run's "
        "config is or inherits from)",
    )


def main(args: argparse.Namespace) -> None:
    from passl.analysis.report import write_report
    from passl.logging import log_to_console, printable

    folder = args.runs[0] if len(args.runs) == 1 else as_path(".")
    out = args.out or folder / "report.html"
    if folder.is_dir() or args.out:  # else there is no run, which is reported below
        problems = out_problems("--out", out, (".html", ".htm"), args.force)
        if problems:
            raise ConfigError(*problems)
    log_to_console()
    write_report(args.runs, out, args.recipe, not args.no_eval, args.mistakes)
    print(printable(str(out)))
