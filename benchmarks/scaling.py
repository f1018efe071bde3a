"""How training scales over processes: measured here, and predicted for more of them.

    python benchmarks/scaling.py measure digits/convit --ranks 1 2
    python benchmarks/scaling.py predict --step-ms 553 --gradient-mb 346 --batch 128 --between 24

`measure` runs `passl train --benchmark` with each number of processes, one thread each, in turn,
and compares the throughput with that of the smallest number. `predict` computes what a model
expects of a step; docs/scaling.md explains it and states its assumptions. Both print Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from passl.cli.dispatch import run  # noqa: E402
from passl.cli.options import add_override_option, as_path, at_least, overrides  # noqa: E402
from passl.errors import ConfigError, RunError  # noqa: E402

GOOD = 0.9
"""Least efficiency that counts as bound by computing."""
MIB = 2**20


# --------------------------------------------------------------------------------------------------
# The model
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Links:
    """How GPUs are connected. Bandwidths are bus bandwidths, as nccl-tests measure them.

    Args:
        per_node: GPUs of a node.
        within: bytes per second in a node.
        between: bytes per second of all network links of a node.
        within_latency: seconds of a hop in a node.
        between_latency: seconds of a hop between nodes.
        base_latency: seconds of any operation.
    """

    per_node: int = 8
    within: float = 200e9
    between: float = 192e9
    within_latency: float = 4e-6
    between_latency: float = 14e-6
    base_latency: float = 8.4e-6


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training step of one GPU.

    Args:
        step: seconds of a step of one GPU that does not communicate.
        gradient_bytes: that are averaged in a step.
        batch: images of a step of one GPU.
        backward: fraction of the step in which gradients become ready, one after the other.
        overlap: fraction of that in which reductions run beside it; 0 for Gloo.
        spread: standard deviation of a GPU's step, as a fraction of the step.
        bucket: bytes of a reduction.
        last_bucket: bytes of the last one, which nothing is left to overlap with.
        floor: least seconds of a step, however small its batch; else they are proportional to it.
        node_rate: images per second that the processors of a node prepare.
        storage_rate: images per second that the storage gives to all nodes.
    """

    step: float
    gradient_bytes: float
    batch: float
    backward: float = 2 / 3
    overlap: float = 1.0
    spread: float = 0.0
    bucket: float = 25 * MIB
    last_bucket: float = 1 * MIB
    floor: float = 0.0
    node_rate: float = math.inf
    storage_rate: float = math.inf


@dataclass(frozen=True)
class Prediction:
    """A step of many GPUs.

    Args:
        seconds: of a step.
        images: per second, of all.
        efficiency: `images` over those of as many GPUs that are as fast as one alone.
        reduction: seconds of all reductions of a step.
        exposed: of these, seconds that the backward pass does not hide.
        waiting: seconds until the slowest GPU is done, on average.
        data: seconds in which the data of a step is prepared, beside it.
        bound_by: what costs the most.
    """

    ranks: int
    seconds: float
    images: float
    efficiency: float
    reduction: float
    exposed: float
    waiting: float
    data: float
    bound_by: str


def all_reduce(size: float, ranks: int, links: Links) -> tuple[float, float]:
    """Seconds in which ranks add up `size` bytes each: by bandwidth, and by latency.

    The ring sends `2 (n - 1) / n` of the bytes over each link, in `2 (n - 1)` steps; the tree twice
    the bytes, in `2 ((g - 1) + log2 m)` steps for m nodes of g GPUs. The faster of both is taken,
    as NCCL does. The numbers of steps are those of NCCL's own model (src/graph/tuning.cc).
    """
    if ranks == 1:
        return 0.0, 0.0
    nodes = math.ceil(ranks / links.per_node)
    bus = links.within if nodes == 1 else min(links.within, links.between)
    hops = 2 * (nodes - 1)
    ring = (
        2 * (ranks - 1) / ranks * size / bus,
        links.base_latency
        + (2 * (ranks - 1) - hops) * links.within_latency
        + hops * links.between_latency,
    )
    tree = (
        2 * size / bus,
        links.base_latency
        + 2 * (min(ranks, links.per_node) - 1) * links.within_latency
        + 2 * math.ceil(math.log2(nodes)) * links.between_latency,
    )
    return min(ring, tree, key=sum)


def reductions(job: Job, ranks: int, links: Links) -> tuple[float, float, float]:
    """Seconds of all reductions of a step by bandwidth and by latency, and of the last of them."""
    last = min(job.last_bucket, job.gradient_bytes)
    rest = job.gradient_bytes - last
    count = math.ceil(rest / job.bucket)
    sizes = [*([rest / count] * count), last] if count else [last]
    found = [all_reduce(size, ranks, links) for size in sizes]
    return sum(f[0] for f in found), sum(f[1] for f in found), sum(found[-1])


def expected_maximum(count: int) -> float:
    """Mean of the largest of so many independent numbers of the standard normal distribution."""
    if count == 1:
        return 0.0
    normal, width = statistics.NormalDist(), 1e-2
    points = [width * (i + 0.5) for i in range(1000)]
    above = sum(1 - normal.cdf(x) ** count for x in points)
    below = sum(normal.cdf(-x) ** count for x in points)
    return width * (above - below)


def predict(job: Job, ranks: int, links: Links, global_batch: int | None = None) -> Prediction:
    """A step of `ranks` GPUs: that of one, the wait for the slowest, and what of the reductions the
    backward pass does not hide. Data is prepared beside that, and binds if it takes longer.

    Args:
        global_batch: images of a step of all GPUs; null for `job.batch` of each.

    Raises:
        ConfigError: several nodes are not full, or there are more GPUs than images.
    """
    if ranks > links.per_node and ranks % links.per_node:
        raise ConfigError(f"{ranks} ranks must be whole nodes of {links.per_node} (--per-node)")
    batch = job.batch if global_batch is None else global_batch / ranks
    if batch < 1:
        raise ConfigError(f"--global-batch {global_batch} has less than an image for {ranks} ranks")
    proportional = job.step * batch / job.batch
    own = replace(job, batch=batch, step=max(proportional, job.floor))
    bandwidth, latency, last = reductions(own, ranks, links)
    reduction = bandwidth + latency
    hidden = own.overlap * own.backward * own.step
    exposed = max(last, reduction - hidden) if hidden else reduction
    waiting = own.step * own.spread * expected_maximum(ranks)
    device = own.step + waiting + exposed
    of_node, of_storage = data = _data(own, ranks, links)
    seconds = max(device, *data)
    shares = {
        "bandwidth": exposed * bandwidth / (reduction or 1.0),
        "latency": exposed * latency / (reduction or 1.0),
        "slowest GPU": waiting,
        "small batch": own.step - proportional,
    }
    alone = max(job.step, *_data(job, 1, links)) / job.batch
    efficiency = alone * batch / seconds
    bound_by = "computing" if efficiency >= GOOD else max(shares, key=lambda share: shares[share])
    if max(data) > device:
        bound_by = "processors" if of_node >= of_storage else "storage"
    return Prediction(
        ranks,
        seconds,
        ranks * batch / seconds,
        efficiency,
        reduction,
        exposed,
        waiting,
        max(data),
        bound_by,
    )


def _data(job: Job, ranks: int, links: Links) -> tuple[float, float]:
    """Seconds in which a node prepares its images of a step, and in which all are read."""
    of_node = job.batch * min(ranks, links.per_node) / job.node_rate
    return of_node, job.batch * ranks / job.storage_rate


def table_of_predictions(found: Sequence[Prediction]) -> list[str]:
    lines = [
        "| GPUs | step, ms | images/s | efficiency | all reductions, ms | not hidden, ms | waiting "
        "for the slowest, ms | data, ms | bound by |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|:---|",
    ]
    for p in found:
        times = (p.reduction, p.exposed, p.waiting, p.data)
        cells = " | ".join(f"{1000 * seconds:,.1f}" for seconds in times)
        lines.append(
            f"| {p.ranks:,} | {1000 * p.seconds:,.1f} | {p.images:,.0f} | "
            f"{100 * p.efficiency:.0f} % | {cells} | {p.bound_by} |"
        )
    return lines


# --------------------------------------------------------------------------------------------------
# Measured
# --------------------------------------------------------------------------------------------------
def benchmark(config: str, changed: Sequence[str], ranks: int, steps: int) -> dict[str, Any]:
    """The result of `passl train --benchmark --json` with so many processes of one thread each."""
    program = [sys.executable, str(ROOT / "passl" / "__main__.py"), "launch", "train", config]
    options = ["--benchmark", str(steps), "--json", "--nproc_per_node", str(ranks)]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    done = subprocess.run(
        [*program, *options, *(("-o", *changed) if changed else ())],
        env={**os.environ, **{name: "1" for name in names}},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunError(f"{ranks} process(es) failed:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def table_of_measurements(found: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A row for each number of processes. Efficiency is the throughput of a process over that of
    one of the smallest number, each the median of its rounds; in brackets that of single rounds.

    Args:
        found: results of `benchmark` by number of processes, a round at a time.
    """
    lines = [
        "| processes | samples/s in all | of each | efficiency | step, ms | computing, ms | "
        "communicating, ms | adding up the gradients alone, ms | efficiency by the model |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    base = found[min(found)]

    def median(rows: Sequence[Mapping[str, Any]], *keys: str) -> float:
        values = list(rows)
        for key in keys:
            values = [value.get(key, 0.0) for value in values]
        return statistics.median(values)

    for ranks, rows in sorted(found.items()):
        each = "samples_per_second_per_rank"
        efficiency = median(rows, each) / median(base, each)
        rounds = [row[each] / other[each] for row, other in zip(rows, base, strict=True)]
        step = median(base, "step_ms", "mean")
        alone = median(rows, "all_reduce_ms", "median") if ranks > 1 else 0.0
        # Gloo's reductions end before the backward pass goes on.
        model = step / (step + alone)
        milliseconds = [
            median(rows, "step_ms", "mean"),
            median(rows, "parts_ms", "compute"),
            median(rows, "parts_ms", "comm"),
            alone,
        ]
        lines.append(
            f"| {ranks} | {median(rows, 'samples_per_second'):,.1f} | {median(rows, each):,.1f} | "
            f"{100 * efficiency:.0f} % ({100 * min(rounds):.0f} to {100 * max(rounds):.0f}) | "
            + " | ".join(f"{value:.1f}" for value in milliseconds)
            + f" | {100 * model:.0f} % |"
        )
    return lines


def measure(args: argparse.Namespace) -> None:
    found: dict[int, list[dict[str, Any]]] = {ranks: [] for ranks in args.ranks}
    for _ in range(args.rounds):
        for ranks in args.ranks:
            found[ranks].append(benchmark(args.config, overrides(args), ranks, args.steps))
    first = found[args.ranks[0]][0]
    print(
        f"{args.config}, {first['network']}, batch {first['batch']} of each process, one thread "
        f"each, {args.steps} steps, {args.rounds} rounds, on {first['device']} "
        f"({first['processor']}):\n"
    )
    print("\n".join(table_of_measurements(found)))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def job_of(args: argparse.Namespace) -> Job:
    """The step of the options, and for those that are not given, of the result of a benchmark.

    Raises:
        ConfigError: neither tells it.
    """
    given: dict[str, Any] = {}
    if args.benchmark is not None:
        try:
            result = json.loads(args.benchmark.read_text(encoding="utf-8"))
            world = result["world"]
            given = {
                "step": result["step_ms"]["mean"] / 1000,
                "gradient_bytes": result["gradient_bytes"],
                "batch": result["batch"],
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"--benchmark {args.benchmark}: not a result of `passl train --benchmark N --json` "
                f"({type(error).__name__}: {error})"
            ) from None
        if world != 1:
            raise ConfigError(
                f"--benchmark {args.benchmark}: measured with {world} processes; the model begins "
                "with one, which does not communicate"
            )
    if args.step_ms is not None:
        given["step"] = args.step_ms / 1000
    if args.gradient_mb is not None:
        given["gradient_bytes"] = 1e6 * args.gradient_mb
    if args.batch is not None:
        given["batch"] = args.batch
    missing = {"step": "--step-ms", "gradient_bytes": "--gradient-mb", "batch": "--batch"}
    names = [option for key, option in missing.items() if key not in given]
    if names:
        raise ConfigError(f"{', '.join(names)}: give them, or a result by --benchmark FILE")
    return Job(
        **given,
        backward=args.backward,
        overlap=args.overlap,
        spread=args.spread,
        bucket=args.bucket_mib * MIB,
        node_rate=args.node_rate,
        storage_rate=args.storage_rate,
        floor=args.floor_ms / 1000,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    measured = commands.add_parser("measure", help="run `passl train --benchmark` on this machine")
    measured.set_defaults(call=measure)
    measured.add_argument("config")
    positive = at_least(1)
    measured.add_argument("--ranks", type=positive, nargs="+", default=[1, 2], metavar="N")
    measured.add_argument("--steps", type=positive, default=30, help="default: 30")
    measured.add_argument("--rounds", type=positive, default=3, help="default: 3")
    measured.add_argument("--json", type=as_path, metavar="FILE", help="write all results")
    add_override_option(measured)
    expected = commands.add_parser("predict", help="compute what the model expects of GPUs")
    expected.set_defaults(call=_print_predictions)
    add_prediction_options(expected)
    args = parser.parse_args()
    args.call(args)


def add_prediction_options(parser: argparse.ArgumentParser) -> None:
    number = at_least(0, float)
    parser.add_argument("--benchmark", type=as_path, metavar="FILE", help="JSON of --benchmark N")
    links, job = Links(), Job(step=0, gradient_bytes=0, batch=1)
    for option, default, text in (
        ("--step-ms", None, "of one GPU that does not communicate"),
        ("--gradient-mb", None, "MB of gradients: 4 for each million parameters"),
        ("--within", links.within / 1e9, "bus bandwidth in a node, GB/s"),
        ("--between", links.between / 1e9, "bus bandwidth of all network links of a node, GB/s"),
        ("--within-latency", links.within_latency * 1e6, "microseconds of a hop in a node"),
        ("--between-latency", links.between_latency * 1e6, "microseconds of a hop between nodes"),
        ("--base-latency", links.base_latency * 1e6, "microseconds of any reduction"),
        ("--backward", job.backward, "fraction of a step that is its backward pass"),
        ("--overlap", job.overlap, "fraction of that beside which reductions run"),
        ("--spread", job.spread, "standard deviation of a GPU's step, as a fraction of it"),
        ("--bucket-mib", job.bucket / MIB, "MiB of a reduction"),
        ("--floor-ms", 1000 * job.floor, "least time of a step, however small its batch"),
        ("--node-rate", job.node_rate, "images/s that the processors of a node prepare"),
        ("--storage-rate", job.storage_rate, "images/s that the storage gives to all nodes"),
    ):
        shown = "" if default is None else f" (default: {default:.3g})"
        parser.add_argument(option, type=number, default=default, help=text + shown)
    parser.add_argument("--batch", type=at_least(1), help="images of a step of one GPU")
    parser.add_argument(
        "--global-batch", type=at_least(1), help="of all GPUs, instead of --batch each"
    )
    parser.add_argument("--per-node", type=at_least(1), default=links.per_node)
    powers = [1, *(2**power for power in range(3, 11))]
    parser.add_argument("--ranks", type=at_least(1), nargs="+", default=powers, metavar="N")


def _print_predictions(args: argparse.Namespace) -> None:
    for name in ("within", "between", "bucket_mib", "node_rate", "storage_rate"):
        if getattr(args, name) == 0:
            raise ConfigError(f"--{name.replace('_', '-')} 0: must be more than 0")
    job = job_of(args)
    if not job.step > 0:
        raise ConfigError("--step-ms: a step must take more than 0 ms")
    links = Links(
        per_node=args.per_node,
        within=args.within * 1e9,
        between=args.between * 1e9,
        within_latency=args.within_latency / 1e6,
        between_latency=args.between_latency / 1e6,
        base_latency=args.base_latency / 1e6,
    )
    found = [predict(job, ranks, links, args.global_batch) for ranks in args.ranks]
    print("\n".join(table_of_predictions(found)))


if __name__ == "__main__":
    run(main)
