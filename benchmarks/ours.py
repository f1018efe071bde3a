"""One measurement of passl, in a process of its own: python benchmarks/ours.py TASK

TASK is JSON: `task`, one of TASKS below, and what it needs. The last line on stdout is the result.
Weights, images and labels are random: no speed depends on them.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from benchmarks.speed import measure  # noqa: E402
from passl.accelerate import accelerate  # noqa: E402
from passl.cli.dispatch import run  # noqa: E402
from passl.data.loader import build_loader  # noqa: E402
from passl.modeling import Model  # noqa: E402
from passl.utils.config import Config, get_config  # noqa: E402

Task = dict[str, Any]


def config_of(task: Task) -> Config:
    """The config, with the size of the images if its network needs to know it."""
    cfg = get_config(task["config"], task["overrides"])
    if "img_size" in cfg.model.architecture and "size" in task:
        size = f"model.architecture.img_size={task['size']}"
        cfg = get_config(task["config"], [*task["overrides"], size])
    return cfg


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def in_chans(cfg: Config) -> int:
    return cfg.model.architecture.get("in_chans", 3)


def describe(task: Task) -> Task:
    """Count parameters, and multiply-accumulates at the size of the images."""
    from passl.analysis.flops import count_macs

    cfg = config_of(task)
    model = Model(cfg)
    parameters = sum(p.size for p in model.parameters() if not p.stop_gradient)
    macs = sum(count_macs(model, task["size"], in_chans(cfg)).values())
    return {"parameters": parameters, "macs": macs}


def inference(task: Task) -> Task:
    """Compute logits of a batch, in evaluation mode and without gradients."""
    cfg = config_of(task)
    model = accelerate(Model(cfg))
    model.eval()
    images = paddle.to_tensor(random_images(task["batch"], in_chans(cfg), *task["size"]))

    @paddle.no_grad()
    def step():
        return model(images).numpy()  # waits for the device

    return measure(step, task)


def training(task: Task) -> Task:
    """Make one update of the weights, as in a run, on a given batch."""
    from passl.distributed.ranks import Ranks
    from passl.engine.learner import build_learner
    from passl.engine.step import train_step

    cfg = config_of(task).to_dict()
    # Balanced weights would need the data; they change no speed.
    cfg["loss"] = {key: value for key, value in cfg["loss"].items() if value != "balanced"}
    learner = build_learner(cfg, Model(cfg), Ranks(), task["batch"], steps_per_epoch=1000)
    learner.begin_epoch(0)
    channels = cfg["model"]["architecture"].get("in_chans", 3)
    images = paddle.to_tensor(random_images(task["batch"], channels, *task["size"]))
    classes = learner.model.num_classes
    labels = paddle.to_tensor(np.random.default_rng(0).integers(classes, size=task["batch"]))
    steps = itertools.count()
    return measure(lambda: train_step(learner, images, labels, next(steps)), task)


def data(task: Task) -> Task:
    """Read the next batch of the training data, epoch after epoch, in this process."""
    cfg = config_of(task).to_dict()
    section = cfg["dataloader"]["train"]
    section["sampler"]["batch_size"] = task["batch"]
    section["loader"] = {**section.get("loader", {}), "num_workers": 0}
    loader = build_loader(section, cfg.get("seed", 0), even=True)
    batches = (batch for epoch in itertools.count() for batch in loader.epoch(epoch))
    return measure(lambda: next(batches), task)


def images(task: Task) -> Task:
    """Read and transform `batch` images of `folder` one after the other, without making batches, by
    the transforms of `part`.
    """
    section = config_of(task).to_dict()["dataloader"][task["part"]]
    section["dataset"]["dataroot"] = task["folder"]
    section["sampler"]["batch_size"] = 1
    section["loader"] = {**section.get("loader", {}), "num_workers": 0}
    samples = build_loader(section, 0).samples
    places = itertools.count()

    def step():
        for place in itertools.islice(places, task["batch"]):
            sample = samples[0, place, place % len(samples)]
            if isinstance(sample, Exception):
                raise sample

    return measure(step, task)


def exported(task: Task) -> Task:
    """Compute logits of a batch by an exported folder."""
    from passl.deploy import Predictor

    predictor = Predictor(task["folder"], task["engine"], task["precision"], task["threads"])
    images = random_images(task["batch"], *predictor.description.input)
    return measure(lambda: predictor.run(images), task)


def export(task: Task) -> Task:
    """Export a network with random weights."""
    from safetensors.numpy import save_file

    from passl import __version__
    from passl.deploy.export import export
    from passl.deploy.from_weights import load
    from passl.porting.weight_file import OURS

    cfg = config_of(task)
    transforms = [{"name": "Resize", "size": task["size"]}, {"name": "Normalize"}]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        arrays = {key: value.numpy() for key, value in Model(cfg).state_dict().items()}
        save_file(arrays, weights, {OURS: __version__})
        out = export(*load(weights, cfg, transforms), task["folder"], task.get("onnx", False))
    return {"folder": str(out)}


TASKS = {
    task.__name__: task for task in (describe, inference, training, data, images, exported, export)
}


def main() -> None:
    task = json.loads(sys.argv[1])
    print(json.dumps(TASKS[task["task"]](task)))


if __name__ == "__main__":
    run(main)
