"""Convert weights of any project to the names and layout of passl, or back. Prints what became of
every weight.
"""

import argparse
from pathlib import Path

from passl.cli.options import add_config_options, as_path, path_or_name, read_config
from passl.logging import printable

EXAMPLES = """\
passl convert convit_tiny.pth convit_tiny.safetensors
passl convert runs/a/best.safetensors small.safetensors --float16
passl convert runs/a/best.safetensors for_timm.safetensors --to timm
passl convert cvt_13.bin --check outputs.npz
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        nargs="?",
        type=path_or_name,
        metavar="IN",
        help="file, https address, or name of the model zoo",
    )
    parser.add_argument(
        "out", nargs="?", type=as_path, metavar="OUT", help=".safetensors or .pdparams to write"
    )
    parser.add_argument(
        "--float16", action="store_true", help="write half as many bytes, rounded to 11 bits"
    )
    parser.add_argument("--to", metavar="PROJECT", help="write for timm, microsoft or huggingface")
    parser.add_argument(
        "--check",
        type=as_path,
        metavar="NPZ",
        help="compare the logits of its `images` with its `logits`",
    )
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="for --check, relative to the largest logit"
    )
    add_config_options(parser, positional=False)
    parser.add_argument("--list", action="store_true", help="list the model zoo")


def main(args: argparse.Namespace) -> None:
    if args.list:
        from passl.porting.zoo import entries, table

        print(table(entries()))
        return
    if args.weights is None or (args.out is None and args.check is None):
        args.parser.error("give IN and OUT, or IN and --check, or --list")

    from passl.deploy.convert import (
        Dtype,
        check_output,
        coverage,
        describe,
        plan_conversion,
        write_converted,
        write_for,
    )
    from passl.deploy.from_weights import stored_model
    from passl.modeling.classifier import Model
    from passl.porting import locate, read_file

    dtype: Dtype = "float16" if args.float16 else "float32"
    if args.out:
        check_output(args.out, args.to, dtype)
    file = read_file(locate(args.weights))
    section = read_config(args).to_dict()["model"] if args.config else stored_model(file)
    architecture, head = {**section["architecture"], **file.numerics}, section["head"]
    plan = plan_conversion(file, architecture, head)
    print(coverage(plan))
    print(f"recognised: {describe(file, architecture)}")
    if args.check:
        model = Model({"model": {"architecture": architecture, "head": head}})
        _check(model, file, args.check, args.tolerance)
    if args.out and args.to:
        write_for(args.to, file, plan, args.out)
    elif args.out:
        write_converted(file, plan, architecture, args.out, dtype)
    if args.out:
        print(printable(f"written: {args.out}"))


def _check(model, file, images: Path, tolerance: float) -> None:
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
        raise RunError(
            f"{images}: its logits are {list(stored['logits'].shape)}, the model's "
            f"{list(logits.shape)}; they belong to another network"
        )
    error = np.abs(logits - stored["logits"]).max() / np.abs(stored["logits"]).max()
    print(f"largest difference of the logits, relative to the largest logit: {error:.2e}")
    if not error <= tolerance:
        raise RunError(
            f"{images}: the logits differ by {error:.2e}, more than {tolerance:g}; does the config "
            "belong to the file?"
        )
