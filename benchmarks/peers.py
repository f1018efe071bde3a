"""Compare speed and memory with timm, transformers and OpenVINO, side by side:
python benchmarks/peers.py [--rows NAME ...] [--write docs/benchmarks.md]
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation

from benchmarks.processes import OURS, THEIRS, check_cpu, measure_in_child
from passl.cli.dispatch import run
from passl.errors import ConfigError, RunError

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-bench" / "bin" / "python"
CONVIT, CVT = ROOT / "configs/convit/convit_tiny.yaml", ROOT / "configs/cvt/cvt_13_224.yaml"
Task = Mapping[str, object]

PACKAGES = ("paddlepaddle", "openvino", "paddle2onnx", "numpy", "pillow")
WORK = "{work}"  # stands for the folder of exported networks, graphs and pictures
PICTURES = 32
GRAPH = f"{WORK}/convit_tiny.onnx"
TEXT = """\
# Benchmarks

Speed and memory beside timm ({timm}), transformers ({transformers}) and OpenVINO ({openvino}), on
one machine in one run. `make bench` writes this page as far as the next heading, and these are its
numbers, whatever they show.

* Machine: {processor}. {date}.
* Ours: {ours}.
* Theirs: {theirs}.
* {rounds}.
  A round measures each side of each row once, one after the other, and rows that ask for the same
  thing share it; the next round begins with the other side. Every measurement is a process of its
  own, with one thread{cpu}.
* Rates are images per second of process time; of several steps after a warm-up the median, and of
  the rounds each side's best: what else goes on in a machine only ever slows. Memory is what the
  operating system counts as the process's peak (VmHWM), less what the process has when network,
  optimizer and batch are there; of the rounds the median.
* The ratio is ours over theirs; in brackets, the smallest and the largest of a single round. Of
  rates more is better, of memory less. The goal is what we want to hold.
* Weights and images are random. Training steps are those of the recipes: AdamW, label smoothing,
  drop path 0.1, float32. Pictures are {pictures} made-up JPEG files of 500 x 375 pixels.

{table}{notes}
`python tools/benchmark.py network -c CONFIG` measures any config, and
`python tools/benchmark.py exported FOLDER` what `tools/export.py` has made.
"""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        what: is compared, and with whom.
        ours, theirs: tasks of `benchmarks`.
        goal: the ratio, ours over theirs, that is to be reached; null for none.
        quantity: what of the measurement is compared: `rate` (at least the goal) or `peak_mib` (at
            most the goal).
    """

    what: str
    ours: Task
    theirs: Task
    goal: float | None
    quantity: str = "rate"

    @property
    def unit(self) -> str:
        return "images/s" if self.quantity == "rate" else "MiB"

    def is_reached(self, ratio: float) -> bool:
        assert self.goal is not None
        return ratio >= self.goal if self.quantity == "rate" else ratio <= self.goal


# --------------------------------------------------------------------------------------------------
# What is compared
# --------------------------------------------------------------------------------------------------
def timing(batch: int, size: int = 224, warmup: int = 2, repeats: int = 5) -> Task:
    return {"batch": batch, "size": [size, size], "warmup": warmup, "repeats": repeats}


def ours(task: str, config: Path = CONVIT, **timing: object) -> Task:
    return {"task": task, "config": str(config), "overrides": ["device=cpu"], **timing}


def theirs(task: str, model: str = "convit_tiny", **timing: object) -> Task:
    return {"task": task, "model": model, **timing}


def exported(name: str, precision: str = "fp32", engine: str = "paddle", **timing: object) -> Task:
    task = {"task": "exported", "folder": f"{WORK}/{name}", "engine": engine}
    return {**task, "precision": precision, **timing}


def transformed(part: str) -> tuple[Task, Task]:
    section = f"dataloader.{part}"
    overrides = [
        f"{section}.dataset.dataroot={WORK}/pictures",
        f"{section}.sampler.batch_size=1",
        f"{section}.loader.num_workers=0",
    ]
    # Many steps: they are short, and what a processor's neighbours do comes and goes by the second.
    common = {**timing(PICTURES, warmup=4, repeats=20), "task": "pictures", "part": part}
    return (
        {**common, "config": str(CONVIT), "overrides": overrides},
        {**common, "folder": f"{WORK}/pictures"},
    )


MIDDLE, LARGE = timing(4, 384, 1, 3), timing(4, 512, 1, 2)
PICTURE = timing(1, 1024, 1, 2)
ROWS = {
    "train_convit_224": Row(
        "training step, ConViT-Ti at 224, batch 8; timm",
        ours("training", **timing(8)),
        theirs("training", **timing(8)),
        1.0,
    ),
    "train_convit_384": Row(
        "training step, ConViT-Ti at 384, batch 4; timm",
        ours("training", **MIDDLE),
        theirs("training", **MIDDLE),
        2.0,
    ),
    "train_convit_512": Row(
        "training step, ConViT-Ti at 512, batch 4; timm",
        ours("training", **LARGE),
        theirs("training", **LARGE),
        3.0,
    ),
    "train_memory_384": Row(
        "peak memory of the training step at 384; timm",
        ours("training", **MIDDLE),
        theirs("training", **MIDDLE),
        0.35,
        "peak_mib",
    ),
    "train_memory_512": Row(
        "peak memory of the training step at 512; timm",
        ours("training", **LARGE),
        theirs("training", **LARGE),
        0.3,
        "peak_mib",
    ),
    "train_cvt_224": Row(
        "training step, CvT-13 at 224, batch 8; transformers",
        ours("training", CVT, **timing(8)),
        theirs("training", "cvt_13", **timing(8)),
        1.0,
    ),
    "infer_convit_fp32": Row(
        "exported ConViT-Ti, fp32, batch 8; timm, fp32",
        exported("convit_tiny", **timing(8)),
        theirs("inference", **timing(8)),
        2.2,
    ),
    "infer_convit_bf16": Row(
        "exported ConViT-Ti, bf16, batch 8; timm, fp32",
        exported("convit_tiny", "bf16", **timing(8)),
        theirs("inference", **timing(8)),
        4.0,
    ),
    "infer_convit_paddle_openvino_fp32": Row(
        "exported ConViT-Ti by Paddle Inference, fp32, batch 8; timm's graph by OpenVINO, fp32",
        exported("convit_tiny", **timing(8)),
        theirs("openvino", file=GRAPH, precision="fp32", **timing(8)),
        1.0,
    ),
    "infer_convit_paddle_openvino_bf16": Row(
        "exported ConViT-Ti by Paddle Inference, bf16, batch 8; timm's graph by OpenVINO, bf16",
        exported("convit_tiny", "bf16", **timing(8)),
        theirs("openvino", file=GRAPH, precision="bf16", **timing(8)),
        1.0,
    ),
    "infer_convit_openvino_fp32": Row(
        "exported ConViT-Ti by OpenVINO, fp32, batch 8; timm's graph by OpenVINO, fp32",
        exported("convit_tiny_onnx", engine="openvino", **timing(8)),
        theirs("openvino", file=GRAPH, precision="fp32", **timing(8)),
        1.0,
    ),
    "infer_convit_openvino_bf16": Row(
        "exported ConViT-Ti by OpenVINO, bf16, batch 8; timm's graph by OpenVINO, bf16",
        exported("convit_tiny_onnx", "bf16", "openvino", **timing(8)),
        theirs("openvino", file=GRAPH, precision="bf16", **timing(8)),
        1.0,
    ),
    "infer_cvt_fp32": Row(
        "exported CvT-13, fp32, batch 8; transformers, fp32",
        exported("cvt_13", **timing(8)),
        theirs("inference", "cvt_13", **timing(8)),
        1.15,
    ),
    "infer_cvt_bf16": Row(
        "exported CvT-13, bf16, batch 8; transformers, fp32",
        exported("cvt_13", "bf16", **timing(8)),
        theirs("inference", "cvt_13", **timing(8)),
        2.2,
    ),
    "infer_cvt_openvino_fp32": Row(
        "exported CvT-13 by OpenVINO, fp32, batch 8; transformers, fp32",
        exported("cvt_13_onnx", engine="openvino", **timing(8)),
        theirs("inference", "cvt_13", **timing(8)),
        1.15,
    ),
    "infer_cvt_openvino_bf16": Row(
        "exported CvT-13 by OpenVINO, bf16, batch 8; transformers, fp32",
        exported("cvt_13_onnx", "bf16", "openvino", **timing(8)),
        theirs("inference", "cvt_13", **timing(8)),
        2.2,
    ),
    "transform_train": Row(
        "reading and training transform of the ConViT recipe; timm", *transformed("train"), 1.5
    ),
    "transform_eval": Row("reading and evaluation transform; timm", *transformed("val"), 1.3),
    "infer_memory_1024": Row(
        "peak memory, a picture of 1024 x 1024 through exported ConViT-Ti; timm",
        exported("convit_tiny_1024", **PICTURE),
        theirs("inference", **PICTURE),
        0.2,
        "peak_mib",
    ),
    "infer_memory_1024_eager": Row(
        "peak memory, a picture of 1024 x 1024 through ConViT-Ti, not exported; timm",
        ours("inference", **PICTURE),
        theirs("inference", **PICTURE),
        None,
        "peak_mib",
    ),
}


def files(peers: Path) -> dict[str, Callable[[Path], object]]:
    """What tasks need, by its name in the work folder, and how it is made."""

    def export(config: Path, size: int, onnx: bool = False) -> Callable[[Path], object]:
        task = ours("export", config, onnx=onnx, **timing(8, size))
        return lambda path: measure_in_child(OURS, {**task, "folder": str(path)})

    def graph(path: Path) -> object:
        task = theirs("graph", **timing(8))
        return measure_in_child(THEIRS, {**task, "file": str(path)}, python=peers)

    def pictures(path: Path) -> object:
        from benchmarks.synthetic import write_pictures

        return write_pictures(path, PICTURES)

    return {
        "convit_tiny": export(CONVIT, 224),
        "convit_tiny_onnx": export(CONVIT, 224, onnx=True),
        "convit_tiny_1024": export(CONVIT, 1024),
        "cvt_13": export(CVT, 224),
        "cvt_13_onnx": export(CVT, 224, onnx=True),
        "convit_tiny.onnx": graph,
        "pictures": pictures,
    }


# --------------------------------------------------------------------------------------------------
# The comparison
# --------------------------------------------------------------------------------------------------
class Bench:
    """Measures rows, round by round.

    Args:
        work: folder of exported networks, graphs and pictures.
        peers: the Python of the peers' environment.
        cpu: the only processor to use; null for all.
        quick: fewer steps of each measurement.
    """

    def __init__(self, work: Path, peers: Path, cpu: int | None, quick: bool):
        self.work, self.peers, self.cpu, self.quick = work, peers, cpu, quick
        self._made: dict[str, str | None] = {}  # name of a file -> what went wrong

    def compare(self, rows: Mapping[str, Row], rounds: int) -> dict[str, dict[str, object]]:
        """The result of each row: both sides' medians and the ratios, or an error."""
        pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        errors: dict[str, str] = {}
        for number in range(rounds):
            measured: dict[str, Mapping[str, object]] = {}  # rows may share a measurement
            for name, row in rows.items():
                if name in errors:
                    continue
                try:
                    pairs[name].append(self._pair(row, measured, number % 2 == 1))
                except RunError as error:
                    errors[name] = str(error)
                else:
                    one, other = pairs[name][-1]
                    print(f"round {number + 1}: {name} {one:g} : {other:g}", flush=True)
        return {
            name: {"error": errors[name]} if name in errors else _result(row, pairs[name])
            for name, row in rows.items()
        }

    def _pair(
        self, row: Row, measured: dict[str, Mapping[str, object]], theirs_first: bool
    ) -> tuple[float, float]:
        sides = {"ours": (OURS, row.ours), "theirs": (THEIRS, row.theirs)}
        order = ("theirs", "ours") if theirs_first else ("ours", "theirs")
        found = {side: self._measure(*sides[side], measured) for side in order}
        values = [found[side][row.quantity] for side in sides]
        for side, value in zip(sides, values, strict=True):
            if not isinstance(value, int | float) or value <= 0:
                raise RunError(f"{side}: {row.quantity} is {value}, which has no ratio")
        return tuple(values)

    def _measure(
        self, script: Path, task: Task, measured: dict[str, Mapping[str, object]]
    ) -> Mapping[str, object]:
        text = json.dumps(task)
        if text not in measured:
            for name, make in files(self.peers).items():
                if f'{WORK}/{name}"' in text:
                    self._make(name, make)
            ready = json.loads(text.replace(WORK, str(self.work)))
            if self.quick:
                ready |= {"warmup": 1, "repeats": 2}
            python = {} if script == OURS else {"python": self.peers}
            measured[text] = measure_in_child(script, ready, cpu=self.cpu, **python)
        return measured[text]

    def _make(self, name: str, make: Callable[[Path], object]) -> None:
        if name not in self._made:
            try:
                make(self.work / name)
                self._made[name] = None
            except RunError as error:
                self._made[name] = f"{name} cannot be made: {error}"
        wrong = self._made[name]
        if wrong is not None:
            raise RunError(wrong)


def _result(row: Row, pairs: Sequence[tuple[float, float]]) -> dict[str, object]:
    from benchmarks.speed import rounded

    of_rounds = max if row.quantity == "rate" else statistics.median
    ours, theirs = (of_rounds(side) for side in zip(*pairs, strict=True))
    ratios = [one / other for one, other in pairs]
    found = {
        "ours": rounded(ours),
        "theirs": rounded(theirs),
        "unit": row.unit,
        "ratio": rounded(ours / theirs),
        "of_rounds": [rounded(ratio) for ratio in ratios],
    }
    if row.goal is not None:
        found |= {"goal": row.goal, "reached": row.is_reached(ours / theirs)}
    return found


def table(rows: Mapping[str, Row], results: Mapping[str, Mapping[str, object]]) -> str:
    """In Markdown, a line for each row that ran."""
    lines = ["| | ours | theirs | ratio | goal | |", "|:---|---:|---:|---:|---:|:---|"]
    for name, row in rows.items():
        result = results[name]
        if "error" in result:
            lines.append(f"| {row.what} | | | cannot run | {_goal(row)} | |")
            continue
        rounds = result["of_rounds"]
        sides = (f"{result[side]:,.4g} {row.unit}" for side in ("ours", "theirs"))
        span = f"{result['ratio']:.2f} ({min(rounds):.2f} to {max(rounds):.2f})"
        verdict = "" if row.goal is None else "reached" if result["reached"] else "**missed**"
        cells = (row.what, *sides, span, _goal(row), verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    return f"{'at least' if row.quantity == 'rate' else 'at most'} {row.goal:g}"


def notes(rows: Mapping[str, Row], results: Mapping[str, Mapping[str, object]]) -> str:
    """Why rows could not run."""
    lines = [
        f"* {row.what}: cannot run: {results[name]['error']}\n"
        for name, row in rows.items()
        if "error" in results[name]
    ]
    return "".join(["\n", *lines] if lines else [])


def page(
    rows: Mapping[str, Row],
    results: Mapping[str, Mapping[str, object]],
    known: Mapping[str, object],
    rounds: int,
    quick: bool,
    cpu: int | None,
) -> str:
    def listed(versions: Mapping[str, str]) -> str:
        return ", ".join(f"{name} {version}" for name, version in versions.items())

    their = known["their_versions"]
    return TEXT.format(
        table=table(rows, results),
        notes=notes(rows, results),
        processor=known["processor"],
        date=known["date"],
        ours=listed(known["our_versions"]),
        theirs=listed(their),
        rounds="One quick round, of few steps" if quick else f"Rounds: {rounds}",
        cpu="" if cpu is None else " on one processor",
        pictures=PICTURES,
        **{name: their.get(name, "not there") for name in ("timm", "transformers", "openvino")},
    )


def by_hand(path: Path) -> str:
    """What a page says from its second heading on, which is nobody's measurement."""
    if not path.is_file():
        return ""
    _, heading, text = path.read_text(encoding="utf-8").partition("\n## ")
    return heading + text


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compare speed and memory with the peers. The last line on stdout is the "
        "result as JSON."
    )
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME", default=list(ROWS), help=f"of {', '.join(ROWS)}"
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--quick", action="store_true", help="one round of few steps")
    parser.add_argument("--cpu", type=int, metavar="N", help="the only processor to use")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="write the result as a page")
    parser.add_argument(
        "--peers", type=Path, default=PEERS, metavar="PYTHON", help="of the peers' environment"
    )
    args = parser.parse_args()
    check(args)

    from passl.io.files import write_text
    from passl.machine import processor, versions

    rounds = 1 if args.quick else args.rounds
    rows = {name: ROWS[name] for name in args.rows}
    known = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "our_versions": {"passl": state(), **versions(PACKAGES)},
        "their_versions": measure_in_child(THEIRS, {"task": "packages"}, python=args.peers),
    }
    with tempfile.TemporaryDirectory() as folder:
        results = Bench(Path(folder), args.peers, args.cpu, args.quick).compare(rows, rounds)
    print()
    print(table(rows, results), notes(rows, results), sep="")
    if args.write is not None:
        text = page(rows, results, known, rounds, args.quick, args.cpu)
        write_text(args.write, text + by_hand(args.write))
        print(args.write)
    print(json.dumps({"benchmark": "peers", **known, "rounds": rounds, "rows": results}))


def state() -> str:
    """Which passl this is: its version, and its commit where there is one."""
    from passl import __version__

    describe = ["git", "describe", "--always", "--exclude=*", "--dirty=, with changes"]
    try:
        done = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__} (commit {done.stdout.strip()})"


def check(args: argparse.Namespace) -> None:
    """What is wrong with the options, before an hour is spent."""
    from passl.utils.config import closest

    for name in args.rows:
        if name not in ROWS:
            raise ConfigError(f"--rows {name}: there is no such row{closest(name, list(ROWS))}")
    if args.rounds < 1:
        raise ConfigError(f"--rounds {args.rounds} must be at least 1")
    if not args.peers.is_file():
        raise ConfigError(f"--peers {args.peers}: does not exist; `make bench` installs the peers")
    if args.write is not None and not args.write.absolute().parent.is_dir():
        raise ConfigError(f"--write {args.write}: the folder {args.write.parent} does not exist")
    check_cpu(args.cpu)


if __name__ == "__main__":
    run(main)
