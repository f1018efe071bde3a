"""Draw what a run did: python tools/visualize.py curves RUN [--out FILE.png]"""

import argparse

from passl.cli.main import as_path
from passl.logging import printable


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw pictures of runs.")
    pictures = parser.add_subparsers(dest="picture", required=True)
    curves = pictures.add_parser(
        "curves", help="loss, accuracy and learning rate of a training run"
    )
    curves.add_argument("run", type=as_path, help="the run's output_dir")
    curves.add_argument("--out", type=as_path, help="the PNG to write (default: RUN/curves.png)")
    args = parser.parse_args()

    from passl.analysis.curves import plot_curves

    out = args.out or args.run / "curves.png"
    plot_curves(args.run, out)
    print(printable(str(out)))
