"""Compare speed and memory with timm, transformers and OpenVINO, side by side:
python benchmarks/peers.py [--rows NAME ...] [--write docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout needs no installation

from benchmarks.speed import OURS, THEIRS, measure_in_child, rounded
from passl import __version__
from passl.check.photos import write_images
from passl.cli.dispatch import run
from passl.errors import ConfigError, RunError
from passl.io.files import write_text
from passl.machine import commit_of, processor, versions
from passl.utils.config import closest

Task = Mapping[str, Any]
CONFIGS = {"convit_tiny": "convit/convit_tiny", "cvt_13": "cvt/cvt_13_224"}
NAMES = {"convit_tiny": "ConViT-Ti", "cvt_13": "CvT-13"}
PEERS = {"convit_tiny": "timm", "cvt_13": "transformers"}
ENGINES = {"paddle": "Paddle Inference", "openvino": "OpenVINO"}
THEIR_PACKAGES = ("timm", "transformers", "openvino")
PACKAGES = ("paddlepaddle", "openvino", "paddle2onnx", "numpy", "pillow")
IMAGES = 32
TEXT = """\
# Benchmarks

Speed and memory beside timm ({timm}), transformers ({transformers}) and OpenVINO ({openvino}), on
one machine in one run. `make bench` writes this page up to the next heading, whatever the numbers
show.

* Machine: {processor}. {date}.
* Ours: {ours}.
* Theirs: {theirs}.
* Rounds: {rounds}. A round measures each side of each row once, one after the other, and rows that
  ask for the same thing share it; the next round begins with the other side. Every measurement is a
  process of its own, with one thread.
* Rates are images per second of process time: the median of several steps after a warm-up, and each
  side's best of the rounds, since other load on a machine only ever slows. Memory is the process's
  peak (VmHWM) less its memory once network, optimizer and batch exist: the median of the rounds.
* The ratio is ours over theirs; in brackets, the smallest and the largest of a single round. Higher
  rates are better, and less memory. The goal is the ratio that we want to hold.
* Weights and images are random. Training steps are those of the recipes: AdamW, label smoothing,
  drop path 0.1. bf16 is `amp: {{level: O1, dtype: bfloat16}}` here, and autocast there. Transforms
  read {images} synthetic JPEG files of 500 x 375 pixels.

{table}
`python tools/benchmark.py network -c CONFIG` measures any config, and
`python tools/benchmark.py exported FOLDER` what `tools/export.py` has made.
"""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        what: is compared, and with whom.
        ours, theirs: tasks of `benchmarks/ours.py` and `benchmarks/theirs.py`.
        goal: the ratio, ours over theirs, that is to be reached; null for none.
        quantity: the result that is compared: `rate` (at least the goal) or `peak_mib` (at most the
            goal).
    """

    what: str
    ours: Task
    theirs: Task
    goal: float | None
    quantity: str = "rate"

    @property
    def unit(self) -> str:
        return "images/s" if self.quantity == "rate" else "MiB"

    def verdict(self, ratio: float) -> str:
        if self.goal is None:
            return ""
        reached = ratio >= self.goal if self.quantity == "rate" else ratio <= self.goal
        return "reached" if reached else "**missed**"


# --------------------------------------------------------------------------------------------------
# What is compared
# --------------------------------------------------------------------------------------------------
def rows_of(work: Path) -> dict[str, Row]:
    """All comparisons. Their exported networks, graphs and images are in the folder `work`."""
    middle, large, one = steps(4, 384, 1, 3), steps(4, 512, 1, 2), steps(1, 1024, 1, 2)
    infer_fp32, infer_bf16 = ("convit_tiny", "paddle", "fp32"), ("convit_tiny", "paddle", "bf16")
    rows = {
        "train_convit_224": training("convit_tiny", steps(8), 1.0),
        "train_convit_384": training("convit_tiny", middle, 2.0),
        "train_convit_512": training("convit_tiny", large, 3.0),
        "train_memory_384": training("convit_tiny", middle, 0.35, "peak_mib"),
        "train_memory_512": training("convit_tiny", large, 0.3, "peak_mib"),
        "train_cvt_224": training("cvt_13", steps(8), 1.0),
        "infer_convit_fp32": inference(work, *infer_fp32, 2.2),
        "infer_convit_bf16": inference(work, *infer_bf16, 4.0),
        "infer_convit_paddle_openvino_fp32": inference(work, *infer_fp32, 1.0, "openvino"),
        "infer_convit_paddle_openvino_bf16": inference(work, *infer_bf16, 1.0, "openvino"),
    }
    for size, many, goal in ((224, steps(8), 1.0), (384, middle, 1.0)):
        row = training("convit_tiny", many, goal, precision="bf16")
        rows[f"train_convit_{size}_bf16"] = row
    rows["train_cvt_224_bf16"] = training("cvt_13", steps(8), 1.0, precision="bf16")
    for precision in ("fp32", "bf16"):
        for model, name in (("convit_tiny", "convit"), ("cvt_13", "cvt")):
            rows[f"train_{name}_224_{precision}_compiled"] = training(
                model, steps(8), 1.0, precision=precision, compiled=True
            )
        rows[f"infer_convit_{precision}_compiled"] = inference(
            work, "convit_tiny", "paddle", precision, None, "compiled", precision
        )
        rows[f"infer_convit_openvino_{precision}"] = inference(
            work, "convit_tiny", "openvino", precision, 1.0, "openvino"
        )
    for engine in ("paddle", "openvino"):
        name = "infer_cvt" if engine == "paddle" else "infer_cvt_openvino"
        rows[f"{name}_fp32"] = inference(work, "cvt_13", engine, "fp32", 1.15)
        rows[f"{name}_bf16"] = inference(work, "cvt_13", engine, "bf16", 2.2)
    timm = {"task": "inference", "model": "convit_tiny", **one}
    shown = "peak memory, an image of 1024 x 1024 through"
    return rows | {
        "transform_train": transforms(
            work, "reading and training transform of the ConViT recipe", "train", 1.5
        ),
        "transform_eval": transforms(work, "reading and evaluation transform", "val", 1.3),
        "infer_memory_1024": Row(
            f"{shown} exported ConViT-Ti; timm",
            {**exported(work, "convit_tiny", 1024, "paddle", "fp32"), **one},
            timm,
            0.2,
            "peak_mib",
        ),
        "infer_memory_1024_eager": Row(
            f"{shown} ConViT-Ti, not exported; timm",
            {**of_config("inference", "convit_tiny"), **one},
            timm,
            None,
            "peak_mib",
        ),
    }


def steps(batch: int, size: int = 224, warmup: int = 2, repeats: int = 5) -> Task:
    """The part of a task that says how much is computed."""
    return {"batch": batch, "size": [size, size], "warmup": warmup, "repeats": repeats}


def of_config(task: str, model: str) -> Task:
    return {"task": task, "config": CONFIGS[model], "overrides": ["device=cpu"]}


def exported(work: Path, model: str, size: int, engine: str, precision: str) -> Task:
    folder = str(work / f"{model}_{size}{'_onnx' * (engine == 'openvino')}")
    return {"task": "exported", "folder": folder, "engine": engine, "precision": precision}


def training(
    model: str,
    many: Task,
    goal: float | None,
    quantity: str = "rate",
    precision: str = "fp32",
    compiled: bool = False,
) -> Row:
    """A row of a training step, in one precision on both sides.

    Args:
        compiled: whether the peer's network is, by torch.compile.
    """
    where = f"{NAMES[model]} at {many['size'][0]}, batch {many['batch']}, {precision}"
    peer = f"{PEERS[model]}, {'compiled, ' * compiled}{precision}"
    ours = of_config("training", model)
    if precision == "bf16":
        ours["overrides"].append("amp={level: O1, dtype: bfloat16}")
    asked = {"precision": precision, "compiled": compiled}
    return Row(
        f"{'peak memory of a ' * (quantity != 'rate')}training step, {where}; {peer}",
        {**ours, **many},
        {"task": "training", "model": model, **asked, **many},
        goal,
        quantity,
    )


def inference(
    work: Path,
    model: str,
    engine: str,
    precision: str,
    goal: float | None,
    peer: str | None = None,
    theirs_in: str = "fp32",
) -> Row:
    """A row of an exported network.

    Args:
        peer: engine of the peer's graph, in the same precision; `compiled` for the peer's network
            under PyTorch, compiled; null for it as it is.
        theirs_in: precision of the peer's network under PyTorch.
    """
    theirs = {"task": "inference", "model": model, "precision": theirs_in, **steps(8)}
    beside = f"{PEERS[model]}, {theirs_in}"
    if peer == "compiled":
        theirs["compiled"] = True
        beside = f"{PEERS[model]}, compiled, {theirs_in}"
    elif peer is not None:
        theirs["task"] = peer
        theirs |= {"file": str(work / f"{model}.onnx"), "precision": precision}
        beside = f"{PEERS[model]}'s graph by {ENGINES[peer]}, {precision}"
    return Row(
        f"exported {NAMES[model]} by {ENGINES[engine]}, {precision}, batch 8; {beside}",
        {**exported(work, model, 224, engine, precision), **steps(8)},
        theirs,
        goal,
    )


def transforms(work: Path, what: str, part: str, goal: float) -> Row:
    # Many steps: they are short, and other load on a machine changes by the second.
    theirs = {"task": "images", "part": part, "folder": str(work / "images")}
    theirs |= steps(IMAGES, warmup=4, repeats=20)
    return Row(f"{what}; timm", {**theirs, **of_config("images", "convit_tiny")}, theirs, goal)


# --------------------------------------------------------------------------------------------------
# Measuring
# --------------------------------------------------------------------------------------------------
class Round:
    """The measurements of one round. Rows that ask for the same thing share it.

    Args:
        python: of the peers' environment.
        theirs_first: whether the peer's side of a row is measured first.
    """

    def __init__(self, python: Path, theirs_first: bool):
        self.python, self.theirs_first = python, theirs_first
        self._measured: dict[str, dict[str, Any]] = {}

    def pair(self, row: Row) -> tuple[float, float]:
        """Ours and theirs."""
        if self.theirs_first:
            self._measure(THEIRS, row.theirs)
        ours = self._measure(OURS, row.ours)[row.quantity]
        theirs = self._measure(THEIRS, row.theirs)[row.quantity]
        if not ours or not theirs:
            raise RunError(f"{row.quantity} is {ours} and {theirs}, which has no ratio")
        return ours, theirs

    def _measure(self, script: Path, task: Task) -> dict[str, Any]:
        key = f"{script} {json.dumps(task)}"
        if key not in self._measured:
            for path in (task.get("folder"), task.get("file")):
                if path is not None and not Path(path).exists():
                    make(Path(path), self.python)
            python = sys.executable if script == OURS else self.python
            self._measured[key] = measure_in_child(script, task, python=python)
        return self._measured[key]


def make(path: Path, python: Path) -> None:
    """Make images, a peer's graph MODEL.onnx, or an exported folder MODEL_SIZE, MODEL_SIZE_onnx."""
    if path.name == "images":
        write_images(path, IMAGES)
    elif path.suffix == ".onnx":
        task = {"task": "graph", "model": path.stem, "file": str(path), **steps(8)}
        measure_in_child(THEIRS, task, python=python)
    else:
        model, _, size = path.name.removesuffix("_onnx").rpartition("_")
        task = {**of_config("export", model), "folder": str(path), **steps(8, int(size))}
        measure_in_child(OURS, {**task, "onnx": path.name.endswith("_onnx")})


def compare(rows: Mapping[str, Row], rounds: int, python: Path) -> dict[str, dict[str, Any]]:
    """The result of each row: both sides' values and the ratios, or an error."""
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    errors: dict[str, str] = {}
    for number in range(rounds):
        of_round = Round(python, theirs_first=number % 2 == 1)
        for name, row in rows.items():
            if name in errors:
                continue
            try:
                pairs[name].append(of_round.pair(row))
            except RunError as error:
                errors[name] = str(error)
            else:
                ours, theirs = pairs[name][-1]
                print(f"round {number + 1}: {name} {ours:g} : {theirs:g}", flush=True)
    return {
        name: {"error": errors[name]} if name in errors else result(row, pairs[name])
        for name, row in rows.items()
    }


def result(row: Row, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    of_rounds = max if row.quantity == "rate" else statistics.median
    ours, theirs = (of_rounds(side) for side in zip(*pairs, strict=True))
    return {
        "ours": rounded(ours),
        "theirs": rounded(theirs),
        "unit": row.unit,
        "ratio": rounded(ours / theirs),
        "of_rounds": [rounded(one / other) for one, other in pairs],
        "goal": row.goal,
        "verdict": row.verdict(ours / theirs),
    }


# --------------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------------
def table(rows: Mapping[str, Row], results: Mapping[str, Mapping[str, Any]]) -> str:
    """In Markdown, a line for each row, then why rows could not run."""
    lines = ["| | ours | theirs | ratio | goal | |", "|:---|---:|---:|---:|---:|:---|"]
    notes = []
    for name, row in rows.items():
        found = results[name]
        bound = "at least" if row.quantity == "rate" else "at most"
        goal = "" if row.goal is None else f"{bound} {row.goal:g}"
        if "error" in found:
            lines.append(f"| {row.what} | | | cannot run | {goal} | |")
            notes.append(f"* {row.what}: cannot run: {found['error']}")
            continue
        sides = (f"{found[side]:,.4g} {row.unit}" for side in ("ours", "theirs"))
        low, high = min(found["of_rounds"]), max(found["of_rounds"])
        ratio = f"{found['ratio']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {' | '.join([row.what, *sides, ratio, goal, found['verdict']])} |")
    return "\n".join([*lines, "", *notes, ""] if notes else [*lines, ""])


def write_page(path: Path, known: Mapping[str, Any], shown: str) -> None:
    """Write a page, and keep the old one from its second heading on, which is written by hand."""
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    _, heading, by_hand = old.partition("\n## ")
    listed = {
        side: ", ".join(f"{name} {version}" for name, version in known[side].items())
        for side in ("ours", "theirs")
    }
    peers = {name: known["theirs"].get(name, "not there") for name in THEIR_PACKAGES}
    text = TEXT.format(**{**known, **listed, **peers}, table=shown, images=IMAGES)
    write_text(path, text + heading + by_hand)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compare speed and memory with the peers. The last line on stdout is the "
        "result as JSON."
    )
    names = list(rows_of(Path()))
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME", default=names, help=f"of {', '.join(names)}"
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="write the result as a page")
    parser.add_argument(
        "--peers",
        type=Path,
        default=ROOT / ".venv-bench" / "bin" / "python",
        metavar="PYTHON",
        help="of the peers' environment",
    )
    args = parser.parse_args()
    check(args, names)
    commit = commit_of(ROOT)
    changes = ", with changes" if commit["changed"] else ""
    version = f"{__version__} (commit {(commit['commit'] or 'unknown')[:7]}{changes})"
    known = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "ours": {"passl": version, **versions(PACKAGES)},
        "theirs": measure_in_child(THEIRS, {"task": "packages"}, python=args.peers),
        "rounds": args.rounds,
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: row for name, row in rows_of(Path(folder)).items() if name in args.rows}
        results = compare(rows, args.rounds, args.peers)
    shown = table(rows, results)
    print(f"\n{shown}")
    if args.write is not None:
        write_page(args.write, known, shown)
        print(args.write)
    print(json.dumps({"benchmark": "peers", **known, "rows": results}))


def check(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Check the options before an hour is spent."""
    for name in args.rows:
        if name not in names:
            raise ConfigError(f"--rows {name}: there is no such row{closest(name, names)}")
    if args.rounds < 1:
        raise ConfigError(f"--rounds {args.rounds} must be at least 1")
    if not args.peers.is_file():
        raise ConfigError(f"--peers {args.peers}: does not exist; `make bench` installs the peers")
    if args.write is not None and not args.write.absolute().parent.is_dir():
        raise ConfigError(f"--write {args.write}: the folder {args.write.parent} does not exist")


if __name__ == "__main__":
    run(main)
