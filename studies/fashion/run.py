"""Train ConViT and three networks that differ from it in one thing on parts of Fashion-MNIST, and
write the page: python studies/fashion/run.py

Finished runs are skipped and interrupted ones continue, so the same call goes on with the study.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

from passl.cli.dispatch import run
from passl.cli.options import as_path
from passl.machine import usable_processors

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--runs", type=as_path, default=ROOT / "runs" / "study", help="where the runs are kept"
    )
    parser.add_argument("--jobs", type=int, default=usable_processors(), help="runs side by side")
    parser.add_argument(
        "--report", action="store_true", help="train nothing: write the page of finished runs"
    )
    parser.add_argument("--out", type=as_path, default=ROOT / "docs", help="folder of the page")
    parser.add_argument("--results", type=as_path, default=RESULTS, help="the JSON file")
    parser.add_argument(
        "-o", nargs="+", default=[], metavar="KEY=VALUE", help="override the config of all runs"
    )
    args = parser.parse_args()

    from studies.fashion.plan import Plan

    plan = Plan(overrides=args.o)
    if not args.report:
        train(plan, args.runs, args.jobs)
    report(plan, args.runs, args.results, args.out)


def train(plan, folder: Path, jobs: int) -> None:
    """Tune each network, then make the runs that are compared."""
    from studies.fashion.initial import write_initial_weights
    from studies.fashion.plan import initial_file
    from studies.fashion.results import best_rates, finished
    from studies.jobs import run_side_by_side

    def make(runs) -> None:
        commands = {}
        for one in runs:
            section = plan.config(one.tokens).model
            write_initial_weights(initial_file(one, folder), section, one.network, one.seed)
            training = plan.training(one, folder)
            if training.result() is None:
                commands[one.name] = training.command
        run_side_by_side(commands, jobs, folder / "logs")

    make(plan.tuning())
    make(plan.runs(best_rates(plan, list(finished(plan, plan.tuning(), folder)))))


def report(plan, folder: Path, results_file: Path, out: Path) -> None:
    """Collect the results; write them, the figures and the page."""
    from dataclasses import asdict

    from passl.io.files import to_json, write_text
    from studies.fashion.figures import plot_accuracy, plot_gates
    from studies.fashion.page import page
    from studies.fashion.results import collect

    results = collect(plan, folder)
    images = out / "images"
    images.mkdir(parents=True, exist_ok=True)
    write_text(results_file, to_json(asdict(results), indent=1) + "\n")
    if any(not one["is_tuning"] for one in results.runs):
        plot_accuracy(results, plan, images / "study_accuracy.png")
    for tokens in dict.fromkeys(gates["tokens"] for gates in results.gates):
        plot_gates(results, tokens, images / f"study_gates_{tokens}.png")
    write_text(out / "study_fashion.md", page(results, plan))
    print(out / "study_fashion.md")


if __name__ == "__main__":
    run(main)
