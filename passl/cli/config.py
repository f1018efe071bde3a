"""Show what a config comes to: python tools/print_config.py -c configs/convit/convit_tiny.yaml [-o
KEY=VALUE ...]
"""

import argparse
import json

from passl.cli.main import add_config_options, read_config
from passl.logging import printable


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Print every value of a config, and the file and line that it came from."
    )
    add_config_options(parser)
    parser.add_argument(
        "--yaml",
        action="store_true",
        help="print one YAML document instead, as a run folder has it",
    )
    args = parser.parse_args()
    cfg = read_config(args)

    from passl.utils.config import dotted, leaves, storable
    from passl.utils.yaml import to_yaml

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
