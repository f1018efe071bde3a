"""What is compared with other projects, row by row, and the files that the measurements need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import OURS, THEIRS, measure_in_child

Task = Mapping[str, Any]
ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "convit_tiny": ROOT / "configs" / "convit" / "convit_tiny.yaml",
    "cvt_13": ROOT / "configs" / "cvt" / "cvt_13_224.yaml",
}
NAMES = {"convit_tiny": "ConViT-Ti", "cvt_13": "CvT-13"}
PEERS = {"convit_tiny": "timm", "cvt_13": "transformers"}
ENGINES = {"paddle": "Paddle Inference", "openvino": "OpenVINO"}
WORK = "{work}"
"""Stands for the folder of exported networks, graphs and images in a task."""
IMAGES = 32


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

    def is_reached(self, ratio: float) -> bool:
        assert self.goal is not None
        return ratio >= self.goal if self.quantity == "rate" else ratio <= self.goal


def steps(batch: int, size: int = 224, warmup: int = 2, repeats: int = 5) -> Task:
    """The part of a task that says how much is computed."""
    return {"batch": batch, "size": [size, size], "warmup": warmup, "repeats": repeats}


def config_task(task: str, model: str, many: Task) -> Task:
    return {"task": task, "config": str(CONFIGS[model]), "overrides": ["device=cpu"], **many}


def exported_task(folder: str, engine: str, precision: str, many: Task) -> Task:
    task = {"task": "exported", "folder": f"{WORK}/{folder}", "engine": engine}
    return {**task, "precision": precision, **many}


def training(model: str, many: Task, goal: float, quantity: str = "rate") -> Row:
    where = f"{NAMES[model]} at {many['size'][0]}, batch {many['batch']}; {PEERS[model]}"
    return Row(
        f"{'peak memory of a ' * (quantity != 'rate')}training step, {where}",
        config_task("training", model, many),
        {"task": "training", "model": model, **many},
        goal,
        quantity,
    )


def inference(
    model: str, engine: str, precision: str, goal: float, peer_engine: str | None = None
) -> Row:
    """A row of an exported network.

    Args:
        peer_engine: that runs the peer's graph, in the same precision; null for the peer's network
            under PyTorch, in fp32.
    """
    many = steps(8)
    if peer_engine is None:
        peer = f"{PEERS[model]}, fp32"
        theirs = {"task": "inference", "model": model, **many}
    else:
        peer = f"{PEERS[model]}'s graph by {ENGINES[peer_engine]}, {precision}"
        graph = {"file": f"{WORK}/{model}.onnx", "precision": precision}
        theirs = {"task": peer_engine, "model": model, **graph, **many}
    folder = model if engine == "paddle" else f"{model}_onnx"
    return Row(
        f"exported {NAMES[model]} by {ENGINES[engine]}, {precision}, batch 8; {peer}",
        exported_task(folder, engine, precision, many),
        theirs,
        goal,
    )


def transforms(what: str, part: str, goal: float) -> Row:
    section = f"dataloader.{part}"
    overrides = [
        f"{section}.dataset.dataroot={WORK}/images",
        f"{section}.sampler.batch_size=1",
        f"{section}.loader.num_workers=0",
    ]
    # Many steps: they are short, and other load on a machine changes by the second.
    common = {**steps(IMAGES, warmup=4, repeats=20), "task": "images", "part": part}
    ours = {**common, "config": str(CONFIGS["convit_tiny"]), "overrides": overrides}
    return Row(f"{what}; timm", ours, {**common, "folder": f"{WORK}/images"}, goal)


MIDDLE, LARGE, ONE = steps(4, 384, 1, 3), steps(4, 512, 1, 2), steps(1, 1024, 1, 2)
ONE_THEIRS = {"task": "inference", "model": "convit_tiny", **ONE}
ROWS = {
    "train_convit_224": training("convit_tiny", steps(8), 1.0),
    "train_convit_384": training("convit_tiny", MIDDLE, 2.0),
    "train_convit_512": training("convit_tiny", LARGE, 3.0),
    "train_memory_384": training("convit_tiny", MIDDLE, 0.35, "peak_mib"),
    "train_memory_512": training("convit_tiny", LARGE, 0.3, "peak_mib"),
    "train_cvt_224": training("cvt_13", steps(8), 1.0),
    "infer_convit_fp32": inference("convit_tiny", "paddle", "fp32", 2.2),
    "infer_convit_bf16": inference("convit_tiny", "paddle", "bf16", 4.0),
    "infer_convit_paddle_openvino_fp32": inference(
        "convit_tiny", "paddle", "fp32", 1.0, "openvino"
    ),
    "infer_convit_paddle_openvino_bf16": inference(
        "convit_tiny", "paddle", "bf16", 1.0, "openvino"
    ),
    "infer_convit_openvino_fp32": inference("convit_tiny", "openvino", "fp32", 1.0, "openvino"),
    "infer_convit_openvino_bf16": inference("convit_tiny", "openvino", "bf16", 1.0, "openvino"),
    "infer_cvt_fp32": inference("cvt_13", "paddle", "fp32", 1.15),
    "infer_cvt_bf16": inference("cvt_13", "paddle", "bf16", 2.2),
    "infer_cvt_openvino_fp32": inference("cvt_13", "openvino", "fp32", 1.15),
    "infer_cvt_openvino_bf16": inference("cvt_13", "openvino", "bf16", 2.2),
    "transform_train": transforms(
        "reading and training transform of the ConViT recipe", "train", 1.5
    ),
    "transform_eval": transforms("reading and evaluation transform", "val", 1.3),
    "infer_memory_1024": Row(
        "peak memory, an image of 1024 x 1024 through exported ConViT-Ti; timm",
        exported_task("convit_tiny_1024", "paddle", "fp32", ONE),
        ONE_THEIRS,
        0.2,
        "peak_mib",
    ),
    "infer_memory_1024_eager": Row(
        "peak memory, an image of 1024 x 1024 through ConViT-Ti, not exported; timm",
        config_task("inference", "convit_tiny", ONE),
        ONE_THEIRS,
        None,
        "peak_mib",
    ),
}


def files(peers: Path) -> dict[str, Callable[[Path], object]]:
    """How each file of the work folder is made, by its name.

    Args:
        peers: the Python of the peers' environment.
    """

    def export(model: str, size: int = 224, onnx: bool = False) -> Callable[[Path], object]:
        task = {**config_task("export", model, steps(8, size)), "onnx": onnx}
        return lambda path: measure_in_child(OURS, {**task, "folder": str(path)})

    def graph(path: Path) -> object:
        task = {"task": "graph", "model": "convit_tiny", "file": str(path), **steps(8)}
        return measure_in_child(THEIRS, task, python=peers)

    def images(path: Path) -> object:
        from benchmarks.synthetic import write_images

        return write_images(path, IMAGES)

    return {
        "convit_tiny": export("convit_tiny"),
        "convit_tiny_onnx": export("convit_tiny", onnx=True),
        "convit_tiny_1024": export("convit_tiny", 1024),
        "cvt_13": export("cvt_13"),
        "cvt_13_onnx": export("cvt_13", onnx=True),
        "convit_tiny.onnx": graph,
        "images": images,
    }
