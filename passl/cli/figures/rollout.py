"""Attention rollout: how attention mixes the patches over several blocks."""

from __future__ import annotations

import argparse

from passl.cli.figures.options import (
    add_image_options,
    add_model_options,
    add_out_options,
    load_images,
    load_model,
    save,
)
from passl.cli.options import at_least

EXAMPLES = """\
passl visualize rollout runs/a cat.jpg
passl visualize rollout runs/a cat.jpg --fusion max
passl visualize rollout cvt_13_224.paddleclas cat.jpg --stage 1
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_image_options(parser)
    parser.add_argument(
        "--fusion", choices=("mean", "max", "min"), default="mean", help="of heads (default mean)"
    )
    parser.add_argument(
        "--stage",
        type=at_least(0),
        metavar="N",
        help="of a CvT, whose stages have a rollout each, from 0 (default: the last)",
    )
    add_out_options(parser)


def main(args: argparse.Namespace) -> None:
    model, description = load_model(args)

    from passl.analysis.rollout import draw_rollout, rollout

    images = load_images(args, description)
    found = [rollout(model, image.array, args.fusion, args.stage) for image in images]
    save(args, draw_rollout(images, found, args.fusion))
