"""The dry run: what a run would find and do, and its augmented images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle

from passl.analysis.augmented import augmented, figure_of_augmented
from passl.data.balance import class_counts
from passl.data.datasets.base import ImageDataset
from passl.data.loader import Loader
from passl.data.transforms.sizes import sizes_differ
from passl.distributed import ranks as distributed
from passl.distributed.ranks import Ranks
from passl.engine.learner import Learner, build_learner
from passl.engine.train import build_loaders
from passl.io.figures import save_figure
from passl.logging import get_logger
from passl.modeling import Model
from passl.optim import SCHEDULES
from passl.optim.optimizers import lr_rule, scaled_lr
from passl.optim.parameters import decayed_names, trainable
from passl.utils.config import Config

ROWS, COLUMNS = 8, 8
"""Of the drawing: samples; the original and its augmentations."""


def first_look(cfg: Config, out: Path) -> None:
    """Log what follows from a config, its data and its network, and draw some augmented images.
    (`passl config` prints the values themselves.)

    Everything is built as the run would build it, weights and optimizer included, so errors that
    would stop the run at its start are found. Nothing is trained, and no run folder is created.

    Args:
        cfg: checked by `engine.check.check_config`.
        out: the PNG to write; its folder exists.

    Raises:
        ConfigError: the run cannot start as configured.
        RunError: weights or an image cannot be read.
    """
    with distributed.start(cfg.get("device", "auto"), cfg.get("timeouts")) as ranks:
        _look(cfg, out, ranks)


def build_for_training(cfg: Config, ranks: Ranks) -> tuple[Learner, Loader, Loader]:
    """Build what a run would train with, before its first step, and no run folder.

    Args:
        cfg: checked by `engine.check.check_config`.

    Returns:
        The learner, and the loaders of the training and the validation data.
    """
    train, val = build_loaders(cfg, ranks)
    global_batch = cfg.dataloader.train.sampler.batch_size * ranks.world
    paddle.seed(cfg.get("seed", 0))
    pretrained, fit = cfg.model.get("pretrained", False), cfg.model.get("fit", ())
    model = Model(cfg, pretrained, fit, train.classes)
    learner = build_learner(cfg, model, ranks, global_batch, len(train), train.dataset)
    learner.begin_epoch(0)
    return learner, train, val


def _look(cfg: Config, out: Path, ranks: Ranks) -> None:
    learner, train, val = build_for_training(cfg, ranks)
    if ranks.is_first:
        for part, loader in (("train", train), ("val", val)):
            _log_data(part, loader.dataset)
        remark = sizes_differ(train.samples, val.samples)
        if remark is not None:
            get_logger().warning(remark)
        _log_run(cfg, learner, len(train), train.sampler.batch_size * ranks.world)
        save_figure(figure_of_augmented(augmented(train, ROWS, COLUMNS - 1)), out)
        get_logger().info("augmented images are in %s", out)


def _log_data(part: str, dataset: ImageDataset) -> None:
    log = get_logger().info
    if dataset.task == "segmentation":
        log("%s: %d images, %d classes", part, len(dataset), len(dataset.classes))
        return
    counts = class_counts(dataset)
    log(
        "%s: %d images of %d classes, %d to %d of each (median %g)",
        part,
        len(dataset),
        len(counts),
        counts.min(),
        counts.max(),
        np.median(counts),
    )
    fewest = np.argsort(counts, kind="stable")[:5]
    named = ", ".join(f"{dataset.classes[label]} ({counts[label]})" for label in fewest)
    log("%s: the classes with the fewest: %s", part, named)
    if dataset.valid_labels is not None:
        log("%s: only %d classes are compared", part, len(dataset.valid_labels))


def _log_run(cfg: Config, learner: Learner, steps: int, global_batch: int) -> None:
    log = get_logger().info
    sizes = {name: parameter.size for name, parameter in trainable(learner.model)}
    decayed = decayed_names(learner.model, cfg.optimizer.get("no_weight_decay")) & sizes.keys()
    decaying = sum(sizes[name] for name in decayed)
    log(
        "network: %s parameters to train on %s; weight decay on %s in %d tensors, none on %s in %d",
        f"{sum(sizes.values()):,}",
        paddle.get_device(),
        f"{decaying:,}",
        len(decayed),
        f"{sum(sizes.values()) - decaying:,}",
        len(sizes) - len(decayed),
    )
    log(
        "run: %d epochs of %d steps with %d images each, on %d process(es)",
        cfg.epochs,
        steps,
        global_batch,
        learner.ranks.world,
    )
    lr, rule = scaled_lr(cfg.optimizer, global_batch), lr_rule(cfg.optimizer, global_batch)
    log("learning rate: %g at its peak (%s)", lr, rule)
    warmup = SCHEDULES.arguments(cfg.lr_scheduler).get("warmup_epochs", 0)
    epochs = sorted({0, warmup, cfg.epochs / 4, cfg.epochs / 2, 3 * cfg.epochs / 4, cfg.epochs})
    last = steps * cfg.epochs - 1
    rates = [f"{e:g}: {learner.schedule(min(round(e * steps), last)):.3g}" for e in epochs]
    log("learning rate: %s; after epoch %s", cfg.lr_scheduler.name, ", ".join(rates))
