"""Features of many images as points of a plane, in colors of their classes."""

from __future__ import annotations

import argparse

from passl.cli.figures.options import (
    add_layer_option,
    add_model_options,
    add_out_options,
    load_model,
    load_samples,
    save,
)
from passl.cli.options import at_least

EXAMPLES = """\
passl visualize embeddings runs/a
passl visualize embeddings runs/a --method tsne --split train --count 2000
passl visualize embeddings convit_tiny.mindcv_in1k -c my.yaml --layer 5
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument(
        "--split", choices=("train", "val"), default="val", help="part of the data (default val)"
    )
    parser.add_argument(
        "--count",
        type=at_least(3),
        default=1000,
        metavar="N",
        help="samples, evenly spaced over the data (default 1000)",
    )
    parser.add_argument(
        "--method",
        choices=("pca", "tsne"),
        default="pca",
        help="principal components (default), or t-SNE, which needs scikit-learn",
    )
    add_layer_option(parser, "default: the output of the backbone")
    add_out_options(parser)


def main(args: argparse.Namespace) -> None:
    model, description = load_model(args)

    from passl.analysis.embeddings import draw_embeddings, pooled_features, projected
    from passl.analysis.layers import find_point
    from passl.porting.classes import readable

    point = find_point(model.backbone, args.layer) if args.layer else None
    arrays, labels, classes = load_samples(args, description)
    points, note = projected(pooled_features(model, arrays, point), args.method)
    what = "output" if point is None else f"layer {point.name}"
    title = f"{len(arrays)} images by the {what} of {description.weights}"
    save(args, draw_embeddings(points, labels, readable(classes), title, note))
