"""The features of a layer as colors, by principal components."""

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

EXAMPLES = """\
passl visualize features runs/a
passl visualize features runs/a cat.jpg dog.jpg --layer 3 --out features.png
passl visualize features cvt_13_224.paddleclas photos --layer 1
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_image_options(parser)
    add_layer_option(parser, "default: the last")
    add_out_options(parser)


def main(args: argparse.Namespace) -> None:
    model, description = load_model(args)

    from passl.analysis.features import draw_features, feature_maps, principal_colors
    from passl.analysis.layers import find_point

    point = find_point(model.backbone, args.layer or "-1")
    images = load_images(args, description)
    maps = feature_maps(model.backbone, point, [image.array for image in images])
    save(args, draw_features(images, *principal_colors(maps), point))
