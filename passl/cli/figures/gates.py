"""The gate of each attention head over the epochs of a run, or another measure of attention."""

import argparse
from pathlib import Path

from passl.cli.figures.options import (
    add_model_options,
    add_out_options,
    load_model,
    name_model,
    save,
)

EXAMPLES = """\
passl visualize gates runs/a
passl visualize gates runs/a --measure nonlocality --out nonlocality.svg
passl visualize gates convit_tiny.mindcv_in1k
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument(
        "--measure",
        default="gate",
        metavar="NAME",
        help="another measure of docs/training.md, such as nonlocality, distance, width or entropy "
        "(default: gate). Over epochs, it must be in the run's metrics.jsonl "
        "(log_config.attention); otherwise those that the weights alone give are drawn for each "
        "block",
    )
    add_out_options(parser)


def main(args: argparse.Namespace) -> None:
    from passl.analysis.gates import (
        attention_rows,
        draw_now,
        draw_over_epochs,
        over_epochs,
        values_now,
    )

    folder = Path(args.weights)
    rows = attention_rows(folder) if "://" not in args.weights and folder.is_dir() else []
    if rows:
        name_model(args)
        measured = over_epochs(rows, args.measure)
        save(args, draw_over_epochs(measured, args.measure, args.title))
        return
    model, description = load_model(args)
    values = values_now(model, args.measure, *description.input[1:])
    save(args, draw_now(values, args.measure, args.title))
