"""Start a tool in several processes: python tools/launch.py train.py -c CONFIG --nproc_per_node 2

Options that are not the launcher's go to the tool.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from passl.cli.main import add_config_options, as_path, read_config
from passl.distributed.environment import parse_address
from passl.errors import ConfigError

TOOLS = ("train.py", "eval.py")
TOOLS_FOLDER = Path(__file__).resolve().parents[2] / "tools"


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The launcher's options, and those of the tool."""
    parser = argparse.ArgumentParser(
        description=(
            "Start a tool in several processes, on one machine or on several. What is not listed "
            "here goes to the tool."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument(
        "--nproc_per_node",
        type=int,
        required=True,
        metavar="N",
        help="processes on this machine: as many as GPUs",
    )
    parser.add_argument("--nnodes", type=int, default=1, metavar="N", help="machines")
    parser.add_argument(
        "--rank", type=int, default=0, metavar="R", help="number of this machine, from 0 up"
    )
    parser.add_argument(
        "--master",
        default=os.environ.get("PADDLE_MASTER"),
        metavar="HOST:PORT",
        help=(
            "where rank 0 listens, on the machine with --rank 0; one machine needs none. The "
            "default is PADDLE_MASTER"
        ),
    )
    parser.add_argument(
        "--devices",
        metavar="0,1,...",
        help="the GPUs to use; the default is the first N that CUDA_VISIBLE_DEVICES leaves",
    )
    parser.add_argument(
        "--log_dir",
        type=as_path,
        metavar="FOLDER",
        help="for the output of all processes but the first; the default is OUTPUT_DIR/launch",
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="after a failure, start training again with --resume auto, up to N times without a "
        "new checkpoint in between; for one machine",
    )
    parser.add_argument(
        "--restart_waits",
        default="5,10,20",
        metavar="SECONDS,...",
        help="before the first restart, the second, and all that follow",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="time for an orderly stop after SIGTERM or Ctrl-C; a second one ends all at once",
    )
    return parser.parse_known_args()


def run_folder(arguments: Sequence[str]) -> Path:
    """The folder of the run that the tool's options describe."""
    parser = argparse.ArgumentParser(prog="launch.py", allow_abbrev=False)
    add_config_options(parser)
    known, _ = parser.parse_known_args(arguments)
    cfg = read_config(known)
    folder = cfg.get("output_dir")
    if not isinstance(folder, str):
        raise ConfigError(f"output_dir: {folder!r} must be text, the folder of the run")
    return Path(folder)


def _check(args: argparse.Namespace) -> None:
    """Raise ConfigError if the numbers do not fit together."""
    if args.restarts < 0 or args.grace < 0:
        raise ConfigError(
            f"--restarts {args.restarts} and --grace {args.grace:g} must not be negative"
        )
    if args.nproc_per_node < 1 or args.nnodes < 1:
        raise ConfigError(
            f"{args.nproc_per_node} processes on {args.nnodes} machines: there must be at least 1 "
            "of both"
        )
    if not 0 <= args.rank < args.nnodes:
        raise ConfigError(
            f"--rank {args.rank} must be from 0 to {args.nnodes - 1} with --nnodes {args.nnodes}: "
            "it is the number of this machine, another on each"
        )
    if args.nnodes > 1 and args.master is None:
        raise ConfigError(
            f"--nnodes {args.nnodes} needs --master HOST:PORT, a free port of the machine with "
            "--rank 0, the same on all machines"
        )
    if args.master is not None:
        parse_address("--master", args.master)


def main() -> None:
    args, arguments = parse()
    if args.restarts and args.tool != "train.py":
        raise ConfigError(f"--restarts {args.restarts} is for training; {args.tool} has no state")
    if args.restarts and args.nnodes > 1:
        raise ConfigError(
            f"--restarts {args.restarts} with --nnodes {args.nnodes}: this launcher restarts the "
            "processes of its own machine only; leave restarts across machines to Slurm, "
            "Kubernetes or Paddle's launcher (docs/distributed.md)"
        )
    _check(args)
    try:
        waits = [float(wait) for wait in args.restart_waits.split(",")]
    except ValueError:
        raise ConfigError(
            f"--restart_waits {args.restart_waits} must be seconds, divided by commas"
        ) from None
    if args.devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.devices

    from passl.distributed.launcher import Job, launch

    folder = run_folder(arguments) if args.restarts or args.log_dir is None else None
    job = Job(
        command=[sys.executable, "-u", str(TOOLS_FOLDER / args.tool), *arguments],
        processes=args.nproc_per_node,
        logs=args.log_dir or folder / "launch",
        machines=args.nnodes,
        machine=args.rank,
        master=args.master,
        grace=args.grace,
        checkpoint=folder / "last.safetensors" if args.restarts else None,
    )
    sys.exit(launch(job, args.restarts, waits))
