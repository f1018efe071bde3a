"""List the published weights that can be named in place of a file."""

import argparse
import json

EXAMPLES = """\
passl models
passl models cvt --source microsoft
passl models convit_tiny --json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="only names that contain every word"
    )
    parser.add_argument(
        "--source", metavar="PROJECT", help="only weights of this project, such as timm"
    )
    parser.add_argument("--default", action="store_true", help="only what pretrained=True loads")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line instead")


def main(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from passl.errors import ConfigError
    from passl.porting.zoo import SOURCES, entries, table
    from passl.utils.config import closest

    if args.source is not None and args.source not in SOURCES:
        raise ConfigError(f"--source {args.source}: no such project{closest(args.source, SOURCES)}")
    found = [
        entry
        for entry in entries()
        if all(word in entry.name for word in args.words)
        and args.source in (None, entry.source)
        and (entry.default or not args.default)
    ]
    if not found:
        raise ConfigError("no published weights match; `passl models` lists all")
    if args.json:
        for entry in found:
            print(json.dumps(asdict(entry)))
    else:
        print(table(found))
