"""Print every value of a config, and the file and line where it is set."""

import argparse
import json

from passl.cli.options import add_config_options, read_config
from passl.logging import printable

EXAMPLES = """\
passl config --list
passl config convit/convit_tiny -o optimizer.lr=5e-4
passl config convit/convit_tiny --yaml > my.yaml
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
    parser.add_argument(
        "--yaml",
        action="store_true",
        help="print one YAML document instead, as a run folder has it",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the names of the shipped configs"
    )


def main(args: argparse.Namespace) -> None:
    from passl.utils.config import dotted, leaves, shipped_names, storable
    from passl.utils.yaml import to_yaml

    if args.list:
        print("\n".join(shipped_names()))
        return
    cfg = read_config(args)
    if args.yaml:
        print(to_yaml(storable(cfg)), end="")
        return
    rows = [
        (printable(f"{dotted(keys)}: {json.dumps(value)}"), printable(cfg.origins[keys]))
        for keys, value in leaves(cfg.to_dict())
    ]
    width = min(max(len(text) for text, _ in rows), 90)
    for text, origin in rows:
        print(f"{text:<{width}}  # {origin}")
