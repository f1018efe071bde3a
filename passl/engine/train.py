"""A training run on one page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from passl.data.datasets.fingerprint import fingerprint, hashed_lists
from passl.data.loader import Batch, Loader, build_loader
from passl.data.transforms.mixup import Mixup, build_mixup
from passl.data.transforms.sizes import sizes_differ
from passl.distributed import ranks as distributed
from passl.distributed.agreement import agree_on_run
from passl.distributed.ranks import Ranks
from passl.engine.checkpoint import load_checkpoint
from passl.engine.determinism import ask_for_determinism, report
from passl.engine.learner import Learner, build_learner
from passl.engine.metrics import Meter, MetricLog
from passl.engine.progress import Progress
from passl.engine.resume import (
    compare,
    compare_data,
    continue_schedule,
    start_from,
    steps_done,
)
from passl.engine.run_folder import (
    NONFINITE,
    by_first,
    check_start,
    make_last,
    opened_run_folder,
    write_config,
)
from passl.engine.saver import Saver
from passl.engine.signals import StopRequest
from passl.engine.starts import record_start, recorded_failure
from passl.engine.step import Outcome, train_step
from passl.errors import RunError, Stopped
from passl.evaluation.scores import Scores, predict, score
from passl.io.files import write_text
from passl.logging import get_logger
from passl.modeling import Model
from passl.optim.optimizers import lr_rule, scaled_lr
from passl.utils.config import Config

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
        Stopped: it was told to stop by SIGTERM or SIGINT, and has saved its state.
    """
    unknown = ask_for_determinism() if cfg.get("deterministic", False) else None
    folder = Path(cfg.output_dir)
    with (
        distributed.start(cfg.get("device", "auto"), cfg.get("timeouts")) as ranks,
        opened_run_folder(folder, ranks),
    ):
        by_first(ranks, lambda: check_start(folder, resume))
        if unknown is not None and ranks.is_first:
            report(unknown)
        with recorded_failure(folder, ranks):
            run, resumed_from = _set_up(cfg, resume, ranks)
        return _train(run, resumed_from)


def _set_up(cfg: Config, resume: str | None, ranks: Ranks) -> tuple[Run, Path | None]:
    """The run before its first step, and the checkpoint that it goes on from."""
    seed, folder = cfg.get("seed", 0), Path(cfg.output_dir)
    place = {"rank": ranks.rank, "world": ranks.world, "local_world": ranks.local_world}
    train_loader = build_loader(cfg.dataloader.train, seed, **place, even=True)
    val_loader = build_loader(cfg.dataloader.val, seed, **place)
    global_batch = cfg.dataloader.train.sampler.batch_size * ranks.world

    classes = train_loader.classes
    cfg = cfg.filled(("model", "head", "num_classes"), len(classes))
    parts = {"train": train_loader, "val": val_loader}
    data = {part: fingerprint(loader.dataset) for part, loader in parts.items()}
    lists = {part: hashed_lists(loader.dataset) for part, loader in parts.items()}
    agree_on_run(ranks, cfg, resume, data, lists)
    paddle.seed(seed)
    checkpoint, model = start_from(cfg, resume, classes, ranks) or (None, None)
    if model is None:
        pretrained, fit = cfg.model.get("pretrained", False), cfg.model.get("fit", ())
        model = Model(cfg, pretrained, fit, classes)
    cfg = cfg.filled(("model", "head", "in_channels"), model.backbone.num_features)
    learner = build_learner(
        cfg, model, ranks, global_batch, len(train_loader), train_loader.dataset
    )

    progress = Progress()
    resumed_from = None if checkpoint is None else checkpoint.path
    if checkpoint is not None:
        progress, old = load_checkpoint(checkpoint, learner)
        compare(old, cfg, checkpoint.path)
        compare_data(checkpoint, data, progress)
        continue_schedule(learner, progress, global_batch, len(train_loader), checkpoint.path)
        if ranks.is_first:
            make_last(folder, checkpoint.path)
    del checkpoint  # as large as the network and the optimizer's state
    progress.world_size, progress.global_batch = ranks.world, global_batch
    metrics = MetricLog(folder if ranks.is_first else None, progress.step, progress.epoch)
    run = Run(
        cfg=cfg,
        learner=learner,
        train_loader=train_loader,
        val_loader=val_loader,
        mixup=build_mixup(cfg.dataloader.train.get("mixup"), len(classes)),
        global_batch=global_batch,
        metrics=metrics,
        saver=Saver(
            folder,
            learner,
            metrics,
            cfg.to_dict(),
            classes,
            data,
            **cfg.get("checkpoint", {}),
        ),
        progress=progress,
        stop=StopRequest(),
    )
    return run, resumed_from


def _train(run: Run, resumed_from: Path | None) -> Progress:
    cfg, ranks, progress, folder = run.cfg, run.learner.ranks, run.progress, run.saver.folder
    try:
        if ranks.is_first:
            write_config(folder, cfg.to_dict(), progress.epoch)
            record_start(folder, ranks, progress, resumed_from)
            _introduce(run)
        ranks.wait()
        with run.stop:
            while progress.epoch < cfg.epochs:
                _train_epoch(run)
                _finish_epoch(run)
        if ranks.is_first:
            get_logger().info(
                "best top1 %.2f %% in epoch %d; everything is in %s",
                progress.best_top1,
                progress.best_epoch,
                folder,
            )
    finally:
        run.metrics.close()
    return progress


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the parts of a run share.

    Args:
        mixup: of each batch.
        global_batch: samples of a step over all ranks.
        progress: changes as the run goes on; so does the learner.
        stop: whether the run was told to stop.
    """

    cfg: Config
    learner: Learner
    train_loader: Loader
    val_loader: Loader
    mixup: Mixup
    global_batch: int
    metrics: MetricLog
    saver: Saver
    progress: Progress
    stop: StopRequest


def _train_epoch(run: Run) -> None:
    """The steps of an epoch that are left."""
    cfg, learner, progress = run.cfg, run.learner, run.progress
    ranks, epoch, steps = learner.ranks, progress.epoch, len(run.train_loader)
    done = steps_done(progress, run.global_batch, steps)
    learner.begin_epoch(epoch)
    meter = Meter(
        run.metrics,
        epoch,
        cfg.epochs,
        progress.step - done,
        steps,
        cfg.log_config.interval,
        ranks.is_first,
        done,
        progress.pending,
    )
    for batch in _batches(run, epoch, done):
        rng = np.random.default_rng((learner.seed, ranks.rank, progress.step, _MIXUP))
        images, targets = run.mixup(batch.images, batch.labels, epoch, rng)
        meter.batch_read()
        outcome = train_step(learner, images, targets, progress.step)
        if not outcome.is_finite:
            _pass_over(run, outcome, batch)
        progress.step += 1
        progress.samples += run.global_batch
        loss = outcome.loss if outcome.is_finite else None
        # Training deals the samples out evenly.
        meter.step_made(loss, learner.optimizer.get_lr(), len(batch.labels) * ranks.world)
        progress.pending = meter.pending
        if progress.step % cfg.get("rank_check_interval", 100) == 0:
            ranks.check_same(learner.model, progress.step)
        told = ranks.any(run.stop.name)
        if told or run.saver.is_due(progress.step):
            run.saver.save(progress)
        if told:
            raise _stopped(run, "after")
    meter.close()


def _batches(run: Run, epoch: int, done: int) -> Iterator[Batch]:
    """The batches of an epoch that are left. If one does not come when the run is told to stop, the
    run ends as it was after the step before.
    """
    try:
        yield from run.train_loader.epoch(epoch, done, run.stop.check)
    except Stopped:
        if run.learner.ranks.world > 1:  # the others wait for this one in the middle of a step
            raise RunError(
                f"{run.stop.name} while a batch is late after step {run.progress.step}: nothing is "
                "saved beyond the last checkpoint"
            ) from None
        run.saver.save(run.progress)
        raise _stopped(run, "while a batch is late after") from None


def _finish_epoch(run: Run) -> None:
    """Evaluate if it is time, and save."""
    cfg, learner, progress, ranks = run.cfg, run.learner, run.progress, run.learner.ranks
    ranks.average_statistics(dict(learner.model.named_parameters()))
    ranks.average_statistics(learner.average.averages)
    epoch, is_best = progress.epoch + 1, False
    best_saved = progress.best_top1, progress.best_epoch
    if epoch % cfg.get("eval_interval", 1) == 0 or epoch == cfg.epochs:
        scores = _evaluate(run)
        is_best = scores.top1 > progress.best_top1
        if is_best:
            progress.best_top1, progress.best_epoch = scores.top1, epoch
        if ranks.is_first:
            _report(run, scores, epoch)
    progress.epoch, progress.samples = epoch, 0
    if not run.saver.save(progress, is_best):
        progress.best_top1, progress.best_epoch = best_saved
        if epoch == cfg.epochs:
            raise RunError(
                f"all {epoch} epochs are done, but their end is not saved in {cfg.output_dir}; "
                "make room, then go on from the last checkpoint by --resume auto"
            )
    if progress.epoch < cfg.epochs and ranks.any(run.stop.name):
        raise _stopped(run, "after")


def _evaluate(run: Run) -> Scores:
    """The scores of the averaged weights.

    Raises:
        Stopped: the run was told to stop, and is saved as it was before.
    """
    learner, ranks, precision = run.learner, run.learner.ranks, run.learner.precision
    loader: Any = _Stoppable(run.val_loader, run.stop)
    with (
        learner.average.applied(),
        precision.weights(learner.model),
        precision.autocast(),
        suppress(Stopped),
    ):
        found = predict(learner.model, loader, run.val_loader.dataset.valid_labels)
    # Here every rank comes by, at the end of its part or told to stop; in `score` they must meet.
    ranks.wait()
    if ranks.any(run.stop.name):
        run.saver.save(run.progress)
        raise _stopped(run, "in the evaluation after")
    return score(found, len(run.val_loader.classes), ranks)


@dataclass(frozen=True)
class _Stoppable:
    """A loader that stops between two batches if the run is told to."""

    loader: Loader
    stop: StopRequest

    @property
    def classes(self) -> list[str]:
        return self.loader.classes

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for batch in self.loader.epoch(epoch, check=self.stop.check):
            self.stop.check()
            yield batch


def _stopped(run: Run, when: str) -> Stopped:
    text = f"{run.stop.name or 'another process'} {when} step {run.progress.step}"
    get_logger().info("stopping: %s", text)
    return Stopped(text)


def _pass_over(run: Run, outcome: Outcome, batch: Batch) -> None:
    """What a loss that is not finite leads to: the end, or up to `max_nonfinite` times a warning.

    Raises:
        RunError: the run cannot go on.
    """
    cfg, progress, ranks = run.cfg, run.progress, run.learner.ranks
    progress.skipped += 1
    names = [run.train_loader.dataset.name(int(index)) for index in batch.indices.tolist()]
    own = names if not np.isfinite(outcome.own_loss) else []
    gathered = ranks.gather_texts(own)
    # A recipe may take a picture several times.
    pictures = list(dict.fromkeys(name for part in gathered for name in part))
    file = Path(cfg.output_dir) / NONFINITE.format(progress.step + 1)
    listed = f"all in {file}"
    if ranks.is_first:
        try:
            write_text(file, "".join(f"{name}\n" for name in pictures))
        except OSError as error:
            listed = f"{file} cannot be written ({error.strerror})"
    message = (
        f"the loss is {outcome.loss} at step {progress.step + 1} (epoch {progress.epoch + 1}, "
        f"learning rate {run.learner.optimizer.get_lr():.3g}, gradient norm "
        f"{outcome.gradient_norm:.3g}); pictures of the batch: {', '.join(pictures[:3])}"
        f"{', ...' if len(pictures) > 3 else ''}, {listed}"
    )
    limit = cfg.get("max_nonfinite", 10) if cfg.get("on_nonfinite", "stop") == "skip" else 0
    if progress.skipped > limit:
        raise RunError(
            f"{message}. The last checkpoint is kept. A lower optimizer.lr, a longer warm-up or "
            "optimizer.grad_clip can help"
        )
    get_logger().warning("%s. Passed over (%d of at most %d)", message, progress.skipped, limit)


def _introduce(run: Run) -> None:
    """Say what is about to run."""
    cfg, learner, progress, log = run.cfg, run.learner, run.progress, get_logger().info
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
        len(run.train_loader.dataset),
        len(run.val_loader.dataset),
        len(run.train_loader.classes),
    )
    remark = sizes_differ(run.train_loader.samples, run.val_loader.samples)
    if remark is not None:
        get_logger().warning(remark)
    log(
        "global batch %d, %d steps an epoch, peak learning rate %g (%s)",
        run.global_batch,
        len(run.train_loader),
        scaled_lr(cfg.optimizer, run.global_batch),
        lr_rule(cfg.optimizer, run.global_batch),
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


def _report(run: Run, scores: Scores, epoch: int) -> None:
    progress = run.progress
    run.metrics.write("val", progress.step, epoch=epoch, **scores.to_dict())
    get_logger().info(
        "[Eval][Epoch %d] top1: %.2f, top5: %.2f, loss: %.4f, ips: %.1f samples/s; best top1: %.2f "
        "(epoch %d)",
        epoch,
        scores.top1,
        scores.top5,
        scores.loss,
        scores.ips,
        progress.best_top1,
        progress.best_epoch,
    )
