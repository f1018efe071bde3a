"""Count how often the peaks of Grad-CAM and HiResCAM lie on the digit, in images of a digit among
fragments of other digits: python studies/localization/run.py

A small CvT is trained on the digits and then on such images, unless its runs are there. The exit
code is 1 if HiResCAM's peak lies on the digit in fewer than 90 % of 200 validation images.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # a checkout needs no installation

from passl.cli.dispatch import run
from passl.cli.options import as_path

CASES, LEAST = 200, 0.9
LAYER = "0.embed"
"""Of HiResCAM: before attention carries what is known of a class between places."""
OF_GRADCAM = "2.embed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--runs", type=as_path, default=ROOT / "runs" / "localization", help="folder of the runs"
    )
    parser.add_argument("--weights", type=as_path, help="of a finished run")
    args = parser.parse_args()

    from passl.logging import log_to_console

    log_to_console()
    weights = args.weights or trained(args.runs)
    found, right = {}, 0
    for by_place in (False, True):
        found[by_place], right = peaks(weights, by_place)
        name = f"HiResCAM of {LAYER}" if by_place else f"Grad-CAM of {OF_GRADCAM}"
        print(f"{name}: the peak is on the digit in {found[by_place]} of {CASES} images")
    print(f"{right} are predicted correctly")
    sys.exit(int(found[True] < LEAST * CASES))


def trained(runs: Path) -> Path:
    """Train both networks, or continue, and return the weights of the second."""
    from passl.engine.check import check_config
    from passl.engine.train import train
    from passl.utils.config import get_config
    from passl.utils.paths import escaped

    folder = escaped(str(runs))
    for name in ("digits", "cvt"):
        options = [f"output_dir={folder}/{name}"]
        if name == "cvt":
            options.append(f"model.pretrained={folder}/digits/best.safetensors")
        cfg = get_config(Path(__file__).with_name(f"{name}.yaml"), options)
        check_config(cfg)
        train(cfg, "auto")
    return runs / "cvt" / "best.safetensors"


def peaks(weights: Path, by_place: bool) -> tuple[int, int]:
    """In how many images the peak lies in the square of the digit, whatever class is predicted, and
    how many are predicted correctly.
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
    point = find_point(model.backbone, LAYER if by_place else OF_GRADCAM)
    data = cluttered_digits.ClutteredDigits(split="val", count=CASES)
    on_digit = right = 0
    for index in range(CASES):
        image, label = data[index]
        cam = gradcam(model, transformed(image, transforms), None, point, by_place)
        heat = cam.over(cluttered_digits.SIDE, cluttered_digits.SIDE)
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        top, left, side = data.draw(index)[1]
        on_digit += int(top <= row < top + side and left <= column < left + side)
        right += int(cam.label == label)
    return on_digit, right


if __name__ == "__main__":
    run(main)
