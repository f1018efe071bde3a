"""Train a ConViT and the same network with plain attention on parts of Digits, and write the
results: python studies/sample_efficiency/run.py
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

from passl.cli.dispatch import run
from passl.cli.options import as_path
from passl.machine import usable_processors

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NETWORKS = {"ConViT": "convit", "plain attention": "attention"}
FRACTIONS = (0.05, 0.1, 0.3, 1.0)
SEEDS = range(5)
TEXT = """\
# Sample efficiency on Digits

The ConViT paper's claim is that a network that starts as a convolution needs fewer samples than the
same network with plain self-attention (DeiT), and that the gap is widest where samples are few
(arXiv 2103.10697, figure 1 and section 4; its table 2: ConViT-S against DeiT-S on 5 to 100 % of
ImageNet). This page is that experiment at the size of a handwritten digit. `make study` writes it,
and these are its numbers, whatever they show.

* Data: the {total:,} training digits that come with the package, 32 x 32, or a class-balanced part
  of them (`fraction`); the score is top-1 on the other 360 after the last step, not the best on the
  way.
* Networks: [`convit.yaml`](convit.yaml), three local blocks of
  four, and [`attention.yaml`](attention.yaml), which differs by
  `local_up_to_layer: 0` alone. Width 64, 16 tokens.
* As in the paper, epochs grow as samples shrink ({epochs} at 100 %, divided by the fraction), so
  that every run makes about the same number of steps, and both networks have the same
  hyper-parameters: those of the digits ConViT.
* Five seeds. A seed chooses the first weights, the part of the data and the augmentation, the same
  for both networks: the difference is taken pair by pair, and its interval is Student's t.

{table}
{verdict}

Sixteen tokens are few for a convolution of patches; the paper's networks have 196. Neither the
paper's gap on ImageNet nor its absence can be read from this page.

![Top-1 over training samples](study.png)

Every run: [`runs.csv`](runs.csv).
"""


def epochs_of(fraction: float, full: int) -> int:
    return round(full / fraction)


def score_of(network: str, fraction: float, seed: int, full: int, runs: Path) -> float:
    """Train, or resume a run that exists, and return top-1 after the last step."""
    from passl.engine.metrics import read_metrics

    folder = runs / f"{network}_{fraction:g}_{seed}"
    epochs = epochs_of(fraction, full)
    options = {
        "output_dir": folder,
        "seed": seed,
        "epochs": epochs,
        "eval_interval": epochs,
        "lr_scheduler.warmup_epochs": 2 * epochs / full,
        "dataloader.train.dataset.fraction": fraction,
        "dataloader.train.dataset.fraction_seed": seed,
    }
    command = [sys.executable, ROOT / "tools" / "train.py", "--resume", "auto"]
    command += ["-c", HERE / f"{network}.yaml"]
    command += ["-o", *(f"{key}={value}" for key, value in options.items())]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.txt").open("w") as log:
        # One thread each: with networks this small two runs side by side are faster than one.
        subprocess.run(
            command,
            check=True,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    last = [row for row in read_metrics(folder) if row["phase"] == "val"][-1]
    assert last["epoch"] == epochs, folder
    print(f"{folder.name}: {last['top1']:.1f} %", flush=True)
    return last["top1"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="ConViT and its plain-attention twin on 5 to 100 % of Digits, five seeds each."
    )
    parser.add_argument("--out", type=as_path, default=HERE, metavar="FOLDER")
    parser.add_argument(
        "--runs", type=as_path, default=ROOT / "runs" / "study", help="where the runs are kept"
    )
    parser.add_argument("--jobs", type=int, default=usable_processors(), help="runs side by side")
    args = parser.parse_args()

    from passl.utils.config import get_config

    full = get_config(HERE / "convit.yaml").epochs
    plan = [(n, f, s) for s in SEEDS for f in FRACTIONS for n in NETWORKS]
    with ThreadPoolExecutor(args.jobs) as pool:
        found = pool.map(lambda p: score_of(NETWORKS[p[0]], p[1], p[2], full, args.runs), plan)
        results = dict(zip(plan, found, strict=True))

    write_results(args.out, results, full)
    print(args.out / "README.md")


def write_results(out: Path, results: dict[tuple[str, float, int], float], full: int) -> None:
    """The page, its plot and its table of runs."""
    from passl.data.datasets.digits import Digits
    from passl.data.datasets.subset import Subset
    from passl.evaluation.tables import write_csv
    from passl.io.files import write_text
    from studies.sample_efficiency.results import plot, table, verdict

    digits = Digits(split="train")
    samples = {fraction: len(Subset(digits, fraction=fraction)) for fraction in FRACTIONS}
    scores = {(n, f): [results[n, f, s] for s in SEEDS] for n in NETWORKS for f in FRACTIONS}
    rows = [[n, f, samples[f], s, f"{score:.3f}"] for (n, f, s), score in sorted(results.items())]
    ours, theirs = NETWORKS
    page = TEXT.format(
        total=len(digits),
        epochs=full,
        table=table(scores, samples, ours, theirs),
        verdict=verdict(scores, ours, theirs),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "runs.csv", ["network", "fraction", "samples", "seed", "top1"], rows)
    plot(scores, samples, out / "study.png")
    write_text(out / "README.md", page)


if __name__ == "__main__":
    run(main)
