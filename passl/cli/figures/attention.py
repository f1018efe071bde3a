"""Attention maps of blocks and heads over images."""

from __future__ import annotations

import argparse

from passl.cli.figures.options import (
    LAYERS,
    add_image_options,
    add_model_options,
    add_out_options,
    load_images,
    load_model,
    save,
)
from passl.cli.options import at_least

EXAMPLES = """\
passl visualize attention runs/a cat.jpg
passl visualize attention runs/a cat.jpg --blocks 0 4 -1 --query 112,112
passl visualize attention cvt_13_224.paddleclas cat.jpg --size 224 448 --heads
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_image_options(parser)
    parser.add_argument(
        "--blocks",
        nargs="+",
        metavar="NAME",
        help=f"each {LAYERS} (default: the last that attends to several patches)",
    )
    parser.add_argument(
        "--heads",
        nargs="*",
        type=at_least(0),
        metavar="HEAD",
        help="heads beside their mean, counted from 0; none: the mean alone (default: all)",
    )
    parser.add_argument(
        "--query",
        type=_pixel,
        metavar="ROW,COLUMN",
        help="the patch whose attention is shown, by a pixel of the network's input (default: the "
        "class token in blocks that have one, the mean over all patches in others)",
    )
    add_out_options(parser)


def _pixel(text: str) -> tuple[int, int]:
    """Type of --query."""
    row, _, column = text.partition(",")
    if not (row.strip().isdecimal() and column.strip().isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not ROW,COLUMN, such as 112,112")
    return int(row), int(column)


def main(args: argparse.Namespace) -> None:
    model, description = load_model(args)

    from passl.analysis.attention import last_block
    from passl.analysis.attention_figure import draw_attention, image_attention
    from passl.analysis.layers import find_point, point_of_block
    from passl.evaluation.attention import attention_blocks

    images = load_images(args, description)
    if args.blocks:
        points = [find_point(model.backbone, name) for name in args.blocks]
    else:
        blocks = attention_blocks(model, *images[0].array.shape[1:])
        points = [point_of_block(model.backbone, last_block(blocks).name)]
    found = [
        image_attention(model, image.array, points, args.heads, args.query) for image in images
    ]
    save(args, draw_attention(images, found))
