"""The work of a config, ready to be measured: each function makes everything that a step needs and
gives the step, a function without arguments.

Weights, images and labels are random: no speed depends on them.
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
from passl.modeling.class_weights import BALANCED

Step = Callable[[], Any]


def inference(cfg: Mapping[str, Any], batch: int, size: tuple[int, int]) -> Step:
    """Images [batch, channels, *size] to logits, in evaluation mode and without gradients."""
    model = accelerate(Model(cfg))
    model.eval()
    images = random_images(cfg, batch, size)

    @paddle.no_grad()
    def step():
        return model(images).numpy()  # waits for the device

    return step


def training(cfg: Mapping[str, Any], batch: int, size: tuple[int, int]) -> Step:
    """One update of the weights, as in a run, on a batch that is there already."""
    learner = _learner(cfg, batch)
    images = random_images(cfg, batch, size)
    classes = learner.model.num_classes
    labels = paddle.to_tensor(np.random.default_rng(0).integers(classes, size=batch))
    steps = itertools.count()
    return lambda: train_step(learner, images, labels, next(steps))


def batches(cfg: Mapping[str, Any]) -> Step:
    """Read the next batch of the training data, epoch after epoch."""
    endless = _endless(_train_loader(cfg))
    return lambda: next(endless)


def training_with_data(cfg: Mapping[str, Any]) -> Step:
    """Read a batch, mix it up, make one update."""
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


def pictures(cfg: Mapping[str, Any], part: str, count: int) -> Step:
    """Read `count` pictures one after the other and transform them, without making batches.

    Args:
        part: `train` or `val`.
    """
    samples = build_loader(cfg["dataloader"][part], 0).samples
    places = itertools.count()

    def step():
        for place in itertools.islice(places, count):
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


def random_images(cfg: Mapping[str, Any], batch: int, size: tuple[int, int]) -> Any:
    """Standard normal images [batch, channels, *size]."""
    shape = (batch, cfg["model"]["architecture"].get("in_chans", 3), *size)
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def _learner(cfg: Mapping[str, Any], batch: int) -> Learner:
    # Balanced weights would need the data; they change no speed.
    loss = {key: value for key, value in cfg["loss"].items() if value != BALANCED}
    cfg = {**cfg, "loss": loss}
    learner = build_learner(cfg, Model(cfg), Ranks(), batch, steps_per_epoch=1000)
    learner.begin_epoch(0)
    return learner


def _train_loader(cfg: Mapping[str, Any]) -> Loader:
    return build_loader(cfg["dataloader"]["train"], cfg.get("seed", 0), even=True)


def _endless(loader: Loader) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from loader.epoch(epoch)
