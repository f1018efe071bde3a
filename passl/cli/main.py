"""What the tools share: the options that every one of them has, and how a mistake becomes a message
and an exit code.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from passl.distributed import environment as cluster
from passl.errors import ConfigError, RunError, Stopped
from passl.logging import log_others, printable
from passl.utils.config import Config, get_config
from passl.utils.paths import expand

EXIT_FAILED_RUN, EXIT_WRONG_CALL = 1, 2
EXIT_STOPPED = 75  # "try again later", in sysexits.h: a run that was told to stop and has saved


def path_or_name(text: str) -> str:
    """The type of an option that is a path, or may be: `~` and environment variables are expanded,
    for where no shell does it (`--weights=~/w.pth`, a job's `command:`).
    """
    try:
        return text if "://" in text else expand(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def as_path(text: str) -> Path:
    """The type of an option that is a path."""
    return Path(path_or_name(text))


def add_config_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """-c FILE and -o KEY=VALUE, as in PaddleClas."""
    parser.add_argument(
        "-c", "--config", type=path_or_name, required=required, metavar="FILE", help="config file"
    )
    parser.add_argument(
        "-o",
        "--override",
        action="append",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help=(
            "change a value, e.g. -o epochs=10 optimizer.lr=5e-4 or "
            "dataloader.train.dataset.transforms.0.size=224; may be repeated"
        ),
    )


def read_config(args: argparse.Namespace, before: Sequence[str] = ()) -> Config:
    """The config that the options name; `before` are overrides that those of the user stand
    above.
    """
    return get_config(args.config, [*before, *(pair for pairs in args.override for pair in pairs)])


def run(main: Callable[[], None]) -> None:
    """Run a tool. Exit code 2 for a wrong call or config, 1 for a failed run, one message and no
    traceback for either.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What stdout cannot show of a name is escaped, as Python does on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    log_others()
    try:
        cluster.join(os.environ)  # which process this is, whoever started it
        cluster.remove_environment_dumps(os.environ)
        main()
    except ConfigError as error:
        lines = [printable(problem) for problem in error.problems]
        print(
            f"error: {lines[0]}"
            if len(lines) == 1
            else "\n  ".join([f"{len(lines)} errors:", *lines]),
            file=sys.stderr,
        )
        sys.exit(EXIT_WRONG_CALL)
    except (RunError, OSError) as error:  # OSError: a full disk, a file that may not be read
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(EXIT_FAILED_RUN)
    except Stopped as stopped:
        print(f"stopped by {stopped}; go on with --resume auto", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
