"""Compare the int8 network of an exported folder with its float32 one: accuracy, speed and size.

python benchmarks/int8.py FOLDER --data '{name: FashionMNIST, dataroot: data, split: test}'
python benchmarks/int8.py --config convit/convit_tiny    # random weights: speed and size only

Both are measured by process time, in turns, so that other load of the machine slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout needs no installation

import numpy as np

from benchmarks.speed import rounded
from passl.cli.dispatch import run
from passl.deploy.auto import installed
from passl.deploy.engines import ENGINES
from passl.deploy.exported import ONNX, ONNX_INT8
from passl.deploy.predictor import Predictor
from passl.errors import ConfigError
from passl.machine import cpu_features, processor, versions

_CHUNK = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="written by passl export --int8")
    parser.add_argument("--config", help="of a network with random weights, in place of a folder")
    parser.add_argument("--data", help="a dataset, as a config's node, to score both networks on")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if (args.folder is None) == (args.config is None):
        raise ConfigError("name a folder or --config")
    with tempfile.TemporaryDirectory() as work:
        folder = args.folder or export_random(args.config, Path(work) / "exported")
        measure(folder, args)


def measure(folder: Path, args: argparse.Namespace) -> None:
    """Print a table, and everything as JSON on the last line."""
    vnni = sorted(name for name in cpu_features() if "vnni" in name or "amx" in name)
    sizes = [(folder / name).stat().st_size for name in (ONNX, ONNX_INT8)]
    found: dict[str, Any] = {
        "processor": processor(),
        "features": vnni,
        "versions": versions(["onnxruntime", "openvino", "numpy"]),
        "size": {"fp32": sizes[0], "int8": sizes[1], "ratio": rounded(sizes[1] / sizes[0])},
    }
    print(f"{folder}: {sizes[0]:,} to {sizes[1]:,} bytes, {sizes[1] / sizes[0]:.3f}; {vnni}")
    for engine in (name for name in installed() if "int8" in ENGINES[name].files):
        both = [Predictor(folder, engine, p, args.threads) for p in ("fp32", "int8")]
        found[engine] = {str(batch): compare(both, batch, args.rounds) for batch in args.batches}
        for batch, row in found[engine].items():
            print(
                f"{engine}, batch {batch}: {row['fp32_ms']} to {row['int8_ms']} ms, "
                f"{row['ratio']} times as fast ({row['low']} to {row['high']})"
            )
        if args.data:
            found[engine]["top1"] = dict(zip(("fp32", "int8"), top1(both, args.data), strict=True))
            print(f"{engine}, top-1: {found[engine]['top1']}")
    print(json.dumps(found))


def compare(both: list[Predictor], batch: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a batch, the fastest of each side; and how many times as fast int8 is: of
    these, and the quartiles of single rounds.
    """
    shape = both[0].description.input
    images = np.random.default_rng(0).standard_normal((batch, *shape), np.float32)
    calls = max(1, 32 // batch)
    times: list[list[float]] = [[], []]
    for turn in range(rounds + 2):
        for side in (0, 1) if turn % 2 else (1, 0):
            start = time.process_time()
            for _ in range(calls):
                both[side].run(images)
            if turn >= 2:  # the first are slower
                times[side].append(1000 * (time.process_time() - start) / calls)
    low, _, high = statistics.quantiles([a / b for a, b in zip(*times, strict=True)])
    best = [min(each) for each in times]
    numbers = {"fp32_ms": best[0], "int8_ms": best[1], "ratio": best[0] / best[1]}
    return {key: rounded(value) for key, value in {**numbers, "low": low, "high": high}.items()}


def top1(both: list[Predictor], node: str) -> list[float]:
    """Top-1 accuracy of each on a dataset, in percent."""
    from passl.data.build import build_dataset
    from passl.utils.yaml import parse

    dataset, description = build_dataset(parse(node, "--data")[0]), both[0].description
    hits = np.zeros(2, np.int64)
    for start in range(0, len(dataset), _CHUNK):
        indices = range(start, min(start + _CHUNK, len(dataset)))
        opened = (dataset.load_image(i).convert(description.mode) for i in indices)
        images = np.stack([both[0].prepare(image) for image in opened])
        labels = dataset.labels[start : indices[-1] + 1]
        hits += [(each.run(images).argmax(-1) == labels).sum() for each in both]
    return [100 * int(count) / len(dataset) for count in hits]


def export_random(config: str, out: Path) -> Path:
    """Export and quantize a network with random weights, on random images."""
    import paddle

    from benchmarks.measure import size_of
    from passl.deploy.calibration_data import CalibrationData
    from passl.deploy.export import export
    from passl.deploy.exported import Description
    from passl.modeling import Model
    from passl.utils.config import get_config

    paddle.seed(0)
    cfg = get_config(config)
    model = Model(cfg)
    height, width = size_of(cfg)
    shape = [cfg.model.architecture.get("in_chans", 3), height, width]
    nodes = [{"name": "Resize", "size": [height, width]}, {"name": "Normalize"}]
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[shape[0]]
    classes = [str(label) for label in range(model.num_classes)]
    description = Description({}, nodes, shape, classes, {}, 0, "random", False, mode)

    def noise(index: int) -> np.ndarray:
        return np.random.default_rng(index).standard_normal(shape, np.float32)

    data = CalibrationData(noise, np.zeros(64, np.int64), range(32), range(32, 64), 100.0, "noise")
    return export(model, description, out, int8=data)


if __name__ == "__main__":
    run(main)
