"""Train with several values of some settings: one run after another, compared at the end. The same
call continues an interrupted sweep. The last line on stdout is the result as JSON.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from passl.cli.options import add_config_options, at_least, overrides

if TYPE_CHECKING:
    from passl.analysis.search_space import Values

EXAMPLES = """\
passl sweep digits/cvt -o output_dir=runs/grid --grid optimizer.lr=1e-3,2e-3 --grid seed=0,1
passl sweep digits/cvt -o output_dir=runs/s --search "optimizer.lr=loguniform(1e-4,1e-2)" --trials 9
passl compare runs/grid --out curves.png
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=V1,V2,...",
        help="train with each of these values (YAML); with several --grid, with every combination",
    )
    parser.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="KEY=RANGE",
        help="sample values from uniform(LOW,HIGH), loguniform(LOW,HIGH), int(LOW,HIGH), "
        "logint(LOW,HIGH) or choice(V1,V2,...); may be repeated",
    )
    parser.add_argument(
        "--trials", type=at_least(1), metavar="N", help="number of runs of --search"
    )
    parser.add_argument(
        "--sampler", choices=("tpe", "random"), help="of --search, by Optuna (default tpe)"
    )
    parser.add_argument("--seed", type=at_least(0), metavar="N", help="of the sampler (default 0)")
    parser.add_argument(
        "--prune",
        action="store_true",
        help="end a run after an epoch in which its score, such as top1, is below the median of "
        "the finished runs, from the sixth run on",
    )


def main(args: argparse.Namespace) -> None:
    values = _values(args)

    from passl.analysis.compare import as_text, read_runs
    from passl.analysis.sweep import Sweep, run_sweep
    from passl.errors import EXIT_STOPPED, Stopped
    from passl.io.files import to_json
    from passl.logging import log_to_console
    from passl.utils.config import get_config

    log_to_console()
    sweep = Sweep(
        config=args.config,
        overrides=overrides(args),
        values=values,
        trials=args.trials,
        sampler=args.sampler or "tpe",
        seed=args.seed or 0,
        prune=args.prune,
    )
    try:
        trials = run_sweep(sweep)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same call continues the sweep", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    folder = get_config(args.config, sweep.overrides).output_dir
    scored = [trial for trial in trials if trial[sweep.score] is not None]
    print(as_text(read_runs([Path(folder)]), shutil.get_terminal_size((120, 24)).columns))
    for trial in trials:
        if trial["state"] != "complete":
            print(f"{trial['name']}: {trial['state']}")
    best = max(scored, key=lambda trial: trial[sweep.score], default=None)
    print(to_json({"output_dir": folder, "best": best, "trials": trials}))


def _values(args: argparse.Namespace) -> list[Values]:
    """The values to try, after a check of the options."""
    from passl.analysis.search_space import parse_grid, parse_search
    from passl.errors import ConfigError

    if args.config is None:
        raise ConfigError("no config is named; name one before -o, or by -c CONFIG")
    if bool(args.grid) == bool(args.search):
        rule = "both are given; use one" if args.grid else "neither is given; use one"
        raise ConfigError(f"--grid or --search name the values to try: {rule}")
    if args.grid:
        for option in ("trials", "sampler", "seed"):
            if getattr(args, option) is not None:
                raise ConfigError(f"--{option} is for --search; --grid tries every combination")
        return [parse_grid(option) for option in args.grid]
    if args.trials is None:
        raise ConfigError("--trials is missing; --search needs a number of runs: --trials N")
    return [parse_search(option) for option in args.search]
