"""One measurement of passl, in a process of its own: python benchmarks/ours.py TASK

TASK is JSON: `task`, a key of `workloads.STEPS` or `TASKS`, and its options. The last line on
stdout is the result. `benchmarks/measure.py` and `benchmarks/peers.py` call this.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed import measure, memory, rounded  # noqa: E402
from passl.cli.dispatch import run  # noqa: E402
from passl.utils.config import Config, get_config  # noqa: E402

Task = dict[str, Any]


def config_of(task: Task) -> Config:
    """The config, with the size of the images if its network needs to know it."""
    cfg = get_config(task["config"], task["overrides"])
    if "img_size" in cfg.model.architecture and "size" in task:
        size = f"model.architecture.img_size={task['size']}"
        cfg = get_config(task["config"], [*task["overrides"], size])
    return cfg


def exported(task: Task) -> Task:
    """Time the network of an exported folder."""
    import numpy as np

    from passl.deploy import Predictor

    predictor = Predictor(task["folder"], task["engine"], task["precision"], task["threads"])
    shape = (task["batch"], *predictor.description.input)
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return measure(lambda: predictor.run(images), task["batch"], task["warmup"], task["repeats"])


def describe(task: Task) -> Task:
    """Count parameters, and multiply-accumulates at the size of the images."""
    from benchmarks.workloads import in_chans, trained_parameters
    from passl.analysis.flops import count_macs
    from passl.modeling import Model

    cfg = config_of(task)
    model = Model(cfg)
    macs = count_macs(model, task["size"], in_chans(cfg))
    return {"parameters": trained_parameters(model), "macs": sum(macs.values())}


def modules(task: Task) -> Task:
    """Count parameters and multiply-accumulates of each module, and time it."""
    from benchmarks import workloads
    from passl.accelerate import accelerate
    from passl.analysis.flops import count_macs
    from passl.modeling import Model

    cfg = config_of(task)
    model = accelerate(Model(cfg))
    macs = count_macs(model, task["size"], workloads.in_chans(cfg))
    images = workloads.random_images(cfg, task)
    times = workloads.time_of_modules(model, images, task["depth"], task["warmup"], task["repeats"])
    rows = [
        {
            "module": name,
            "parameters": workloads.trained_parameters(layer),
            "macs": sum(n for part, n in macs.items() if f"{part}.".startswith(f"{name}.")),
            "cpu_ms": rounded(times[name]),
        }
        for name, layer in workloads.modules(model, task["depth"]).items()
        if name in times
    ]
    return {"modules": rows, "cpu_ms": rounded(times[""])}


def export(task: Task) -> Task:
    """Export a network with random weights."""
    import tempfile

    from safetensors.numpy import save_file

    from passl import __version__
    from passl.deploy.export import export
    from passl.deploy.from_weights import load
    from passl.modeling import Model
    from passl.porting.weight_file import OURS

    cfg = config_of(task)
    transforms = [{"name": "Resize", "size": task["size"]}, {"name": "Normalize"}]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        arrays = {key: value.numpy() for key, value in Model(cfg).state_dict().items()}
        save_file(arrays, weights, {OURS: __version__})
        out = export(*load(weights, cfg, transforms), task["folder"], task.get("onnx", False))
    return {"folder": str(out)}


def weight_file(task: Task) -> Task:
    """Write random weights of a published variant in its authors' names."""
    import passl
    from passl.deploy.convert import plan_conversion, write_for
    from passl.porting.weight_file import WeightFile

    model, family = passl.create_model(task["model"]), task["model"].partition("_")[0]
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    file = WeightFile(Path("random"), weights, None, {}, {})
    section = get_config(f"{family}/{task['model']}").to_dict()["model"]
    plan = plan_conversion(file, section["architecture"], section["head"])
    target = {"convit": "timm", "cvt": "microsoft"}[family]
    write_for(target, file, plan, Path(task["file"]))
    return {"file": task["file"]}


def convert(task: Task) -> Task:
    """Run `passl convert`, and ask the operating system for the process's largest memory."""
    import argparse

    from passl.cli import convert

    parser = argparse.ArgumentParser()
    convert.add_options(parser)
    convert.main(parser.parse_args([task["file"], task["out"]]))
    return {"peak": memory("VmHWM")}


TASKS = {
    task.__name__: task for task in (exported, describe, modules, export, weight_file, convert)
}


def main() -> None:
    task = json.loads(sys.argv[1])
    if task["cpu"] is not None:
        os.sched_setaffinity(0, {task["cpu"]})
    if task["task"] in TASKS:
        result = TASKS[task["task"]](task)
    else:
        from benchmarks.workloads import STEPS

        step = STEPS[task["task"]](config_of(task), task)
        result = measure(step, task["batch"], task["warmup"], task["repeats"])
    print(json.dumps(result))


if __name__ == "__main__":
    run(main)
