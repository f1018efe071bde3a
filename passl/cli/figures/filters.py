"""The kernels of the first convolution."""

import argparse

from passl.cli.figures.options import add_model_options, add_out_options, load_model, save

EXAMPLES = """\
passl visualize filters runs/a
passl visualize filters convit_tiny.mindcv_in1k --out filters.svg
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_out_options(parser)


def main(args: argparse.Namespace) -> None:
    model, description = load_model(args)

    from passl.analysis.filters import draw_filters, first_kernels

    kernels = first_kernels(model.backbone)
    size = " x ".join(map(str, kernels.shape[2:]))
    title = f"{len(kernels)} filters of {size} pixels ({description.weights})"
    save(args, draw_filters(kernels, title))
