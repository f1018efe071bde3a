"""The parts of a training run, and what it logs of itself."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import paddle

from passl.data.loader import Loader
from passl.data.transforms.mixup import Mixup
from passl.data.transforms.sizes import sizes_differ
from passl.engine.attention_log import ATTENTION, AttentionLog
from passl.engine.learner import Learner
from passl.engine.metrics import MetricLog
from passl.engine.progress import Progress
from passl.engine.saver import Saver
from passl.engine.signals import StopRequest
from passl.engine.step import Outcome
from passl.engine.visualdl import first_images, weight_histograms
from passl.errors import Stopped
from passl.evaluation.scores import TASKS
from passl.evaluation.task import Scores, Task
from passl.io.terminal import Bar
from passl.logging import get_logger
from passl.optim.optimizers import lr_rule, scaled_lr
from passl.utils.config import Config


@dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of a run. `learner` and `progress` change as it goes on.

    Args:
        stop: whether this process was asked to stop.
        bar: the steps of the run on a terminal, with the best score so far.
        attention: measures it for `metrics`; null if the config does not ask for it.
        queued: steps whose outcome has not been read yet: number, outcome and indices of samples.
    """

    cfg: Config
    learner: Learner
    train_loader: Loader
    val_loader: Loader
    mixup: Mixup
    metrics: MetricLog
    saver: Saver
    progress: Progress
    stop: StopRequest
    bar: Bar
    attention: AttentionLog | None
    queued: deque[tuple[int, Outcome, Any]] = field(default_factory=deque)

    @property
    def task(self) -> Task:
        return TASKS[self.val_loader.dataset.task]


def show_start(run: Run) -> None:
    """Write the hyperparameters and the first images for VisualDL."""
    if run.metrics.visualdl is not None:
        count = run.cfg.log_config.get("images", 8)
        run.metrics.visualdl.add_hyperparameters(run.cfg, [*run.task.shown, "loss"])
        run.metrics.visualdl.add_images(first_images(run.train_loader, count))


def log_start(run: Run) -> None:
    """Log what is trained, on which data, and where the run begins."""
    cfg, progress, log = run.cfg, run.progress, get_logger().info
    train, val = run.train_loader, run.val_loader
    count = sum(parameter.size for parameter in run.learner.optimizer._parameter_list)
    name, device, world = cfg.model.architecture.name, paddle.get_device(), progress.world_size
    log("%s with %s parameters on %s, %d process(es)", name, f"{count:,}", device, world)
    sizes = len(train.dataset), len(val.dataset), len(train.classes)
    log("%d training and %d validation images, %d classes", *sizes)
    remark = sizes_differ(train.samples, val.samples)
    if remark is not None:
        get_logger().warning(remark)
    log(
        "global batch %d, %d steps an epoch, peak learning rate %g (%s)",
        progress.global_batch,
        len(train),
        scaled_lr(cfg.optimizer, progress.global_batch),
        lr_rule(cfg.optimizer, progress.global_batch),
    )
    if progress.epoch >= cfg.epochs:
        log("all %d epochs are done; for more, raise epochs", cfg.epochs)
    elif progress.step:
        log(
            "resumed after epoch %d, step %d; %s",
            progress.epoch,
            progress.step,
            best_score_text(run),
        )


def best_score_text(run: Run) -> str:
    """The best score so far, for the log."""
    progress = run.progress
    if not progress.best_epoch:
        return "no score yet"
    return f"best {run.task.best} {progress.best_score:.2f} % in epoch {progress.best_epoch}"


def log_scores(run: Run, scores: Scores, epoch: int) -> None:
    """Write the scores of an evaluation after the epoch, from 1, to the metrics and the log."""
    progress, task = run.progress, run.task
    run.metrics.write("val", progress.step, epoch=epoch, **scores.to_dict())
    get_logger().info(
        "[Eval][Epoch %d] %s, loss: %.4f, ips: %.1f samples/s; best %s: %.2f (epoch %d)",
        epoch,
        ", ".join(f"{key}: {getattr(scores, key):.2f}" for key in task.shown),
        scores.loss,
        scores.ips,
        task.best,
        progress.best_score,
        progress.best_epoch,
    )


def log_network(run: Run, epoch: int) -> None:
    """Write measures of attention and histograms of weights, if the config asks for them."""
    has_histograms = run.cfg.log_config.get("histograms", False)
    if not has_histograms and run.attention is None:
        return
    step, model = run.progress.step, run.learner.model
    with run.learner.average.applied(), suppress(Stopped):
        if has_histograms:
            run.metrics.write("weights", step, epoch=epoch, histograms=weight_histograms(model))
        if run.attention is not None:
            row = run.attention.measure(model, run.stop.check)
            run.metrics.write(ATTENTION, step, epoch=epoch, **row)
