"""A training run on one page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle

from passl.data.loader import Loader, build_loader
from passl.data.mixup import build_mixup
from passl.engine import distributed
from passl.engine.checkpoint import Progress, load_checkpoint, save_checkpoint
from passl.engine.evaluate import Scores, evaluate
from passl.engine.learner import Learner, build_learner
from passl.engine.metrics import Meter, MetricLog
from passl.engine.run_folder import (
    BEST,
    LAST,
    LOG,
    find_checkpoint,
    make_run_folder,
    write_config,
)
from passl.engine.step import train_step
from passl.modeling import Model
from passl.optim.optimizers import lr_rule, scaled_lr
from passl.utils.config import Config, dotted, leaves
from passl.utils.errors import CheckpointError
from passl.utils.logging import get_logger, log_to_file, stop_logging_to

_MIXUP = 1  # keeps its generators apart from those of the samples and of the steps


def train(cfg: Config, resume: str | None = None) -> Progress:
    """Train and evaluate what the config describes, in its `output_dir`.

    Args:
        cfg: checked by `engine.check.check_config`.
        resume: null for a new run; `auto` to go on from the folder's last checkpoint, if there is
            one; or a checkpoint's path.

    Returns:
        The state at the end, best score included.

    Raises:
        ConfigError: the run cannot start as configured.
        RunError: it met something that it cannot go on with.
    """
    ranks = distributed.start(cfg.get("device", "auto"))
    seed, epochs, folder = cfg.get("seed", 0), cfg.epochs, Path(cfg.output_dir)
    train_loader = build_loader(cfg.dataloader.train, seed, ranks.rank, ranks.world, even=True)
    val_loader = build_loader(cfg.dataloader.val, seed, ranks.rank, ranks.world)
    mixup = build_mixup(cfg.dataloader.train.get("mixup"), cfg.model.head.num_classes)
    global_batch = cfg.dataloader.train.sampler.batch_size * ranks.world

    checkpoint = find_checkpoint(folder, resume)
    paddle.seed(seed)
    if checkpoint is None:
        model = Model(cfg, cfg.model.get("pretrained", False), cfg.model.get("fit", ()))
    else:
        model = Model(cfg, checkpoint)  # with the numerics of what it was fine-tuned from
    learner = build_learner(cfg, model, ranks, global_batch, len(train_loader))

    progress = Progress()
    make_run_folder(folder, ranks)
    if checkpoint is not None:
        progress, old = load_checkpoint(checkpoint, learner)
        _compare(old, cfg, checkpoint)
    log_file = log_to_file(folder / LOG) if ranks.is_first else None
    metrics = MetricLog(folder if ranks.is_first else None, progress.step)
    if ranks.is_first:
        write_config(folder, cfg.to_dict(), progress.epoch)
        _introduce(cfg, learner, train_loader, val_loader, global_batch, progress)

    try:
        for epoch in range(progress.epoch, epochs):
            learner.begin_epoch(epoch)
            meter = Meter(
                metrics,
                epoch,
                epochs,
                progress.step,
                len(train_loader),
                global_batch,
                cfg.log_config.interval,
                ranks.is_first,
            )
            for batch in train_loader.epoch(epoch):
                rng = np.random.default_rng((seed, ranks.rank, progress.step, _MIXUP))
                images, targets = mixup(batch.images, batch.labels, epoch, rng)
                meter.batch_read()
                loss = train_step(learner, images, targets, progress.step)
                progress.step += 1
                meter.step_made(loss, learner.optimizer.get_lr())
            meter.close()
            progress.epoch += 1

            ranks.average_statistics(model.state_dict())
            ranks.average_statistics(learner.average.averages)
            is_best = False
            if progress.epoch % cfg.get("eval_interval", 1) == 0 or progress.epoch == epochs:
                with learner.average.applied():
                    scores = evaluate(model, val_loader, ranks)
                is_best = scores.top1 > progress.best_top1
                if is_best:
                    progress.best_top1, progress.best_epoch = scores.top1, progress.epoch
                if ranks.is_first:
                    _report(metrics, scores, progress)
            if ranks.is_first:
                # The best one first: killed in between, the run is resumed from the epoch before
                # and finds it again.
                for name in [BEST, LAST] if is_best else [LAST]:
                    save_checkpoint(
                        folder / name, learner, progress, cfg.to_dict(), train_loader.classes
                    )
            ranks.wait()
    finally:
        metrics.close()
        if log_file is not None:
            stop_logging_to(log_file)
    return progress


def _introduce(
    cfg: Config,
    learner: Learner,
    train_loader: Loader,
    val_loader: Loader,
    global_batch: int,
    progress: Progress,
) -> None:
    """Say what is about to run."""
    log = get_logger().info
    count = sum(p.size for p in learner.model.parameters() if not p.stop_gradient)
    log(
        "%s with %s parameters on %s, %d process(es)",
        cfg.model.architecture.name,
        f"{count:,}",
        paddle.get_device(),
        learner.ranks.world,
    )
    log(
        "%d training and %d validation pictures, %d classes",
        len(train_loader.dataset),
        len(val_loader.dataset),
        len(train_loader.classes),
    )
    log(
        "global batch %d, %d steps an epoch, peak learning rate %g (%s)",
        global_batch,
        len(train_loader),
        scaled_lr(cfg.optimizer, global_batch),
        lr_rule(cfg.optimizer, global_batch),
    )
    if progress.epoch >= cfg.epochs:
        log("all %d epochs are done; for more, raise epochs", cfg.epochs)
    elif progress.step:
        log(
            "resumed after epoch %d, step %d; best so far %.2f %%",
            progress.epoch,
            progress.step,
            progress.best_top1,
        )


def _report(metrics: MetricLog, scores: Scores, progress: Progress) -> None:
    metrics.write("val", progress.step, epoch=progress.epoch, **scores.to_dict())
    get_logger().info(
        "[Eval][Epoch %d] top1: %.2f, top5: %.2f, loss: %.4f, ips: %.1f samples/s; best top1: %.2f "
        "(epoch %d)",
        progress.epoch,
        scores.top1,
        scores.top5,
        scores.loss,
        scores.ips,
        progress.best_top1,
        progress.best_epoch,
    )


def _compare(old: dict, cfg: Config, checkpoint: Path) -> None:
    """A resumed run may have other settings, such as more epochs; say which. Another optimizer
    cannot use the state.
    """
    if old["optimizer"]["name"] != cfg.optimizer.name:
        raise CheckpointError(
            f"{checkpoint}: saved with optimizer {old['optimizer']['name']}, which "
            f"{cfg.optimizer.name} cannot go on from; "
            f"keep optimizer.name, or start anew with model.pretrained: {checkpoint}"
        )
    before, now = dict(leaves(old)), dict(leaves(cfg.to_dict()))
    for keys in sorted(before.keys() | now.keys(), key=str):
        if before.get(keys) != now.get(keys) and keys != ("output_dir",):
            get_logger().warning(
                "resuming with another %s: %r was %r", dotted(keys), now.get(keys), before.get(keys)
            )
