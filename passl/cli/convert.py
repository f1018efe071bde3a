"""Convert weights: python tools/convert_weights.py IN OUT [--to timm|microsoft|huggingface]
[--check IMAGES.npz], or --list
"""

import argparse
from pathlib import Path

from passl.cli.main import as_path, path_or_name, read_config
from passl.logging import printable


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Convert the weights of any project to passl's names and layout, or the other "
        "way. Prints what became of every weight."
    )
    parser.add_argument(
        "weights",
        nargs="?",
        type=path_or_name,
        metavar="IN",
        help="file, https address, or zoo name",
    )
    parser.add_argument(
        "out", nargs="?", type=as_path, metavar="OUT", help=".safetensors or .pdparams to write"
    )
    parser.add_argument("--to", metavar="PROJECT", help="write for timm, microsoft or huggingface")
    parser.add_argument(
        "--check",
        type=as_path,
        metavar="NPZ",
        help="compare logits of its `images` with its `logits`",
    )
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="for --check, relative to the largest logit"
    )
    parser.add_argument(
        "-c",
        "--config",
        type=path_or_name,
        metavar="FILE",
        help="config of the network (default: what the weights tell)",
    )
    parser.add_argument(
        "-o", "--override", action="append", nargs="+", default=[], metavar="KEY=VALUE"
    )
    parser.add_argument("--list", action="store_true", help="list the model zoo")
    args = parser.parse_args()
    if args.list:
        from passl.porting.zoo import table

        print(table())
        return
    if args.weights is None or (args.out is None and args.check is None):
        parser.error("give IN and OUT, or IN and --check, or --list")

    from passl.deploy.convert import (
        coverage,
        describe,
        plan_conversion,
        write_converted,
        write_for,
    )
    from passl.modeling.classifier import Model
    from passl.porting import architecture_of, locate, read_file

    file = read_file(locate(args.weights))
    if args.config:
        section = read_config(args).to_dict()["model"]
        architecture, head = {**section["architecture"], **file.numerics}, section["head"]
    else:
        architecture, head = architecture_of(file)
    plan = plan_conversion(file, architecture, head)
    print(coverage(plan))
    print(f"recognised: {describe(file, architecture)}")
    if args.check:
        check(
            Model({"model": {"architecture": architecture, "head": head}}),
            file,
            args.check,
            args.tolerance,
        )
    if args.out and args.to:
        write_for(args.to, file, plan, args.out)
    elif args.out:
        write_converted(file, plan, architecture, args.out)
    if args.out:
        print(printable(f"written: {args.out}"))


def check(model, file, images: Path, tolerance: float) -> None:
    """Compare the model's logits with stored ones."""
    import numpy as np
    import paddle

    from passl.errors import RunError
    from passl.porting import load_weights

    load_weights(model, file)
    model.eval()
    stored = np.load(images)
    missing = {"images", "logits"} - set(stored.files)
    if missing:
        raise RunError(f"{images}: has no {' and no '.join(sorted(missing))}")
    with paddle.no_grad():
        logits = model(paddle.to_tensor(stored["images"])).numpy()
    if logits.shape != stored["logits"].shape:
        shapes = f"{list(stored['logits'].shape)}, the model's {list(logits.shape)}"
        raise RunError(f"{images}: its logits are {shapes}; these are another network's")
    error = np.abs(logits - stored["logits"]).max() / np.abs(stored["logits"]).max()
    print(f"largest difference of the logits, relative to the largest: {error:.2e}")
    if not error <= tolerance:
        raise RunError(
            f"{images}: the logits differ by {error:.2e}, more than {tolerance:g}; is the config "
            "the file's?"
        )
