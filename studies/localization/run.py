"""Count how often the peak of Grad-CAM lies on the digit, in images of a digit among fragments of
other digits: python studies/localization/run.py

A small CvT and a small ConViT are trained on the digits and then on such images, unless their runs
are there; the clutter of the counted images is that of Jaderberg et al. (arXiv 1506.02025), that of
the training images is denser. Layers were chosen on other images than those that are counted. The
exit code is 1 if a peak lies on the digit in fewer than 90 % of 200 images.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # a checkout needs no installation

from passl.cli.dispatch import run
from passl.cli.options import as_path

CASES, LEAST = 200, 0.9
FRAGMENTS, SIDE = 16, 6
METHODS = {"cvt": ("Grad-CAM", "2.0.norm1"), "convit": ("HiResCAM", "-1.norm1")}
"""Of each network the method and its layer. ConViT's last attention alone tells places apart, so
the mean gradient of Grad-CAM does not know them.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--runs", type=as_path, default=ROOT / "runs" / "localization", help="folder of the runs"
    )
    parser.add_argument(
        "--networks", nargs="+", choices=METHODS, default=list(METHODS), help="default: both"
    )
    parser.add_argument(
        "--first", type=int, default=0, help="the first image; another one to choose a layer"
    )
    args = parser.parse_args()

    from passl.logging import log_to_console

    log_to_console()
    worst = min(counted(args.runs, name, args.first) for name in args.networks)
    sys.exit(int(worst < LEAST * CASES))


def counted(runs: Path, network: str, first: int) -> int:
    """Train a network, or continue, and print and return how many peaks lie on the digit."""
    on_digit, empty, right = peaks(trained(runs, network), network, first)
    method, layer = METHODS[network]
    print(
        f"{network}, {method} of {layer}: the peak is on the digit in {on_digit} of {CASES} images "
        f"({empty} maps have no place above 0); {right} are predicted correctly",
        flush=True,
    )
    return on_digit


def trained(runs: Path, network: str) -> Path:
    """Train on the digits and then in clutter, or continue, and return the weights."""
    from passl.engine.check import check_config
    from passl.engine.train import train
    from passl.utils.config import get_config
    from passl.utils.paths import escaped

    folder = escaped(str(runs))
    for name in (f"{network}_digits", network):
        options = [f"output_dir={folder}/{name}"]
        if name == network:
            options.append(f"model.pretrained={folder}/{network}_digits/best.safetensors")
        cfg = get_config(Path(__file__).with_name(f"{name}.yaml"), options)
        check_config(cfg)
        train(cfg, "auto")
    return runs / network / "best.safetensors"


def peaks(weights: Path, network: str, first: int) -> tuple[int, int, int]:
    """In how many images the place with the largest sum lies in the square of the digit, whatever
    class is predicted; in how many no sum is above 0; and how many are predicted correctly.
    """
    import cluttered_digits
    import numpy as np

    from passl.analysis.gradcam import gradcam
    from passl.analysis.layers import find_point
    from passl.data.build import build_transforms
    from passl.data.transforms.evaluation import transformed
    from passl.deploy.from_weights import load

    model, description = load(weights)
    transforms = build_transforms(description.transforms)
    method, layer = METHODS[network]
    point = find_point(model.backbone, layer)
    data = cluttered_digits.ClutteredDigits(
        split="val", count=first + CASES, fragments=FRAGMENTS, side=SIDE
    )
    on_digit = empty = right = 0
    for index in range(first, first + CASES):
        image, label = data[index]
        found = gradcam(model, transformed(image, transforms), None, point, method == "HiResCAM")
        cell = np.unravel_index(found.sums_YX.argmax(), found.sums_YX.shape)
        lattice = point.lattice_of(len(found.sums_YX), cluttered_digits.SIDE)
        row, column = lattice.center(int(cell[0]), int(cell[1]))
        top, left, side = data.draw(index)[1]
        on_digit += int(top <= row < top + side and left <= column < left + side)
        empty += int(found.sums_YX.max() <= 0)
        right += int(found.label == label)
    return on_digit, empty, right


if __name__ == "__main__":
    run(main)
