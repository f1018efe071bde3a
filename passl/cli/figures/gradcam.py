"""Grad-CAM: the places of an image that raise the score of a class."""

from __future__ import annotations

import argparse

from passl.cli.figures.options import (
    add_image_options,
    add_layer_option,
    add_model_options,
    add_out_options,
    load_images,
    load_model,
    save,
)
from passl.errors import ConfigError

EXAMPLES = """\
passl visualize gradcam runs/a cat.jpg
passl visualize gradcam runs/a --samples 0 3 --classes cat 7
passl visualize gradcam cvt_13_224.paddleclas cat.jpg --layer 0 --by-place
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_image_options(parser)
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="names or numbers of classes, one map for each (default: the predicted class)",
    )
    parser.add_argument(
        "--by-place",
        action="store_true",
        help="HiResCAM: weight each place by its own gradient, which suits early layers; Grad-CAM "
        "weights each channel by its mean gradient",
    )
    add_layer_option(
        parser,
        "default: the last one whose patches the score depends on; where the class token is "
        "classified, the input of the last attention",
    )
    add_out_options(parser)


def main(args: argparse.Namespace) -> None:
    model, description = load_model(args)

    from passl.analysis.gradcam import draw_gradcam, gradcam
    from passl.analysis.layers import find_point
    from passl.porting.classes import readable

    names = readable(description.classes)
    labels = [_label(name, names) for name in args.classes] if args.classes else [None]
    point = find_point(model.backbone, args.layer) if args.layer else None
    images = load_images(args, description)
    cams = [
        [gradcam(model, image.array, label, point, args.by_place) for label in labels]
        for image in images
    ]
    save(args, draw_gradcam(images, cams, names, args.by_place))


def _label(name: str, names: list[str]) -> int:
    """The number of a class. A name has priority over a number."""
    from passl.utils.config import closest

    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise ConfigError(
        f"there is no class {name}{closest(name, names)}; --classes takes names, or numbers from 0 "
        f"to {len(names) - 1}"
    )
