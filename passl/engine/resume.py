"""Resuming a run: which checkpoint it continues from, whether that fits, and what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passl.distributed.agreement import agree
from passl.distributed.ranks import Ranks
from passl.engine.checkpoint import Checkpoint, load_checkpoint, read_checkpoint
from passl.engine.learner import Learner
from passl.engine.progress import Progress, damaged
from passl.engine.remote_folder import RemoteFolder
from passl.engine.run_folder import (
    BEST,
    by_first,
    find_checkpoint,
    has_checkpoint,
    make_last,
    set_aside,
)
from passl.errors import CheckpointError, ConfigError, RunError
from passl.logging import get_logger
from passl.modeling import Model
from passl.porting.classes import are_named, order_in
from passl.utils.config import Config, dotted, leaves

_SHARED = "All machines must see the same files in output_dir, on a disk that they share"


def start_from(
    cfg: Config, resume: str | None, classes: list[str], ranks: Ranks
) -> tuple[Checkpoint | None, Model]:
    """The checkpoint that a run continues from, null for a new run, and the network with the
    weights that it starts with. The first rank finds the checkpoint for all; every rank reads it,
    once.
    """
    folder, opened = Path(cfg.output_dir), []
    remote = _remote_folder(cfg)

    def find() -> str | None:
        if remote is not None and resume == "auto":
            remote.restore()
        elif remote is not None and (resume is None or not remote.is_known):
            remote.check_unused()
        found = find_checkpoint(folder, resume, lambda path: _open(path, cfg, classes))
        set_aside(folder)
        if found is None:
            return None
        opened.append(found)
        if ranks.world > 1:
            _publish(remote)  # the processes of other machines may restore it
        return str(found[0].path)

    found = by_first(ranks, find)
    if found is None:
        agree(ranks, {f"a checkpoint in {folder}": has_checkpoint(folder)}, _SHARED)
        pretrained, fit = cfg.model.get("pretrained", False), cfg.model.get("fit", ())
        return None, Model(cfg, pretrained, fit, classes)
    checkpoint = None
    if remote is not None and resume == "auto" and not ranks.is_first:
        remote.restore()  # does nothing where the disk has it
    try:
        checkpoint = opened[0][0] if opened else read_checkpoint(Path(found))
        content = checkpoint.sha256
    except CheckpointError as error:
        content = str(error)
    agree(ranks, {f"SHA-256 of the checkpoint {found}": content}, _SHARED)
    assert checkpoint is not None  # it is what the first rank has
    if not opened:
        opened.append((checkpoint, _network(checkpoint, cfg, classes)))
    ranks.wait()
    return opened[0]


def continue_run(
    checkpoint: Checkpoint,
    learner: Learner,
    cfg: Config,
    data: Mapping[str, Mapping[str, Any]],
    global_batch: int,
    steps: int,
) -> Progress:
    """Put the learner into the state of a checkpoint, and warn of what differs from that run.

    Args:
        data: fingerprints of the parts of the data.
        global_batch: samples of a step over all ranks.
        steps: of an epoch.

    Returns:
        How far the run has come.

    Raises:
        CheckpointError, ConfigError: the run cannot continue from it.
    """
    folder = Path(cfg.output_dir)
    progress, old = load_checkpoint(checkpoint, learner)
    compare(old, cfg, checkpoint.path)
    _compare_data(checkpoint, data, progress)
    _continue_schedule(learner, progress, global_batch, steps, checkpoint.path)
    if progress.best_epoch and not (folder / BEST).exists():
        get_logger().info("%s is not there: the best score begins again", folder / BEST)
        progress.best_score, progress.best_epoch = -1.0, 0
    if learner.ranks.is_first:
        make_last(folder, checkpoint.path)
        _publish(_remote_folder(cfg))
    return progress


def _remote_folder(cfg: Config) -> RemoteFolder | None:
    """The address of `checkpoint.url`, which gets the files of the run; null without one."""
    options = cfg.get("checkpoint", {})
    url = options.get("url")
    keep_last = options.get("keep_last")
    return None if url is None else RemoteFolder(Path(cfg.output_dir), url, keep_last)


def _publish(remote: RemoteFolder | None) -> None:
    if remote is None:
        return
    try:
        remote.publish(0)
    except OSError as error:
        raise RunError(f"checkpoint.url: {error}") from None


def _open(path: Path, cfg: Config, classes: list[str]) -> tuple[Checkpoint, Model]:
    checkpoint = read_checkpoint(path)
    return checkpoint, _network(checkpoint, cfg, classes)


def _network(checkpoint: Checkpoint, cfg: Config, classes: list[str]) -> Model:
    """The network with the weights and numerics of a checkpoint.

    Raises:
        CheckpointError: it is of another network.
        ConfigError: it is for other classes, or for these in another order.
    """
    file = checkpoint.weight_file()
    model = Model(cfg, file)
    if file.classes is not None:
        _check_classes(checkpoint.path, file.classes, classes)
    model.classes = classes
    return model


def _check_classes(path: Path, before: list[str], classes: list[str]) -> None:
    if not (are_named(before) and are_named(classes)):
        if are_named(before):
            get_logger().info("%s names its classes, the data numbers them: not compared", path)
        return
    new_run = f"start a new run with model.pretrained: {path} in another output_dir"
    try:
        order = order_in(before, classes)
    except ValueError as error:
        raise ConfigError(
            f"{path}: the data no longer has the classes of the run: {error}. Name them as before, "
            f"or {new_run}, and model.fit: [classes]"
        ) from None
    if order is not None:
        label = next(label for label, place in enumerate(order) if label != place)
        raise ConfigError(
            f"{path}: the data now has the classes in another order: label {label} is "
            f"{classes[label]}, and was {before[label]}. List them in the old order by "
            f"class_file, or {new_run}"
        )


def _compare_data(
    checkpoint: Checkpoint, data: Mapping[str, Mapping[str, Any]], progress: Progress
) -> None:
    """Warn of changed data.

    Raises:
        ConfigError: the checkpoint is within an epoch, and the training data has other samples, so
            the rest of the epoch is not known.
    """
    path = checkpoint.path
    for part, before in checkpoint.data.items():
        now = data.get(part, {})
        changed = [name for name, value in before.items() if now.get(name) != value]
        if not changed:
            continue
        count = f"{now.get('samples')} samples, it was {before.get('samples')}"
        difference = f"the {part} data has other {', '.join(changed)} ({count})"
        if part == "train" and progress.samples and not {"samples", "labels"}.isdisjoint(changed):
            raise ConfigError(
                f"{path} is within an epoch, after sample {progress.samples}, and {difference}; "
                "restore the data until the epoch is done, or start a new run with "
                f"model.pretrained: {path} in another output_dir"
            )
        get_logger().warning("resuming with other data: %s", difference)


def compare(old: dict, cfg: Config, checkpoint: Path) -> None:
    """Warn of changed settings.

    Raises:
        CheckpointError: the optimizer is another one, which cannot use the state.
    """
    try:
        name, before = old["optimizer"]["name"], dict(leaves(old))
    except (KeyError, TypeError, RecursionError):
        raise damaged(checkpoint, "its config is not that of a run") from None
    if name != cfg.optimizer.name:
        raise CheckpointError(
            f"{checkpoint}: saved with optimizer {name}, whose state {cfg.optimizer.name} cannot "
            f"use; keep optimizer.name, or start a new run with model.pretrained: {checkpoint}"
        )
    now = dict(leaves(cfg.to_dict()))
    for keys in sorted(before.keys() | now.keys(), key=str):
        if before.get(keys) != now.get(keys) and keys != ("output_dir",):
            get_logger().warning(
                "resuming with another %s: %s was %s",
                dotted(keys),
                *(json.dumps(tree.get(keys)) for tree in (now, before)),
            )


def _continue_schedule(
    learner: Learner, progress: Progress, global_batch: int, steps: int, path: Path
) -> None:
    """Continue the learning rate at the same epoch and the same part of it, even if epochs had
    another number of steps before. Warn of another global batch.
    """
    is_done = progress.samples >= steps * global_batch
    if progress.samples % global_batch and not is_done:
        raise ConfigError(
            f"{path} is within an epoch, after sample {progress.samples}, which the global batch "
            f"of {global_batch} does not divide; keep the global batch, batch_size x processes, "
            "until the epoch is done"
        )
    place = progress.epoch * steps + steps_done(progress, global_batch, steps)
    learner.schedule_shift = place - progress.step
    now, before = (
        (learner.ranks.world, global_batch),
        (progress.world_size, progress.global_batch),
    )
    if any(old not in (0, new) for old, new in zip(before, now, strict=True)):
        get_logger().warning(
            "resuming with %d process(es) and a global batch of %d, it was %d and %d: the result "
            "is not that of the unbroken run",
            *now,
            *before,
        )
    if learner.schedule_shift:
        get_logger().warning(
            "an epoch has %d steps now, and had another number before: the learning rate continues "
            "at epoch %.2f of the schedule",
            steps,
            place / steps,
        )


def steps_done(progress: Progress, global_batch: int, steps: int) -> int:
    """Steps of the current epoch. (The last one of an epoch may have less than a batch.)"""
    return min(progress.samples // global_batch, steps)
