"""The confusion matrix on the validation data; for many classes those that are confused most
often.
"""

import argparse

from passl.cli.figures.options import add_evaluation_options, add_out_options, evaluated, save
from passl.cli.options import at_least
from passl.errors import ConfigError

EXAMPLES = """\
passl visualize confusion runs/a
passl visualize confusion runs/a --pairs 10 --out pairs.svg
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_evaluation_options(parser)
    parser.add_argument(
        "--pairs",
        type=at_least(1),
        metavar="N",
        help="draw the N pairs of classes that are confused most often, instead of the matrix "
        "(default: 30 pairs for more than 50 classes)",
    )
    add_out_options(parser)


def main(args: argparse.Namespace) -> None:
    found = evaluated(args)
    if found.confusion is None:
        raise ConfigError(
            "the classes of multi-label data do not exclude each other, so there is no confusion "
            "matrix; `passl eval --per-class` writes the scores of each class, and `passl "
            "visualize errors` draws mistakes"
        )

    from passl.evaluation.confusion import figure_of_confusion

    unit = "pixels" if found.task == "segmentation" else "images"
    save(args, figure_of_confusion(found.confusion, found.classes, unit, args.pairs))
