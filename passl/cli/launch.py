"""Start training or evaluation in several processes, on one machine or on several. Options that are
not listed here are passed on to the command.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from passl.cli import eval, features, train
from passl.cli.options import as_path, at_least, read_config
from passl.distributed.environment import parse_address
from passl.errors import ConfigError

EXAMPLES = """\
passl launch train my.yaml --nproc_per_node 2 --restarts 3
passl launch eval my.yaml --weights w.pth --nproc_per_node 2
passl launch train my.yaml --nproc_per_node 8 --nnodes 2 --rank 0 --master gpu1:20000
"""
_COMMANDS = {"train": train, "eval": eval, "features": features}
_PROGRAM = Path(__file__).resolve().parents[1] / "__main__.py"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tool", choices=[*_COMMANDS, "train.py", "eval.py"], metavar="train|eval|features"
    )
    parser.add_argument(
        "--nproc_per_node",
        type=at_least(1),
        required=True,
        metavar="N",
        help="processes on this machine: as many as GPUs",
    )
    parser.add_argument(
        "--nnodes", type=at_least(1), default=1, metavar="N", help="machines (default 1)"
    )
    parser.add_argument(
        "--rank", type=int, default=0, metavar="R", help="number of this machine, from 0"
    )
    parser.add_argument(
        "--master",
        default=os.environ.get("PADDLE_MASTER"),
        metavar="HOST:PORT",
        help="where rank 0 listens, on the machine with --rank 0 (default: PADDLE_MASTER); one "
        "machine needs none",
    )
    parser.add_argument(
        "--devices",
        metavar="0,1,...",
        help="the GPUs to use (default: the first N of CUDA_VISIBLE_DEVICES)",
    )
    parser.add_argument(
        "--log_dir",
        type=as_path,
        metavar="FOLDER",
        help="for the output of all processes but the first (default: OUTPUT_DIR/launch)",
    )
    parser.add_argument(
        "--restarts",
        type=at_least(0),
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
        type=at_least(0, float),
        default=60.0,
        metavar="SECONDS",
        help="time for an orderly stop after SIGTERM or Ctrl-C; a second signal ends all processes "
        "at once",
    )


def main(args: argparse.Namespace) -> None:
    command = args.tool.removesuffix(".py")
    waits = _check(args, command)
    if args.devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.devices

    from passl.distributed.launcher import Job, launch

    with ExitStack() as stack:
        writes_nothing = _writes_nothing(command, args.rest)
        if args.restarts and writes_nothing:
            raise ConfigError("--restarts continues from checkpoints, and --benchmark writes none")
        if args.log_dir is None and writes_nothing:
            # The end of the log of a process that fails is printed.
            args.log_dir = Path(stack.enter_context(TemporaryDirectory(prefix="passl_launch_")))
        needs_folder = args.restarts or args.log_dir is None
        folder = _run_folder(command, args.rest) if needs_folder else Path()
        job = Job(
            command=[sys.executable, "-u", str(_PROGRAM), command, *args.rest],
            processes=args.nproc_per_node,
            logs=args.log_dir or folder / "launch",
            machines=args.nnodes,
            machine=args.rank,
            master=args.master,
            grace=args.grace,
            checkpoint=folder / "last.safetensors" if args.restarts else None,
        )
        sys.exit(launch(job, args.restarts, waits))


def _check(args: argparse.Namespace, command: str) -> list[float]:
    """Check the options and return the seconds of --restart_waits."""
    if args.restarts and command != "train":
        raise ConfigError(f"--restarts {args.restarts} is for training, not for {command}")
    if args.restarts and args.nnodes > 1:
        raise ConfigError(
            f"--restarts {args.restarts} with --nnodes {args.nnodes}: this launcher restarts the "
            "processes of its own machine only; leave restarts across machines to Slurm, "
            "Kubernetes or Paddle's launcher (docs/distributed.md)"
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
    try:
        return [float(wait) for wait in args.restart_waits.split(",")]
    except ValueError:
        raise ConfigError(
            f"--restart_waits {args.restart_waits} must be seconds, separated by commas"
        ) from None


def _options(command: str, arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"passl {command}")
    _COMMANDS[command].add_options(parser)
    return parser.parse_args(arguments)


def _writes_nothing(command: str, arguments: Sequence[str]) -> bool:
    """Whether the command leaves no file, so that a folder for its output would be all there is."""
    return getattr(_options(command, arguments), "benchmark", None) is not None


def _run_folder(command: str, arguments: Sequence[str]) -> Path:
    """The folder of the run that the command's arguments describe."""
    cfg = read_config(_options(command, arguments))
    folder = cfg.get("output_dir")
    if not isinstance(folder, str):
        raise ConfigError(f"output_dir: {folder!r} must be text, the folder of the run")
    return Path(folder)
