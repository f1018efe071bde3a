"""The positional attention of each head of a ConViT, initial and learned."""

import argparse

from passl.cli.figures.options import (
    add_model_options,
    add_out_options,
    config_of,
    load_model,
    save,
)

EXAMPLES = """\
passl visualize positions runs/a
passl visualize positions convit_tiny.mindcv_in1k --out positions.svg
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_out_options(parser)


def main(args: argparse.Namespace) -> None:
    model, description = load_model(args)

    import paddle

    from passl.analysis.positions import center_positions, draw_positions
    from passl.modeling.backbones import build_backbone

    size = description.input[1:]
    learned = center_positions(model, *size)
    paddle.seed(config_of(args).get("seed", 0))  # as a run starts
    initial = center_positions(build_backbone(description.model["architecture"]), *size)
    save(args, draw_positions(initial, learned, args.title))
