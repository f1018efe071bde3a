"""Check what works on this machine, and write a report to post in an issue. Each probe runs in a
process of its own: the numbers of the networks against the authors' code, mixed precision, several
processes, resuming, speed and memory. The exit code is 1 if a probe has failed.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from passl.check.probes import FACTS, PROBES
from passl.cli.options import as_path, at_least, out_problems
from passl.errors import EXIT_FAILED, ConfigError

EXAMPLES = """\
passl check
passl check --quick --out first
passl check --only golden-fp32 golden-bf16 flash
passl check --skip throughput-384 --device cpu
"""
_OUT = "passl-check"
SUFFIXES = (".md", ".json")


def add_options(parser: argparse.ArgumentParser) -> None:
    names = [name for name in PROBES if name != FACTS]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="PROBE", help=f"run these: {', '.join(names)}"
    )
    parser.add_argument(
        "--skip", nargs="+", choices=names, default=[], metavar="PROBE", help="leave these out"
    )
    parser.add_argument(
        "--quick", action="store_true", help="do less in each probe, for a first look"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="auto takes GPUs where there are some (default auto)",
    )
    parser.add_argument(
        "--timeout",
        type=at_least(1, float),
        default=900.0,
        metavar="SECONDS",
        help="after which a probe is ended (default 900)",
    )
    parser.add_argument(
        "--out",
        type=as_path,
        default=Path(_OUT),
        metavar="NAME",
        help=f"write NAME.md and NAME.json (default {_OUT})",
    )
    parser.add_argument("--force", action="store_true", help="replace the files if they exist")


def main(args: argparse.Namespace) -> None:
    paths = _paths(args.out, args.force)
    names = [name for name in args.only or PROBES if name not in args.skip]
    if not [name for name in names if name != FACTS]:
        raise ConfigError("--only and --skip leave no probe")

    from passl.check.report import failures, line, summary, write_reports
    from passl.check.runner import Plan, run_all
    from passl.logging import get_logger, log_to_console, printable

    log_to_console()
    order = [name for name in PROBES if name == FACTS or name in names]
    plan = Plan(order, args.device, args.quick, args.timeout)
    options = {"device": args.device, "quick": args.quick, "timeout": args.timeout}

    def ended(found: list[dict], outcomes: list[dict]) -> None:
        # After each probe: what is known stays, whatever the next one does to the machine.
        write_reports(outcomes, options, paths)
        for outcome in found:
            get_logger().info("%s", line(outcome))

    # As Ctrl-C, so that processes and folders of the probe that runs are removed.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcomes = run_all(plan, ended)
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{summary(outcomes)}; the report is in {printable(f'{paths[0]} and {paths[1]}')}")
    if failures(outcomes):
        sys.exit(EXIT_FAILED)


def _paths(out: Path, force: bool) -> list[Path]:
    """The files to write.

    Raises:
        ConfigError: one of them is there already, or their folder is not.
    """
    stem = out.with_suffix("") if out.suffix in SUFFIXES else out
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in SUFFIXES]
    problems = [problem for path in paths for problem in out_problems("--out", path, (), force)]
    if problems:
        raise ConfigError(*problems)
    return paths
