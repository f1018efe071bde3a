"""Compare speed and memory with timm, transformers and OpenVINO, side by side:
python benchmarks/peers.py [--rows NAME ...] [--write docs/benchmarks.md]
"""

import argparse
import datetime
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation

from benchmarks.processes import OURS, THEIRS, check_cpu, measure_in_child
from benchmarks.rows import IMAGES, ROOT, ROWS, WORK, Row, Task, files
from passl.cli.dispatch import run
from passl.errors import ConfigError, RunError

PEERS = ROOT / ".venv-bench" / "bin" / "python"
PACKAGES = ("paddlepaddle", "openvino", "paddle2onnx", "numpy", "pillow")
TEXT = """\
# Benchmarks

Speed and memory beside timm ({timm}), transformers ({transformers}) and OpenVINO ({openvino}), on
one machine in one run. `make bench` writes this page up to the next heading, whatever the numbers
show.

* Machine: {processor}. {date}.
* Ours: {ours}.
* Theirs: {theirs}.
* {rounds}.
  A round measures each side of each row once, one after the other, and rows that ask for the same
  thing share it; the next round begins with the other side. Every measurement is a process of its
  own, with one thread{cpu}.
* Rates are images per second of process time: the median of several steps after a warm-up, and each
  side's best of the rounds, since other load on a machine only ever slows. Memory is the process's
  peak (VmHWM) less its memory once network, optimizer and batch exist: the median of the rounds.
* The ratio is ours over theirs; in brackets, the smallest and the largest of a single round. Higher
  rates are better, and less memory. The goal is the ratio that we want to hold.
* Weights and images are random. Training steps are those of the recipes: AdamW, label smoothing,
  drop path 0.1, float32. Transforms read {images} synthetic JPEG files of 500 x 375 pixels.

{table}{notes}
`python tools/benchmark.py network -c CONFIG` measures any config, and
`python tools/benchmark.py exported FOLDER` what `tools/export.py` has made.
"""


class Bench:
    """Measures rows, round by round.

    Args:
        work: folder of exported networks, graphs and images.
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
        images=IMAGES,
        **{name: their.get(name, "not there") for name in ("timm", "transformers", "openvino")},
    )


def by_hand(path: Path) -> str:
    """The part of a page from its second heading on, which is written by hand."""
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
    """The version of passl, and its commit if it is a checkout."""
    from passl import __version__
    from passl.machine import commit_of

    found = commit_of(ROOT)
    if found["commit"] is None:
        return __version__
    changes = ", with changes" if found["changed"] else ""
    return f"{__version__} (commit {found['commit'][:7]}{changes})"


def check(args: argparse.Namespace) -> None:
    """Check the options before an hour is spent."""
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
