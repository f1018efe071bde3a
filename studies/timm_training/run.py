"""Train a ConViT with passl, and with timm's module under PyTorch on the same batches from the same
weights, and write the page: .venv-parity/bin/python studies/timm_training/run.py

It needs the packages of both, which `make test-parity` installs in .venv-parity. Finished runs are
skipped and interrupted ones continue, so the same call goes on.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

from passl.cli.dispatch import run
from passl.cli.options import as_path
from passl.machine import usable_processors

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
CONFIG = HERE / "convit.yaml"
SEEDS = 3
FIRST = 2000
"""Steps whose losses are stored; later ones have nothing to compare but noise."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--runs", type=as_path, default=ROOT / "runs" / "timm", help="where the runs are kept"
    )
    parser.add_argument("--jobs", type=int, default=usable_processors(), help="runs side by side")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="pairs to train (default 3)")
    parser.add_argument(
        "--report", action="store_true", help="train nothing: write the page of finished runs"
    )
    parser.add_argument("--out", type=as_path, default=ROOT / "docs", help="folder of the page")
    parser.add_argument("--results", type=as_path, default=HERE / "results.json")
    parser.add_argument(
        "-o", nargs="+", default=[], metavar="KEY=VALUE", help="override the config of both sides"
    )
    args = parser.parse_args()

    from passl.io.files import to_json, write_text
    from studies.jobs import run_side_by_side
    from studies.timm_training.page import page

    if not args.report:
        commands = unfinished(args.runs, args.seeds, args.o)
        run_side_by_side(commands, args.jobs, args.runs / "logs")
    results = collect(args.runs, args.seeds, args.o)
    write_text(args.results, to_json(results) + "\n")
    write_text(args.out / "study_timm.md", page(results))
    print(args.out / "study_timm.md")


def ours(seed: int, folder: Path, overrides: list[str]):
    """passl's run of a pair."""
    from studies.jobs import Training, path_value

    weights = f"model.pretrained={path_value(folder / f'initial_{seed}.safetensors')}"
    return Training(folder / f"passl_{seed}", CONFIG, [*overrides, weights, f"seed={seed}"])


def their_result(seed: int, folder: Path) -> Path:
    return folder / f"timm_{seed}.json"


def unfinished(folder: Path, seeds: int, overrides: list[str]) -> dict[str, list[str]]:
    """The command of each run that is not finished, the sides of a pair one after the other."""
    from passl.utils.config import get_config
    from studies.fashion.initial import write_initial_weights

    commands = {}
    for seed in range(seeds):
        training, result = ours(seed, folder, overrides), their_result(seed, folder)
        section = get_config(CONFIG, overrides).model
        write_initial_weights(folder / f"initial_{seed}.safetensors", section, "convit", seed)
        if training.result() is None:
            commands[f"passl_{seed}"] = training.command
        if not result.exists():
            script = [sys.executable, str(HERE / "theirs.py"), str(CONFIG), str(result)]
            commands[f"timm_{seed}"] = [*script, "-o", *training.overrides]
    return commands


def collect(folder: Path, seeds: int, overrides: list[str]) -> dict:
    """The pairs of which both sides are finished."""
    import datetime
    import statistics

    from passl.machine import processor, versions
    from passl.utils.config import get_config

    cfg = get_config(CONFIG, overrides)
    pairs = []
    for seed in range(seeds):
        training, file = ours(seed, folder, overrides), their_result(seed, folder)
        last = training.result()
        if last is None or not file.exists():
            continue
        theirs, rows = json.loads(file.read_text()), training.rows("train")
        pairs.append(
            {
                "seed": seed,
                "ours": {
                    "top1": last["top1"],
                    "ips": statistics.median(row["ips"] for row in rows),
                    "losses": [row["loss"] for row in rows[:FIRST]],
                },
                "theirs": {**theirs, "losses": theirs["losses"][:FIRST]},
            }
        )
    return {
        "about": {
            "date": datetime.date.today().isoformat(),
            "processor": processor(),
            **versions(["paddlepaddle", "torch", "timm"]),
        },
        "planned": seeds,
        "epochs": cfg.epochs,
        "batch_size": cfg.dataloader.train.sampler.batch_size,
        "architecture": cfg.to_dict()["model"]["architecture"],
        "pairs": pairs,
    }


if __name__ == "__main__":
    run(main)
