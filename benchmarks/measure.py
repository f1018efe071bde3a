"""Measure speed and memory, every measurement in a process of its own:
python tools/benchmark.py network -c configs/convit/convit_tiny.yaml
"""

import argparse
import json
from collections.abc import Mapping

from benchmarks.speed import OURS, measure_in_child
from passl.cli.options import add_config_options, as_path, at_least, overrides, read_config
from passl.errors import ConfigError, RunError
from passl.logging import aligned
from passl.utils.config import Config, dotted

PARTS = ("inference", "training", "data")
HEAD = ("", "images/s", "process ms (low to high)", "wall ms (low to high)", "peak MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure speed and memory. The last line on stdout is the result as JSON."
    )
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    network = benchmarks.add_parser("network", help="inference, training and data of a config")
    add_config_options(network)
    network.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        help="some of them (default: all, with --size inference and training)",
    )
    network.add_argument("--size", type=at_least(1), nargs=2, metavar=("HEIGHT", "WIDTH"))
    exported = benchmarks.add_parser("exported", help="inference of an exported network")
    exported.add_argument("folder", type=as_path, help="what `passl export` wrote")
    exported.add_argument("--engine", default="paddle", help="paddle, onnxruntime or openvino")
    exported.add_argument("--precision", default="fp32", help="fp32, bf16 or int8")
    for subparser in (network, exported):
        subparser.add_argument("--batch", type=at_least(1), default=8, help="images of a step")
        subparser.add_argument("--threads", type=at_least(1), default=1, help="default: 1")
        subparser.add_argument(
            "--warmup", type=at_least(0), default=2, help="runs before those that count"
        )
        subparser.add_argument("--repeats", type=at_least(1), default=5, help="runs that are timed")
    args = parser.parse_args()
    measures = {"network": measure_network, "exported": measure_exported}
    print(json.dumps({"benchmark": args.benchmark, **measures[args.benchmark](args)}))


def measure_network(args: argparse.Namespace) -> dict[str, object]:
    cfg = read_config(args)
    check_keys(cfg)
    if args.size is not None and "data" in (args.parts or ()):
        raise ConfigError(
            "--size: the transforms fix the size of the images of data; change "
            "dataloader.train.dataset.transforms by -o instead"
        )
    parts = args.parts or (PARTS if args.size is None else ("inference", "training"))
    size = args.size or size_of(cfg)
    task = {"config": args.config, "overrides": overrides(args), "size": size}
    described = measure_in_child(OURS, {**task, "task": "describe"}, args.threads)
    print(
        f"{args.config}: {described['parameters']:,} parameters, {described['macs'] / 1e6:,.2f} M "
        f"multiply-accumulates at {size[0]} x {size[1]}"
    )
    rows = {}
    for part in parts:
        # An image alone shows the latency.
        batches = sorted({1, args.batch}) if part == "inference" else [args.batch]
        rows |= {f"{part}, batch {n}": {**task, "task": part, "batch": n} for n in batches}
    return {"config": args.config, "size": size, **described, **measure_rows(rows, args)}


def check_keys(cfg: Config) -> None:
    """Check names, keys and types. The data need not exist."""
    from passl.engine.check import TRAINING

    problems = list(TRAINING.problems(cfg))
    if problems:
        lines = [
            f"{cfg.origins.get(keys, cfg.file)}: {dotted(keys)}: {rule}" for keys, rule in problems
        ]
        raise ConfigError(*lines)


def size_of(cfg: Config) -> list[int]:
    """Height and width of the training images, else those that the network is made for."""
    from passl.data.transforms.evaluation import pair
    from passl.modeling.backbones import BACKBONES

    sizes = [node["size"] for node in cfg.dataloader.train.dataset.transforms if "size" in node]
    made_for = BACKBONES.arguments(cfg.model.architecture).get("img_size", 224)
    return list(pair(sizes[-1] if sizes else made_for))


def measure_exported(args: argparse.Namespace) -> dict[str, object]:
    from passl.deploy.engines import AUTO, check_engine, needed_files
    from passl.deploy.exported import read_folder

    check_engine(args.engine, args.precision, args.threads)
    if args.engine == AUTO:
        raise ConfigError("--engine auto: name the engine that is to be measured")
    description = read_folder(args.folder, needed_files(args.engine, args.precision))
    task = {"folder": str(args.folder), "engine": args.engine, "precision": args.precision}
    print(f"{args.folder}: {description.parameters:,} parameters, {args.engine}, {args.precision}")
    rows = {
        f"inference, batch {n}": {**task, "task": "exported", "batch": n}
        for n in sorted({1, args.batch})
    }
    return {**task, **measure_rows(rows, args)}


def measure_rows(
    rows: Mapping[str, Mapping[str, object]], args: argparse.Namespace
) -> dict[str, object]:
    """Measure each row and print a table, with the reason of each row that cannot run."""
    from passl.machine import processor, versions

    print(
        f"{args.threads} thread{'s' * (args.threads > 1)}; medians of {args.repeats} runs after "
        f"{args.warmup}; images/s of process time; memory over the idle process\n"
    )
    found: dict[str, dict[str, object]] = {}
    for name, task in rows.items():
        timing = {"warmup": args.warmup, "repeats": args.repeats}
        try:
            found[name] = measure_in_child(OURS, {**task, **timing}, args.threads)
        except RunError as error:
            found[name] = {"error": str(error)}
    print("\n".join(aligned([HEAD, *(cells(name, result) for name, result in found.items())])))
    for name, result in found.items():
        if "error" in result:
            print(f"{name}: cannot run: {result['error']}")
    if all("error" in result for result in found.values()):
        raise RunError("nothing could be measured")
    machine = {"processor": processor(), "versions": versions(["paddlepaddle", "numpy", "pillow"])}
    return {"threads": args.threads, **machine, "parts": found}


def cells(name: str, result: Mapping[str, object]) -> tuple[str, ...]:
    if "error" in result:
        return (name, "-", "-", "-", "-")
    spans = [
        f"{result[key]['median']:.1f} ({result[key]['low']:.1f} to {result[key]['high']:.1f})"
        for key in ("cpu_ms", "wall_ms")
    ]
    peak = "-" if result["peak_mib"] is None else f"{result['peak_mib']:,.0f}"
    return (name, f"{result['rate']:.4g}", *spans, peak)
