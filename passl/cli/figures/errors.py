"""The most confident mistakes on the validation data: image, label, prediction, probability."""

import argparse

from passl.cli.figures.options import add_evaluation_options, add_out_options, evaluated, save
from passl.cli.options import at_least
from passl.errors import RunError

EXAMPLES = """\
passl visualize errors runs/a
passl visualize errors runs/a --images 64 --out errors.png
passl visualize errors convit_tiny.mindcv_in1k -c convit/convit_tiny
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_evaluation_options(parser)
    parser.add_argument(
        "--images",
        type=at_least(1),
        default=16,
        metavar="N",
        help="how many mistakes are drawn, at most (default %(default)s)",
    )
    add_out_options(parser)


def main(args: argparse.Namespace) -> None:
    found = evaluated(args)

    from passl.analysis.mistakes import figure_of_mistakes, worst_mistakes

    mistakes = worst_mistakes(found, args.images)
    if not mistakes.shown:
        raise RunError(
            f"every prediction for the {mistakes.samples} validation images is right: there is no "
            "mistake to draw"
        )
    save(args, figure_of_mistakes(mistakes))
