"""Compare runs: the settings that differ, scores, throughput and curves."""

from __future__ import annotations

import argparse
import shutil

from passl.cli.options import FIGURES, as_path, out_problems

EXAMPLES = """\
passl compare runs/a runs/b
passl compare runs/* --out curves.png --csv runs.csv
passl compare runs/sweep --json
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
        "--out", type=as_path, metavar="FILE", help="draw the curves of all runs in one PNG or SVG"
    )
    parser.add_argument("--csv", type=as_path, metavar="FILE", help="write the table to a file too")
    parser.add_argument(
        "--json", action="store_true", help="print the table as a line of JSON instead"
    )


def main(args: argparse.Namespace) -> None:
    from passl.analysis.compare import as_json, as_rows, as_text, read_runs
    from passl.analysis.curves import plot_runs
    from passl.errors import ConfigError
    from passl.evaluation.tables import write_csv
    from passl.io.files import to_json
    from passl.logging import get_logger, log_to_console, printable

    log_to_console()
    problems = out_problems("--out", args.out, FIGURES) + out_problems("--csv", args.csv)
    if problems:
        raise ConfigError(*problems)
    runs = read_runs(args.runs)
    if args.json:
        print(to_json(as_json(runs)))
    else:
        print(as_text(runs, shutil.get_terminal_size((120, 24)).columns))
    if args.csv is not None:
        write_csv(args.csv, *as_rows(runs))
    if args.out is not None:
        for run in runs:
            if not run.metrics.is_drawable:
                get_logger().warning(
                    "%s: has not finished an epoch, so the figure leaves it out", run.folder
                )
        plot_runs([(run.name, run.metrics) for run in runs], args.out)
        get_logger().info("curves: %s", printable(str(args.out)))
