"""Reading and transforming packed images beside timm's pipeline on the original ones:

    python benchmarks/packed.py                            # made-up images of 500 x 375
    python benchmarks/packed.py PHOTOS --sides 500 1024 0  # copies of these longer sides; 0: as is

It needs an environment with passl, torch, torchvision and timm. All pipelines run in this process,
on one thread, by the recipe of ConViT-Ti at 224 (training: random crop, RandAugment, erasing;
evaluation: resize to 256 and crop the center). They take turns after each image, so that other load
of the machine is the same for all, and a ratio is that of process times of a round of --count
images: median (low to high).

PHOTOS is any folder of images, searched to any depth; Debian's packages of wallpapers have some.
Copies are JPEG of quality 90. --packed also reads the packed JPEG files by timm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image

from benchmarks.theirs import torch_of, transform_of
from passl.check.photos import write_images
from passl.data.build import build_dataset
from passl.data.loader import build_loader
from passl.data.pack import Packing, dataset_node, pack
from passl.utils.config import get_config

CONFIG = "configs/convit/convit_tiny.yaml"
FORMATS = ("jpeg", "raw", "copy")
PARTS = {"train": "training", "val": "evaluation"}
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
Step = Callable[[int], object]
"""Reads and transforms an image, by its number."""


def copy_photos(source: Path, folder: Path, count: int, side: int) -> None:
    """Write JPEG files whose longer side is `side`, or of the original size if it is 0."""
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    (folder / "photos").mkdir(parents=True)
    for number, path in enumerate(paths[:count]):
        with Image.open(path) as image:
            if side:
                image.draft("RGB", (2 * side, 2 * side))
                image.thumbnail((side, side), Image.Resampling.LANCZOS)
            image.convert("RGB").save(folder / "photos" / f"{number:04d}.jpg", quality=90)


def ours(node: dict[str, Any], part: str) -> Step:
    section = get_config(CONFIG, ["device=cpu"]).to_dict()["dataloader"][part]
    section["dataset"] = {**node, "transforms": section["dataset"]["transforms"]}
    section["sampler"]["batch_size"] = 1
    section["loader"] = {"num_workers": 0}
    samples = build_loader(section, 0).samples

    def step(number: int) -> None:
        sample = samples[0, number, number % len(samples)]
        if isinstance(sample, Exception):
            raise sample

    return step


def theirs(folder: Path, part: str) -> Step:
    from timm.data import ImageDataset

    dataset = ImageDataset(str(folder), transform=transform_of(part))
    return lambda number: dataset[number % len(dataset)]


def pipelines(work: Path, images: Path, part: str, packed: bool) -> dict[str, Step]:
    """timm's pipeline first, which the others are compared with."""
    folder = {"name": "ImageFolder", "dataroot": str(images)}
    found = {"timm": theirs(images, part), "passl": ours(folder, part)}
    for kind in FORMATS:
        out = work / kind
        packing = Packing(format=kind, short_side=None if kind == "copy" else 256)
        manifest = pack(build_dataset(folder), out, "images", packing, 0)
        found[f"passl, packed as {kind}"] = ours(dataset_node(out, manifest), part)
    if packed:
        files = work / "files" / "packed"
        files.mkdir(parents=True, exist_ok=True)
        for path in (work / "jpeg").glob("*.tar"):
            with tarfile.open(path) as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    if content is not None and member.name.endswith(".jpg"):
                        (files / member.name).write_bytes(content.read())
        found["timm, the files packed as jpeg"] = theirs(files.parent, part)
    return found


def compare(steps: dict[str, Step], count: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of process time per image, and how many times as fast as the first each is."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for turn in range(rounds + 1):  # the first warms up
        total = dict.fromkeys(steps, 0.0)
        for number in range(turn * count, (turn + 1) * count):
            for name in order:
                start = time.process_time()
                steps[name](number)
                total[name] += time.process_time() - start
            order.reverse()
        if turn:
            for name, seconds in total.items():
                times[name].append(1000 * seconds / count)
    first = times[next(iter(steps))]
    return {
        name: {
            "ms": _summary(found),
            "ratio": _summary([a / b for a, b in zip(first, found, strict=True)]),
        }
        for name, found in times.items()
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="?", type=Path, help="default: made-up images")
    parser.add_argument("--sides", nargs="+", type=int, default=[0], help="longer sides of copies")
    parser.add_argument("--count", type=int, default=16, help="images (default 16)")
    parser.add_argument("--rounds", type=int, default=7, help="that count (default 7)")
    parser.add_argument("--packed", action="store_true", help="timm also reads packed files")
    args = parser.parse_args()
    torch_of({"threads": 1})
    for side in args.sides:
        with tempfile.TemporaryDirectory() as name:
            work, images = Path(name), Path(name) / "images"
            if args.photos is None:
                write_images(images, args.count, classes=1)
            else:
                copy_photos(args.photos, images, args.count, side)
            for part, what in PARTS.items():
                steps = pipelines(work, images, part, args.packed)
                found = compare(steps, args.count, args.rounds)
                print(f"\n{what}, longer side {side or 'as it is'}, {args.count} images")
                for pipeline, result in found.items():
                    ms, ratio = result["ms"], result["ratio"]
                    print(
                        f"  {pipeline:32} {ms['median']:8.2f} ms ({ms['low']} to {ms['high']})"
                        f"   {ratio['median']:6.2f} times ({ratio['low']} to {ratio['high']})"
                    )
                line = {"part": part, "side": side, "count": args.count, "pipelines": found}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
