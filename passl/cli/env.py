"""Print what a bug report needs: versions, processor, devices and settings."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from passl.logging import printable

EXAMPLES = """\
passl env
passl env --json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def main(args: argparse.Namespace) -> None:
    from passl.check.facts import environment, shown

    found = environment()
    if args.json:
        print(json.dumps(found, default=asdict))
        return
    for name, value in found.items():
        for each in value if name == "auto" else [value]:
            print(printable(f"{name}: {shown(each)}"))
