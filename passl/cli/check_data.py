"""Read all of the data, and say what is wrong with it: python tools/check_data.py -c CONFIG, or
python tools/check_data.py data/pets/train data/pets/val
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from passl.cli.main import EXIT_FAILED_RUN, add_config_options, as_path, read_config
from passl.errors import ConfigError

PARTS = ("train", "val")


def parse() -> argparse.Namespace:
    from passl.machine import usable

    parser = argparse.ArgumentParser(
        description="Read every image of a config's training and validation data, or of folders. "
        "Unreadable files, sizes, modes, samples of each class, and images that are there twice "
        "are told on stdout. The exit code is 1 if a file cannot be read or an image is in both "
        "parts, else 0."
    )
    parser.add_argument(
        "folders",
        nargs="*",
        type=as_path,
        metavar="FOLDER",
        help="instead of -c: training data with a folder for each class, then validation data",
    )
    add_config_options(parser, required=False)
    parser.add_argument("--part", choices=PARTS, help="only this part of the config (default both)")
    parser.add_argument(
        "--workers",
        type=int,
        default=usable(),
        metavar="N",
        help="processes that read; 0 reads in this one (default: one for each processor)",
    )
    parser.add_argument(
        "--json", type=as_path, metavar="FILE", help="write everything that was found"
    )
    return parser.parse_args()


def datasets_of(args: argparse.Namespace) -> dict[str, Mapping]:
    """The `dataset` node of each part, and what is wrong with the options."""
    problems = []
    if (args.config is None) == (not args.folders):
        problems.append("name a config by -c, or one or two folders")
    if len(args.folders) > len(PARTS):
        problems.append(f"{len(args.folders)} folders: name one of training, one of validation")
    if args.folders and (args.part or args.override):
        problems.append("--part and -o go with -c, not with folders")
    if args.workers < 0:
        problems.append(f"--workers {args.workers} must be at least 0")
    if args.json is not None and args.json.exists():
        problems.append(f"--json {args.json}: is there already, and is not written over")
    elif args.json is not None and not args.json.absolute().parent.is_dir():
        problems.append(f"--json {args.json}: the folder does not exist; make it first")
    if problems:
        raise ConfigError(*problems)
    if args.folders:
        pairs = zip(PARTS, args.folders, strict=False)
        return {part: {"name": "ImageFolder", "dataroot": str(path)} for part, path in pairs}

    from passl.engine.check import datasets

    return datasets(read_config(args), PARTS if args.part is None else (args.part,))


def main() -> None:
    args = parse()
    nodes = datasets_of(args)

    from tqdm import tqdm

    from passl.analysis.data_report import is_clean, lines, report
    from passl.analysis.survey import survey
    from passl.data.build import build_dataset
    from passl.io.files import to_json, write_text
    from passl.logging import log_to_console

    log_to_console()
    parts = {}
    for part, node in nodes.items():
        dataset = build_dataset(node)
        with tqdm(total=len(dataset), desc=part, unit=" images", disable=None) as bar:
            parts[part] = dataset, survey(dataset, args.workers, bar.update)
    found = report(parts)
    for line in lines(found):
        print(line)
    if args.json is not None:
        write_text(Path(args.json), to_json(found, indent=1) + "\n")
    if not is_clean(found):
        sys.exit(EXIT_FAILED_RUN)
