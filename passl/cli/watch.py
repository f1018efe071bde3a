"""Follow a training run from another shell: progress, loss, scores, time left, and whether it is
alive. Reads the files of its folder and changes nothing. Ends with the run, and by Ctrl-C.
"""

import argparse

from passl.cli.options import as_path, at_least

EXAMPLES = """\
passl watch runs/a
passl watch runs/a --once
passl watch runs/a --every 30 | tee progress.txt
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=as_path, help="the run's output_dir; it need not exist yet")
    parser.add_argument("--once", action="store_true", help="print the state once and end")
    parser.add_argument(
        "--every",
        type=at_least(0.1, float),
        default=2.0,
        metavar="SECONDS",
        help="time between two looks (default 2)",
    )


def main(args: argparse.Namespace) -> None:
    from passl.analysis.watch import watch

    watch(args.run, args.every, args.once)
