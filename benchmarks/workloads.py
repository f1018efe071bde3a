"""The work of a config, ready to be measured. Each function of `STEPS` prepares everything that a
step needs and returns the step, a function without arguments.

Weights, images and labels are random: no speed depends on them. A task (`benchmarks/ours.py`) has
`batch` and `size` [height, width].
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import paddle
from paddle import nn

from passl.accelerate import accelerate
from passl.data.loader import Batch, Loader, build_loader
from passl.data.transforms.mixup import build_mixup
from passl.distributed.ranks import Ranks
from passl.engine.learner import Learner, build_learner
from passl.engine.step import train_step
from passl.modeling import Model

Step = Callable[[], Any]


def inference(cfg: Mapping[str, Any], task: Mapping[str, Any]) -> Step:
    """Compute logits of a batch, in evaluation mode and without gradients."""
    model = accelerate(Model(cfg))
    model.eval()
    images = random_images(cfg, task)

    @paddle.no_grad()
    def step():
        return model(images).numpy()  # waits for the device

    return step


def training(cfg: Mapping[str, Any], task: Mapping[str, Any]) -> Step:
    """Make one update of the weights, as in a run, on a given batch."""
    learner = _learner(cfg, task["batch"])
    images = random_images(cfg, task)
    classes = learner.model.num_classes
    labels = paddle.to_tensor(np.random.default_rng(0).integers(classes, size=task["batch"]))
    steps = itertools.count()
    return lambda: train_step(learner, images, labels, next(steps))


def data(cfg: Mapping[str, Any], task: Mapping[str, Any]) -> Step:
    """Read the next batch of the training data, epoch after epoch."""
    endless = _endless(_train_loader(cfg))
    return lambda: next(endless)


def training_with_data(cfg: Mapping[str, Any], task: Mapping[str, Any]) -> Step:
    """Read a batch, apply mixup, make one update."""
    loader = _train_loader(cfg)
    learner = _learner(cfg, cfg["dataloader"]["train"]["sampler"]["batch_size"])
    section = cfg["dataloader"]["train"].get("mixup")
    mixup = build_mixup(section, len(loader.classes))
    endless, steps = _endless(loader), itertools.count()

    def step():
        images, labels, _ = next(endless)
        number = next(steps)
        mixed = mixup(images, labels, 0, np.random.default_rng((0, number)))
        return train_step(learner, *mixed, number)

    return step


def images(cfg: Mapping[str, Any], task: Mapping[str, Any]) -> Step:
    """Read and transform `batch` images of `part` one after the other, without making batches."""
    samples = build_loader(cfg["dataloader"][task["part"]], 0).samples
    places = itertools.count()

    def step():
        for place in itertools.islice(places, task["batch"]):
            sample = samples[0, place, place % len(samples)]
            if isinstance(sample, Exception):
                raise sample

    return step


def time_of_modules(
    model: nn.Layer, images: Any, depth: int, warmup: int, repeats: int
) -> dict[str, float]:
    """Milliseconds of process time that each module of a network takes of an inference: the median
    of `repeats` runs. `""` is the whole.

    Args:
        depth: how many parts the names of the modules have, the index in a list left out: 2 gives
            `backbone.blocks.0`, 1 `backbone`.
    """
    times: dict[str, list[float]] = {}
    starts: dict[str, float] = {}

    def watch(name: str, layer: nn.Layer):
        def begin(layer, inputs):
            starts[name] = time.process_time()

        def end(layer, inputs, output):
            times.setdefault(name, []).append(1000 * (time.process_time() - starts[name]))

        pre = layer.register_forward_pre_hook(begin)
        return pre, layer.register_forward_post_hook(end)

    named = {"": model, **modules(model, depth)}
    handles = [handle for name, layer in named.items() for handle in watch(name, layer)]
    model.eval()
    try:
        with paddle.no_grad():
            for _ in range(warmup + repeats):
                model(images).numpy()
    finally:
        for handle in handles:
            handle.remove()
    # A module that runs several times in a forward pass has the sum of them.
    runs = warmup + repeats
    totals = {name: np.reshape(spans, (runs, -1)).sum(1)[warmup:] for name, spans in times.items()}
    return {name: float(np.median(spans)) for name, spans in totals.items()}


def modules(model: nn.Layer, depth: int, prefix: str = "") -> dict[str, nn.Layer]:
    """The modules whose names have that many parts, or fewer if they have no parts themselves. A
    list is not a part, and has one more name.
    """
    found: dict[str, nn.Layer] = {}
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        below = depth if isinstance(child, nn.LayerList) else depth - 1
        if below and next(iter(child.children()), None) is not None:
            found |= modules(child, below, f"{path}.")
        else:
            found[path] = child
    return found


STEPS = {step.__name__: step for step in (inference, training, data, training_with_data, images)}


def in_chans(cfg: Mapping[str, Any]) -> int:
    """Channels of the network's images."""
    return cfg["model"]["architecture"].get("in_chans", 3)


def trained_parameters(layer: nn.Layer) -> int:
    """Number of parameters that are trained."""
    return sum(p.size for p in layer.parameters() if not p.stop_gradient)


def random_images(cfg: Mapping[str, Any], task: Mapping[str, Any]) -> Any:
    """Standard normal images [batch, channels, height, width]."""
    shape = (task["batch"], in_chans(cfg), *task["size"])
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def _learner(cfg: Mapping[str, Any], batch: int) -> Learner:
    # Balanced weights would need the data; they change no speed.
    loss = {key: value for key, value in cfg["loss"].items() if value != "balanced"}
    cfg = {**cfg, "loss": loss}
    learner = build_learner(cfg, Model(cfg), Ranks(), batch, steps_per_epoch=1000)
    learner.begin_epoch(0)
    return learner


def _train_loader(cfg: Mapping[str, Any]) -> Loader:
    return build_loader(cfg["dataloader"]["train"], cfg.get("seed", 0), even=True)


def _endless(loader: Loader) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from loader.epoch(epoch)
