"""Write a dataset into tar shards that are faster to read. Images are resized once, and training
starts without reading headers. An interrupted call is continued by the same call. The last line on
stdout is the dataset node of a config, as JSON.
"""

import argparse
import json
import sys
from pathlib import Path

from passl.cli.options import add_override_option, as_path, at_least, path_or_name, read_config
from passl.errors import EXIT_FAILED, ConfigError
from passl.machine import usable_processors

EXAMPLES = """\
passl pack data/ILSVRC2012/train packed/train
passl pack my.yaml packed/val --part val --format raw --keep-order
passl pack --verify packed/train
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        nargs="?",
        type=path_or_name,
        metavar="FOLDER|CONFIG",
        help="a folder per class, or a config and its --part",
    )
    parser.add_argument("out", nargs="?", type=as_path, metavar="OUT", help="a new folder")
    parser.add_argument("--part", choices=("train", "val"), help="of the config (default train)")
    parser.add_argument(
        "--short-side",
        type=at_least(0),
        metavar="N",
        help="resize larger images to this shorter side; 0 keeps all (default 256)",
    )
    parser.add_argument(
        "--interpolation",
        choices=("bicubic", "bilinear", "lanczos"),
        default="bicubic",
        help="filter of the resizing (default bicubic, as of Resize)",
    )
    parser.add_argument(
        "--format",
        choices=("jpeg", "png", "raw", "copy"),
        default="jpeg",
        help="jpeg; png, without loss; raw pixels; or copy, the files as they are (default jpeg)",
    )
    parser.add_argument(
        "--quality", type=at_least(1), default=90, metavar="N", help="of JPEG, to 100 (default 90)"
    )
    parser.add_argument("--exif", action="store_true", help="keep EXIF blocks")
    parser.add_argument(
        "--metadata", action="store_true", help="also write name, label and size of the originals"
    )
    parser.add_argument(
        "--keep-order",
        action="store_true",
        help="do not shuffle the samples; training then sees neighboring classes together",
    )
    parser.add_argument(
        "--samples", type=at_least(1), default=1000, metavar="N", help="in a shard (default 1000)"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out images that cannot be read"
    )
    parser.add_argument(
        "--workers",
        type=at_least(0),
        default=usable_processors(),
        metavar="N",
        help="processes; 0 writes in this one (default: one per processor)",
    )
    parser.add_argument(
        "--verify", type=as_path, metavar="OUT", help="compare a packed folder with its manifest"
    )
    add_override_option(parser)


def main(args: argparse.Namespace) -> None:
    from passl.logging import log_to_console

    log_to_console()
    if args.verify is not None:
        _verify(args)
        return
    if args.data is None or args.out is None:
        raise ConfigError("name the data, a folder or a config, and the folder to write")
    if args.quality > 100:
        raise ConfigError(f"--quality {args.quality} must be from 1 to 100")
    node = _dataset(args)

    from passl.data.build import build_dataset
    from passl.data.pack import Packing, dataset_node, pack
    from passl.io.terminal import Bar

    default = None if args.format == "copy" else 256
    packing = Packing(
        short_side=default if args.short_side is None else args.short_side or None,
        interpolation=args.interpolation,
        format=args.format,
        quality=args.quality,
        exif=args.exif,
        metadata=args.metadata,
        shuffled=not args.keep_order,
        samples=args.samples,
        skip_bad=args.skip_bad,
    )
    dataset, name = build_dataset(node), args.part or "train"
    with Bar(name, len(dataset), "images") as bar:
        manifest = pack(dataset, args.out, name, packing, args.workers, bar.update)
    size = sum(shard["bytes"] for shard in manifest["shards"])
    print(
        f"{manifest['samples']:,} images of {len(manifest['classes'])} classes in "
        f"{len(manifest['shards'])} shards, {size / 1e6:,.1f} MB"
    )
    if manifest["skipped"]:
        print(f"{len(manifest['skipped'])} images are left out; {args.out}/manifest.json has them")
    print(json.dumps(dataset_node(args.out, manifest)))


def _verify(args: argparse.Namespace) -> None:
    from passl.data.pack import verify

    if args.data is not None:
        raise ConfigError("--verify names the packed folder; leave the others out")
    problems = verify(args.verify)
    for problem in problems:
        print(problem)
    if problems:
        sys.exit(EXIT_FAILED)
    print(f"{args.verify}: all shards are as the manifest says")


def _dataset(args: argparse.Namespace) -> dict:
    """The `dataset` node of what is packed."""
    if Path(args.data).is_dir():
        if args.part or args.override:
            raise ConfigError("--part and -o go with a config, not with a folder")
        return {"name": "ImageFolder", "dataroot": args.data}

    from passl.engine.check import datasets

    args.config, part = args.data, args.part or "train"
    return dict(datasets(read_config(args), (part,))[part])
