"""One measurement of passl, in a process of its own: python benchmarks/ours.py TASK

TASK is JSON: `task`, one of TASKS below, and what it needs. The last line on stdout is the result.
`tools/benchmark.py` and `benchmarks/peers.py` call this.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed import measure, rounded  # noqa: E402
from passl.cli.dispatch import run  # noqa: E402
from passl.utils.config import Config, get_config  # noqa: E402

Task = dict[str, Any]


def config_of(task: Task) -> Config:
    """The config, made for the size if its network must know it. Who calls has checked it."""
    cfg = get_config(task["config"], task["overrides"])
    if "img_size" in cfg.model.architecture and "size" in task:
        size = f"model.architecture.img_size={task['size']}"
        cfg = get_config(task["config"], [*task["overrides"], size])
    return cfg


def timed(task: Task, step, images: int | None = None) -> Task:
    return measure(step, images or task["batch"], task["warmup"], task["repeats"])


def inference(task: Task) -> Task:
    from benchmarks.workloads import inference

    return timed(task, inference(config_of(task), task["batch"], tuple(task["size"])))


def training(task: Task) -> Task:
    from benchmarks.workloads import training

    return timed(task, training(config_of(task), task["batch"], tuple(task["size"])))


def data(task: Task) -> Task:
    from benchmarks.workloads import batches

    return timed(task, batches(config_of(task)))


def training_with_data(task: Task) -> Task:
    from benchmarks.workloads import training_with_data

    return timed(task, training_with_data(config_of(task)))


def pictures(task: Task) -> Task:
    """Single pictures of `part`, `batch` of them in a run."""
    from benchmarks.workloads import pictures

    return timed(task, pictures(config_of(task), task["part"], task["batch"]))


def exported(task: Task) -> Task:
    """An exported folder's network."""
    import numpy as np

    from passl.deploy import Predictor

    predictor = Predictor(task["folder"], task["engine"], task["precision"], task["threads"])
    shape = (task["batch"], *predictor.description.input)
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return timed(task, lambda: predictor.run(images))


def describe(task: Task) -> Task:
    """Parameters, and multiply-accumulates at that size."""
    from passl.analysis.flops import count_macs
    from passl.modeling import Model

    model = Model(config_of(task))
    channels = model_channels(task)
    return {
        "parameters": sum(p.size for p in model.parameters() if not p.stop_gradient),
        "macs": sum(count_macs(model, task["size"], channels).values()),
    }


def modules(task: Task) -> Task:
    """Parameters, multiply-accumulates and time of each module."""
    from benchmarks.workloads import modules, random_images, time_of_modules
    from passl.accelerate import accelerate
    from passl.analysis.flops import count_macs
    from passl.modeling import Model

    cfg = config_of(task)
    model = accelerate(Model(cfg))
    macs = count_macs(model, task["size"], model_channels(task))
    images = random_images(cfg, task["batch"], tuple(task["size"]))
    times = time_of_modules(model, images, task["depth"], task["warmup"], task["repeats"])
    rows = [
        {
            "module": name,
            "parameters": sum(p.size for p in layer.parameters() if not p.stop_gradient),
            "macs": sum(n for part, n in macs.items() if f"{part}.".startswith(f"{name}.")),
            "cpu_ms": rounded(times[name]),
        }
        for name, layer in modules(model, task["depth"]).items()
        if name in times
    ]
    return {"modules": rows, "cpu_ms": rounded(times[""])}


def model_channels(task: Task) -> int:
    return config_of(task).model.architecture.get("in_chans", 3)


def export(task: Task) -> Task:
    """Write a network with random weights as a folder."""
    import tempfile

    from safetensors.numpy import save_file

    from passl import __version__
    from passl.deploy.export import export
    from passl.deploy.source import load
    from passl.modeling import Model
    from passl.porting.weight_file import OURS

    cfg = config_of(task)
    frame = [{"name": "Resize", "size": task["size"]}, {"name": "Normalize"}]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        arrays = {key: value.numpy() for key, value in Model(cfg).state_dict().items()}
        save_file(arrays, weights, {OURS: __version__})
        folder = export(*load(weights, cfg, frame), task["folder"], task.get("onnx", False))
        return {"folder": str(folder)}


TASKS = {
    function.__name__: function
    for function in (
        inference,
        training,
        data,
        training_with_data,
        pictures,
        exported,
        describe,
        modules,
        export,
    )
}


def main() -> None:
    task = json.loads(sys.argv[1])
    if task["cpu"] is not None:
        os.sched_setaffinity(0, {task["cpu"]})
    print(json.dumps(TASKS[task["task"]](task)))


if __name__ == "__main__":
    run(main)
