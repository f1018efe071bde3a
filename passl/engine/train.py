"""A training run on one page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from passl.data.datasets.fingerprint import fingerprint, hashed_lists
from passl.data.loader import Batch, Loader, build_loader
from passl.data.transforms.mixup import build_mixup
from passl.distributed import ranks as distributed
from passl.distributed.agreement import agree_on_run
from passl.distributed.ranks import Ranks
from passl.engine.attention_log import AttentionLog
from passl.engine.determinism import make_deterministic
from passl.engine.exporter import Exporter, exported
from passl.engine.learner import build_learner
from passl.engine.metrics import Meter, MetricLog
from passl.engine.progress import Progress
from passl.engine.resume import continue_run, start_from, steps_done
from passl.engine.run import Run, best_score_text, log_network, log_scores, log_start, show_start
from passl.engine.run_folder import (
    NONFINITE,
    by_first,
    check_start,
    opened_run_folder,
    write_config,
)
from passl.engine.saver import Saver
from passl.engine.signals import StopRequest
from passl.engine.starts import record_start, recorded_failure
from passl.engine.step import Outcome, train_step
from passl.errors import RunError, Stopped, shortened
from passl.evaluation.added_metrics import build_metrics
from passl.evaluation.scores import predict
from passl.evaluation.task import Scores
from passl.io.files import write_text
from passl.io.terminal import Bar
from passl.logging import get_logger
from passl.utils.config import Config

_MIXUP = 1  # separates the random numbers of mixup from those of samples and steps


def train(
    cfg: Config, resume: str | None = None, metrics_at: tuple[str, int] | None = None
) -> Progress:
    """Train and evaluate as the config says, in its `output_dir`.

    Args:
        cfg: checked by `engine.check.check_config`.
        resume: null for a new run; `auto` to continue from the folder's last checkpoint, if there
            is one; or a checkpoint's path.
        metrics_at: host and port where the first process serves the numbers of the run to
            Prometheus; null for nowhere.

    Returns:
        The state at the end, best score included.

    Raises:
        ConfigError: the run cannot start as configured.
        RunError: the run cannot continue, because of data, loss, disk or another process.
        Stopped: SIGTERM or SIGINT has stopped it, and its state is saved.
    """
    folder = Path(cfg.output_dir)
    if cfg.get("deterministic", False):
        make_deterministic()
    with (
        distributed.start(cfg.get("device", "auto"), cfg.get("timeouts")) as ranks,
        opened_run_folder(folder, ranks),
        exported(metrics_at, ranks) as exporter,
    ):
        by_first(ranks, lambda: check_start(folder, resume))
        with recorded_failure(folder, ranks):
            run, checkpoint = _set_up(cfg, resume, ranks, exporter)
        progress = run.progress
        with closing(run.metrics), run.stop, run.bar, run.saver:
            if ranks.is_first:
                write_config(folder, run.cfg.to_dict(), progress.epoch)
                record_start(folder, ranks, progress, checkpoint, config=cfg.file)
                log_start(run)
                show_start(run)
                if progress.step == 0:
                    log_network(run, 0)
            ranks.wait()
            while progress.epoch < cfg.epochs:
                _train_epoch(run)
                _finish_epoch(run)
        if ranks.is_first:
            get_logger().info("%s; the run is in %s", best_score_text(run), folder)
    return progress


def _set_up(
    cfg: Config, resume: str | None, ranks: Ranks, exporter: Exporter | None
) -> tuple[Run, Path | None]:
    """Build the parts of a run, in the order in which they need each other.

    Returns:
        The run before its first step, and the checkpoint that it continues from.
    """
    seed, folder = cfg.get("seed", 0), Path(cfg.output_dir)
    train_loader, val_loader = build_loaders(cfg, ranks)
    classes, steps = train_loader.classes, len(train_loader)
    cfg = cfg.filled(("model", "head", "num_classes"), len(classes))
    parts = {"train": train_loader.dataset, "val": val_loader.dataset}
    data = {part: fingerprint(dataset) for part, dataset in parts.items()}
    lists = {part: hashed_lists(dataset) for part, dataset in parts.items()}
    agree_on_run(ranks, cfg, resume, data, lists)

    paddle.seed(seed)
    checkpoint, model = start_from(cfg, resume, classes, ranks)
    for option, value in model.derived.items():
        cfg = cfg.filled(("model", "head", option), value)
    global_batch = cfg.dataloader.train.sampler.batch_size * ranks.world
    learner = build_learner(cfg, model, ranks, global_batch, steps, train_loader.dataset)
    progress = Progress()
    if checkpoint is not None:
        progress = continue_run(checkpoint, learner, cfg, data, global_batch, steps)
    progress.world_size, progress.global_batch = ranks.world, global_batch
    options = cfg.log_config.get("attention")
    at = progress.step, progress.epoch
    metrics = MetricLog(folder if ranks.is_first else None, *at, exporter)
    run = Run(
        cfg=cfg,
        learner=learner,
        train_loader=train_loader,
        val_loader=val_loader,
        mixup=build_mixup(cfg.dataloader.train.get("mixup"), len(classes)),
        metrics=metrics,
        saver=Saver(
            folder, learner, metrics, cfg.to_dict(), classes, data, **cfg.get("checkpoint", {})
        ),
        progress=progress,
        stop=StopRequest(),
        bar=_bar_of_run(cfg, progress, steps, ranks),
        attention=AttentionLog(val_loader, **options) if options is not None else None,
    )
    return run, None if checkpoint is None else checkpoint.path


def _bar_of_run(cfg: Config, progress: Progress, steps: int, ranks: Ranks) -> Bar:
    done = progress.epoch * steps + steps_done(progress, progress.global_batch, steps)
    return Bar("run", cfg.epochs * steps, done=done, shown=ranks.is_first)


def build_loaders(cfg: Config, ranks: Ranks) -> tuple[Loader, Loader]:
    """The loaders of the training and the validation data for this process."""
    seed, data = cfg.get("seed", 0), cfg.dataloader
    place: dict[str, Any] = {
        "rank": ranks.rank,
        "world": ranks.world,
        "local_world": ranks.local_world,
    }
    return (
        build_loader(data.train, seed, even=True, **place),
        build_loader(data.val, seed, **place),
    )


def _train_epoch(run: Run) -> None:
    """Make the remaining steps of an epoch.

    Raises:
        Stopped: the run was asked to stop. Its state is saved.
    """
    cfg, progress, epoch, steps = run.cfg, run.progress, run.progress.epoch, len(run.train_loader)
    done = steps_done(progress, progress.global_batch, steps)
    run.learner.begin_epoch(epoch)
    run.bar.text = best_score_text(run)
    with Meter(
        run.metrics,
        run.learner.ranks,
        epoch=epoch,
        epochs=cfg.epochs,
        first_step=progress.step - done,
        steps=steps,
        interval=cfg.log_config.interval,
        run_bar=run.bar,
        done=done,
        pending=progress.pending,
    ) as meter:
        must_stop = _make_steps(run, meter, done)
    if must_stop:
        run.saver.save(progress)
        raise _stopped(run, "after")


def _make_steps(run: Run, meter: Meter, done: int) -> bool:
    """Make the steps of an epoch after the first `done`.

    The outcome of a step is read when the next step is queued, so that the device does not wait for
    the host. It is read at once before weights are saved or compared.

    Returns:
        Whether the run must stop.
    """
    cfg, learner, progress = run.cfg, run.learner, run.progress
    ranks, epoch, must_stop = learner.ranks, progress.epoch, False
    for batch in _batches(run, epoch, done):
        rng = np.random.default_rng((learner.seed, ranks.rank, progress.step, _MIXUP))
        with ranks.times.computing():
            images, targets = run.mixup(batch.images, batch.labels, epoch, rng)
            outcome = train_step(learner, images, targets, progress.step, run.stop.name is not None)
        meter.step_queued()
        progress.step += 1
        progress.samples += progress.global_batch
        run.queued.append((progress.step, outcome, batch.indices))
        compares = progress.step % cfg.get("rank_check_interval", 100) == 0
        saves = run.saver.is_due(progress.step)
        must_stop = _read_outcomes(run, meter, keep=0 if compares or saves else 1)
        if must_stop:
            break
        run.saver.check()
        if compares:
            ranks.check_same(learner.model, progress.step)
        if saves:
            run.saver.save(progress)
    return _read_outcomes(run, meter, keep=0) or must_stop


def _read_outcomes(run: Run, meter: Meter, keep: int) -> bool:
    """Read the outcomes of the queued steps but for the last `keep`.

    Returns:
        Whether the run must stop. Every rank knows so at the same step.

    Raises:
        RunError: a loss is not finite, and the run may not skip the step.
    """
    ranks = run.learner.ranks
    must_stop = ranks.world == 1 and run.stop.name is not None
    while len(run.queued) > keep:
        step, outcome, indices = run.queued.popleft()
        if not outcome.is_finite:
            _handle_nonfinite(run, step, outcome, indices)
        # Every rank has as many samples.
        samples = len(indices) * ranks.world
        meter.step_done(outcome.loss if outcome.is_finite else None, outcome.lr, samples)
        must_stop |= outcome.stop
    run.progress.pending = meter.pending
    return must_stop


def _batches(run: Run, epoch: int, done: int) -> Iterator[Batch]:
    """The remaining batches of an epoch. If the run is asked to stop while it waits for one, there
    are no more.
    """
    times = run.learner.ranks.times
    try:
        yield from times.reading(run.train_loader.epoch(epoch, done, run.stop.check, times))
    except Stopped:
        if run.learner.ranks.world > 1:  # the others wait for this one in the middle of a step
            raise RunError(
                f"{run.stop.name} while a batch is late after step {run.progress.step}: nothing is "
                "saved beyond the last checkpoint"
            ) from None


def _handle_nonfinite(run: Run, step: int, outcome: Outcome, indices: Any) -> None:
    """End the run, or skip up to `max_nonfinite` steps, when a loss is not finite.

    Args:
        step: number of the step, from 1.
        indices: [B], samples of this rank's batch.

    Raises:
        RunError: the run cannot continue.
    """
    cfg, progress, ranks = run.cfg, run.progress, run.learner.ranks
    progress.skipped += 1
    names = [run.train_loader.dataset.name(int(index)) for index in indices.tolist()]
    gathered = ranks.gather_texts([] if np.isfinite(outcome.own_loss) else names)
    # Repeated augmentation takes an image several times.
    images = list(dict.fromkeys(name for part in gathered for name in part))
    file = Path(cfg.output_dir) / NONFINITE.format(step)
    listed = f"all in {file}"
    if ranks.is_first:
        try:
            write_text(file, "".join(f"{name}\n" for name in images))
        except OSError as error:
            listed = f"{file} cannot be written ({error.strerror})"
    message = (
        f"the loss is {outcome.loss} at step {step} (epoch {progress.epoch + 1}, learning rate "
        f"{outcome.lr:.3g}); images of the batch: {shortened(images, 3)}, {listed}"
    )
    limit = cfg.get("max_nonfinite", 10) if run.learner.skip_nonfinite else 0
    if progress.skipped > limit:
        raise RunError(
            f"{message}. The last checkpoint is kept. A lower optimizer.lr, a longer warmup or "
            "optimizer.grad_clip can help"
        )
    get_logger().warning("%s. Skipped (%d of at most %d)", message, progress.skipped, limit)


def _finish_epoch(run: Run) -> None:
    """Evaluate if it is due, and save."""
    cfg, learner, progress, ranks = run.cfg, run.learner, run.progress, run.learner.ranks
    ranks.average_statistics(dict(learner.model.named_parameters()))
    ranks.average_statistics(learner.average.averages)
    epoch, best_before = progress.epoch + 1, None
    if epoch % cfg.get("eval_interval", 1) == 0 or epoch == cfg.epochs:
        scores = _evaluate(run)
        run.saver.wait()  # a best state that cannot be written does not count
        score = getattr(scores, run.task.best)
        if score > progress.best_score:
            best_before = progress.best_score, progress.best_epoch
            progress.best_score, progress.best_epoch = score, epoch
        if ranks.is_first:
            log_scores(run, scores, epoch)
    progress.epoch, progress.samples = epoch, 0
    run.saver.save(progress, best_before)
    if epoch == cfg.epochs and not run.saver.wait():
        raise RunError(
            f"all {epoch} epochs are done, but their end is not saved in {cfg.output_dir}; make "
            "room, then continue from the last checkpoint by --resume auto"
        )
    if progress.epoch < cfg.epochs and ranks.any(run.stop.name):
        raise _stopped(run, "after")


def _evaluate(run: Run) -> Scores:
    """The scores of the averaged weights.

    Raises:
        Stopped: the run was asked to stop. Its state before the evaluation is saved.
    """
    learner, ranks, precision = run.learner, run.learner.ranks, run.learner.precision
    loader = run.val_loader
    with (
        learner.average.applied(),
        precision.weights(learner.model),
        precision.autocast(),
        suppress(Stopped),
    ):
        labels, shown = loader.dataset.valid_labels, ranks.is_first
        found = predict(learner.model, loader, labels, check=run.stop.check, shown=shown)
    if ranks.is_first:
        log_network(run, run.progress.epoch + 1)
    # Every rank comes here, at the end of its part or asked to stop. In `score` all must meet.
    ranks.wait()
    if ranks.any(run.stop.name):
        run.saver.save(run.progress)
        raise _stopped(run, "in the evaluation after")
    metrics = build_metrics(run.cfg.get("metrics") or ())
    return run.task.score(found, len(run.val_loader.classes), ranks, metrics)


def _stopped(run: Run, when: str) -> Stopped:
    text = f"{run.stop.name or 'another process'} {when} step {run.progress.step}"
    get_logger().info("stopping: %s", text)
    return Stopped(text)
