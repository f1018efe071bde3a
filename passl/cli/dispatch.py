"""The command `passl` and the tools of a checkout: from arguments to a command, and from its
outcome to an exit code.

A command is a module with a docstring (its description), `EXAMPLES`, `add_options(parser)` and
`main(args)`. None of them imports numpy or paddle before its `main` needs it.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from passl import __version__
from passl.cli.options import about, epilog
from passl.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    EXIT_WRONG_CALL,
    ConfigError,
    RunError,
    Stopped,
)
from passl.logging import log_others, printable

COMMANDS = (
    *("train", "watch", "eval", "predict", "export", "serve", "convert"),
    *("features", "probe", "visualize"),
    *("compare", "report", "sweep"),
    *("check", "check-data", "pack", "config", "models", "env", "launch"),
)
_LAUNCH = "launch"
"""Passes on the arguments that it does not know."""
_EXAMPLES = """\
passl train digits/convit -o output_dir=runs/digits epochs=10
passl eval runs/digits/config.yaml --weights runs/digits/best.safetensors
passl export --weights runs/digits/best.safetensors exported
passl predict digit.png --model exported
passl COMMAND --help
"""


def main() -> None:
    """Run `passl COMMAND ...`, the entry point of the package."""
    parser = argparse.ArgumentParser(
        prog="passl",
        description="Train, evaluate, convert and deploy ConViT and CvT on PaddlePaddle.",
        allow_abbrev=False,
        **epilog(_EXAMPLES),
    )
    parser.add_argument("--version", action="version", version=f"passl {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name in COMMANDS:
        command = commands.add_parser(name, **_about(name, as_part=True))
        _add_options(command, name)
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions
        import argcomplete

        argcomplete.autocomplete(parser)
    run(lambda: _call(parser))


def run_command(name: str) -> None:
    """Run one command with the arguments of this process, as `tools/*.py` do."""
    parser = argparse.ArgumentParser(**_about(name))
    _add_options(parser, name)
    run(lambda: _call(parser))


def run(function: Callable[[], None]) -> None:
    """Call a function and end the process. A known error becomes one message without a traceback,
    and the exit code of `passl.errors`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names that stdout cannot encode are escaped, as Python does on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    log_others()
    try:
        function()
    except ConfigError as error:
        problems = [printable(problem) for problem in error.problems]
        head = "error: " if len(problems) == 1 else f"{len(problems)} errors:\n  "
        print(head + "\n  ".join(problems), file=sys.stderr)
        sys.exit(EXIT_WRONG_CALL)
    except (RunError, OSError) as error:  # OSError: a full disk, a file that may not be read
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except Stopped as stopped:
        print(f"stopped by {stopped}; continue with --resume auto", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _call(parser: argparse.ArgumentParser) -> None:
    """Parse the arguments of this process and run the command that they name."""
    args, rest = parser.parse_known_args()
    if "command" not in args:
        parser.print_help(sys.stderr)
        sys.exit(EXIT_WRONG_CALL)
    if args.command == _LAUNCH:
        args.rest = rest
    elif rest:
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")

    from passl.distributed import environment

    environment.join(os.environ)  # which rank this process is, whoever started it
    environment.remove_environment_dumps(os.environ)
    _module(args.command).main(args)


def _module(name: str) -> Any:
    return importlib.import_module(f"passl.cli.{name.replace('-', '_')}")


def _add_options(parser: argparse.ArgumentParser, name: str) -> None:
    _module(name).add_options(parser)
    parser.set_defaults(command=name, parser=parser)


def _about(name: str, as_part: bool = False) -> dict[str, Any]:
    # An abbreviation could be an option of the command that is launched.
    return {**about(_module(name), as_part), "allow_abbrev": name != _LAUNCH}
