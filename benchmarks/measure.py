"""Measure speed and memory, every measurement in a process of its own:
python tools/benchmark.py network -c configs/convit/convit_tiny.yaml
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.processes import OURS, check_cpu, measure_in_child
from passl.cli.dispatch import run
from passl.cli.options import add_config_options, as_path, overrides, read_config
from passl.errors import ConfigError, RunError
from passl.logging import aligned
from passl.utils.config import Config, dotted

WITHOUT_DATA, WITH_DATA = ("inference", "training"), ("data", "training_with_data")
PARTS = (*WITHOUT_DATA, *WITH_DATA)
IMAGES = 64  # that --synthetic writes, if a batch is not larger
HEAD = ("", "images/s", "process ms (low to high)", "wall ms (low to high)", "peak MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure speed and memory. The last line on stdout is the result as JSON."
    )
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    network = benchmarks.add_parser("network", help="training, inference and data of a config")
    add_network_options(network)
    exported = benchmarks.add_parser("exported", help="inference of an exported network")
    exported.add_argument("folder", type=as_path, help="what `passl export` wrote")
    exported.add_argument("--engine", default="paddle", help="paddle, onnxruntime or openvino")
    exported.add_argument("--precision", default="fp32", help="fp32 or bf16")
    for subparser in (network, exported):
        subparser.add_argument("--batch", type=int, default=8, metavar="B", help="images of a step")
        subparser.add_argument("--threads", type=int, default=1, help="default: 1")
        subparser.add_argument("--cpu", type=int, help="the only processor to use")
        subparser.add_argument("--warmup", type=int, default=2, help="runs before those that count")
        subparser.add_argument("--repeats", type=int, default=5, help="runs that are timed")
    convert = benchmarks.add_parser("convert", help="memory and time of converting a weight file")
    convert.add_argument(
        "--model", default="cvt_w24_384", help="a published variant (random weights)"
    )
    args = parser.parse_args()
    measures = {
        "network": measure_network,
        "exported": measure_exported,
        "convert": measure_convert,
    }
    print(json.dumps(measures[args.benchmark](args)))


def add_network_options(network: argparse.ArgumentParser) -> None:
    add_config_options(network)
    network.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        metavar="PART",
        help=f"some of {', '.join(PARTS)} (default: all, with --size the first two)",
    )
    network.add_argument(
        "--size", type=int, nargs="+", metavar="PIXELS", help="side, or height and width"
    )
    network.add_argument(
        "--by-module",
        type=int,
        nargs="?",
        const=2,
        metavar="DEPTH",
        help="time, parameters and multiply-accumulates of each module as well; DEPTH is how many "
        "parts their names have (default 2: blocks of a ConViT, stages of a CvT)",
    )
    network.add_argument(
        "--synthetic",
        action="store_true",
        help="read synthetic images of 500 x 375 pixels instead of the config's",
    )
    network.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that read ahead; the process time then leaves reading out (default: 0)",
    )


# --------------------------------------------------------------------------------------------------
# A config
# --------------------------------------------------------------------------------------------------
def measure_network(args: argparse.Namespace) -> dict[str, object]:
    check_counts(args)
    cfg = read_config(args)
    check_keys(cfg)
    parts, size = parts_of(args), size_of(args, cfg)
    task = {**timing_of(args), "config": args.config, "batch": args.batch, "size": size}
    task["overrides"] = overrides(args)
    result = {"benchmark": "network", "config": args.config, "batch": args.batch, "size": size}
    result |= {"threads": args.threads, **machine()}
    result |= measure_in_child(OURS, {**task, "task": "describe"}, args.threads, args.cpu)
    print(
        f"{args.config}: {result['parameters']:,} parameters, {in_words(result['macs'])} "
        f"multiply-accumulates at {size[0]} x {size[1]}"
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = {}
        if "inference" in parts and args.batch != 1:
            rows["inference, batch 1"] = {**task, "task": "inference", "batch": 1}
        for part in parts:
            more = data_overrides(args, Path(folder)) if part in WITH_DATA else []
            pairs = [*overrides(args), *more]
            name = f"{part.replace('_', ' ')}, batch {args.batch}"
            rows[name] = {**task, "task": part, "overrides": pairs}
        result["parts"] = measure_rows(rows, args)
    if args.by_module is not None:
        module_task = {**task, "task": "modules", "depth": args.by_module}
        found = measure_in_child(OURS, module_task, args.threads, args.cpu)
        print_modules(found)
        result |= {"modules": found["modules"]}
    return result


def check_keys(cfg: Config) -> None:
    """Check names, keys and types. The data need not exist."""
    from passl.engine.check import TRAINING

    problems = list(TRAINING.problems(cfg))
    if problems:
        lines = [
            f"{cfg.origins.get(keys, cfg.file)}: {dotted(keys)}: {rule}" for keys, rule in problems
        ]
        raise ConfigError(*lines)


def check_counts(args: argparse.Namespace) -> None:
    """Check that numbers are large enough."""
    least = {"batch": 1, "threads": 1, "repeats": 1, "warmup": 0, "workers": 0, "by_module": 1}
    for name, smallest in least.items():
        value = getattr(args, name, None)
        if value is not None and value < smallest:
            raise ConfigError(f"--{name.replace('_', '-')} {value} must be at least {smallest}")
    check_cpu(args.cpu)


def parts_of(args: argparse.Namespace) -> Sequence[str]:
    """The parts to measure. The transforms fix the size of images of data, not --size."""
    if args.parts is None:
        return PARTS if args.size is None else WITHOUT_DATA
    wrong = [part for part in args.parts if part in WITH_DATA]
    if args.size is not None and wrong:
        raise ConfigError(
            f"--size: the transforms fix the size of the images of {wrong[0]}; change "
            "dataloader.train.dataset.transforms by -o instead"
        )
    return args.parts


def size_of(args: argparse.Namespace, cfg: Config) -> list[int]:
    """Height and width: those of --size, else of the training images, else of the network."""
    if args.size is not None:
        size = 2 * args.size if len(args.size) == 1 else args.size
        if len(size) != 2 or min(size) < 1:
            shown = " ".join(map(str, args.size))
            raise ConfigError(f"--size {shown}: give one side, or height and width, from 1 on")
        return size
    from passl.data.transforms.geometry import pair
    from passl.modeling.backbones import BACKBONES

    sizes = [node["size"] for node in cfg.dataloader.train.dataset.transforms if "size" in node]
    made_for = BACKBONES.arguments(cfg.model.architecture).get("img_size", 224)
    return list(pair(sizes[-1] if sizes else made_for))


def data_overrides(args: argparse.Namespace, folder: Path) -> list[str]:
    """Overrides for the batch size, the workers, and synthetic images."""
    train = "dataloader.train"
    found = [
        f"{train}.sampler.batch_size={args.batch}",
        f"{train}.loader.num_workers={args.workers}",
    ]
    if args.synthetic:
        from benchmarks.synthetic import write_images

        if not any(folder.iterdir()):
            write_images(folder, max(IMAGES, args.batch))
        transforms = read_config(args).to_dict()["dataloader"]["train"]["dataset"]["transforms"]
        node = {"name": "ImageFolder", "dataroot": str(folder), "transforms": transforms}
        found.append(f"{train}.dataset={json.dumps(node)}")
    return found


def print_modules(found: Mapping[str, object]) -> None:
    total = found["cpu_ms"]
    rows = [("module", "parameters", "M multiply-acc.", "process ms", "%")]
    for row in found["modules"]:
        share = f"{100 * row['cpu_ms'] / total:.1f}"
        counts = (f"{row['parameters']:,}", f"{row['macs'] / 1e6:,.1f}")
        rows.append((row["module"], *counts, f"{row['cpu_ms']:.2f}", share))
    inside = sum(row["cpu_ms"] for row in found["modules"])
    rest = total - inside
    rows.append(("what stands between", "", "", f"{rest:.2f}", f"{100 * rest / total:.1f}"))
    rows.append(("the whole forward pass", "", "", f"{total:.2f}", "100.0"))
    print()
    print("\n".join(aligned(rows)))


# --------------------------------------------------------------------------------------------------
# An exported network
# --------------------------------------------------------------------------------------------------
def measure_exported(args: argparse.Namespace) -> dict[str, object]:
    check_counts(args)
    from passl.deploy.engines import check_engine, needed_files
    from passl.deploy.exported import read_folder

    check_engine(args.engine, args.precision, args.threads)
    description = read_folder(args.folder, needed_files(args.engine))
    task = {**timing_of(args), "task": "exported", "folder": str(args.folder)}
    task |= {"engine": args.engine, "precision": args.precision}
    print(f"{args.folder}: {description.parameters:,} parameters, {args.engine}, {args.precision}")
    rows = {f"inference, batch {n}": {**task, "batch": n} for n in sorted({1, args.batch})}
    result = {"benchmark": "exported", "folder": str(args.folder), "engine": args.engine}
    result |= {"precision": args.precision, "threads": args.threads, **machine()}
    return {**result, "parts": measure_rows(rows, args)}


# --------------------------------------------------------------------------------------------------
# Both
# --------------------------------------------------------------------------------------------------
def measure_rows(
    rows: Mapping[str, Mapping[str, object]], args: argparse.Namespace
) -> dict[str, dict[str, object]]:
    """Measure each row and print a table, with the reason of each row that cannot run."""
    print(
        f"{args.threads} thread{'s' * (args.threads > 1)}; medians of {args.repeats} runs after "
        f"{args.warmup}; images/s of process time; memory over the idle process"
    )
    found: dict[str, dict[str, object]] = {}
    for name, task in rows.items():
        try:
            found[name] = measure_in_child(OURS, task, args.threads, args.cpu)
        except RunError as error:
            found[name] = {"error": str(error)}
    print()
    print("\n".join(aligned([HEAD, *(cells(name, result) for name, result in found.items())])))
    for name, result in found.items():
        if "error" in result:
            print(f"{name}: cannot run: {result['error']}")
    if all("error" in result for result in found.values()):
        raise RunError("nothing could be measured")
    return found


def cells(name: str, result: Mapping[str, object]) -> tuple[str, ...]:
    if "error" in result:
        return (name, "-", "-", "-", "-")
    spans = [
        f"{result[key]['median']:.1f} ({result[key]['low']:.1f} to {result[key]['high']:.1f})"
        for key in ("cpu_ms", "wall_ms")
    ]
    peak = "-" if result["peak_mib"] is None else f"{result['peak_mib']:,.0f}"
    return (name, f"{result['rate']:.4g}", *spans, peak)


def in_words(count: int) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"


def timing_of(args: argparse.Namespace) -> dict[str, int]:
    return {"warmup": args.warmup, "repeats": args.repeats}


def machine() -> dict[str, object]:
    """The machine and the versions."""
    from passl.machine import processor, versions

    return {"processor": processor(), "versions": versions(["paddlepaddle", "numpy", "pillow"])}


# --------------------------------------------------------------------------------------------------
# A conversion
# --------------------------------------------------------------------------------------------------
def measure_convert(args: argparse.Namespace) -> dict[str, object]:
    """Convert a file of a variant in its authors' names, and measure the process's peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = (Path(folder) / name for name in ("theirs.safetensors", "ours.safetensors"))
        task = {"model": args.model, "file": str(file), "out": str(out)}
        measure_in_child(OURS, {**task, "task": "weight_file"})
        start = time.perf_counter()
        peak = measure_in_child(OURS, {**task, "task": "convert"})["peak"]
        seconds, size = time.perf_counter() - start, file.stat().st_size
    return {
        "benchmark": "convert",
        "model": args.model,
        "file_mib": round(size / 2**20, 1),
        "peak_mib": None if peak is None else round(peak / 2**20, 1),
        "peak_over_file": None if peak is None else round(peak / size, 2),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    run(main)
