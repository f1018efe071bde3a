"""Read every image of a config's training and validation data, or of folders. Reports unreadable
files, sizes, modes, samples per class and duplicate images on stdout. The exit code is 1 if a file
cannot be read or an image is in both parts, else 0.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from passl.cli.options import add_config_options, as_path, at_least, path_or_name, read_config
from passl.errors import EXIT_FAILED, ConfigError
from passl.machine import usable_processors

PARTS = ("train", "val")
EXAMPLES = """\
passl check-data my.yaml
passl check-data data/pets/train data/pets/val --json report.json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        nargs="*",
        type=path_or_name,
        metavar="FOLDER|CONFIG",
        help="training data with a folder per class, then validation data; or a config",
    )
    add_config_options(parser, positional=False)
    parser.add_argument("--part", choices=PARTS, help="only this part of the config (default both)")
    parser.add_argument(
        "--workers",
        type=at_least(0),
        default=usable_processors(),
        metavar="N",
        help="processes that read; 0 reads in this one (default: one per processor)",
    )
    parser.add_argument("--json", type=as_path, metavar="FILE", help="write the whole report")


def main(args: argparse.Namespace) -> None:
    nodes = _datasets(args)

    from passl.analysis.data_report import is_clean, lines, report
    from passl.analysis.survey import survey
    from passl.data.build import build_dataset
    from passl.io.files import to_json, write_text
    from passl.io.terminal import Bar
    from passl.logging import log_to_console

    log_to_console()
    parts = {}
    for part, node in nodes.items():
        dataset = build_dataset(node)
        with Bar(part, len(dataset), "images") as bar:
            parts[part] = dataset, survey(dataset, args.workers, bar.update)
    found = report(parts)
    for line in lines(found):
        print(line)
    if args.json is not None:
        write_text(args.json, to_json(found, indent=1) + "\n")
    if not is_clean(found):
        sys.exit(EXIT_FAILED)


def _datasets(args: argparse.Namespace) -> dict[str, Mapping]:
    """The `dataset` node of each part."""
    from passl.io.files import obstacles
    from passl.utils.config import shipped_names

    folders = args.data
    if len(folders) == 1 and not Path(folders[0]).is_dir() and args.config is None:
        is_config = folders[0].endswith(".yaml") or folders[0] in shipped_names()
        if is_config:
            args.config, folders = folders[0], []
    problems = []
    if (args.config is None) == (not folders):
        problems.append("name a config, or one or two folders")
    if len(folders) > len(PARTS):
        problems.append(f"{len(folders)} folders: name one of training, one of validation")
    if folders and (args.part or args.override):
        problems.append("--part and -o go with a config, not with folders")
    problems += [f"--json {args.json}: {rule}" for rule in obstacles(args.json)]
    if problems:
        raise ConfigError(*problems)
    if folders:
        pairs = zip(PARTS, folders, strict=False)
        return {part: {"name": "ImageFolder", "dataroot": path} for part, path in pairs}

    from passl.engine.check import datasets

    return datasets(read_config(args), PARTS if args.part is None else (args.part,))
