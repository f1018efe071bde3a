"""What a run goes on from: which checkpoint, whether it fits, and what is another now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passl.distributed.agreement import agree
from passl.distributed.ranks import Ranks
from passl.engine.checkpoint import Checkpoint, load_checkpoint, read_checkpoint
from passl.engine.learner import Learner
from passl.engine.progress import Progress, damaged
from passl.engine.run_folder import (
    BEST,
    by_first,
    find_checkpoint,
    has_checkpoint,
    make_last,
    set_aside,
)
from passl.errors import CheckpointError, ConfigError
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

    def find() -> str | None:
        found = find_checkpoint(folder, resume, lambda path: _open(path, cfg, classes))
        set_aside(folder)
        if found is None:
            return None
        opened.append(found)
        return str(found[0].path)

    found = by_first(ranks, find)
    if found is None:
        agree(ranks, {f"a checkpoint in {folder}": has_checkpoint(folder)}, _SHARED)
        pretrained, fit = cfg.model.get("pretrained", False), cfg.model.get("fit", ())
        return None, Model(cfg, pretrained, fit, classes)
    checkpoint = None
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
        progress.best_top1, progress.best_epoch = -1.0, 0
    if learner.ranks.is_first:
        make_last(folder, checkpoint.path)
    return progress


def _open(path: Path, cfg: Config, classes: list[str]) -> tuple[Checkpoint, Model]:
    checkpoint = read_checkpoint(path)
    return checkpoint, _network(checkpoint, cfg, classes)


def _network(checkpoint: Checkpoint, cfg: Config, classes: list[str]) -> Model:
    """The network with the weights of a checkpoint, and with the numerics of what it was fine-tuned
    from.

    Raises:
        CheckpointError: it is another network's.
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
    anew = f"begin anew with model.pretrained: {path} in another output_dir"
    try:
        order = order_in(before, classes)
    except ValueError as error:
        raise ConfigError(
            f"{path}: the data no longer has the classes that the run was trained on: {error}. "
            f"Name them as before, or {anew}, and model.fit: [classes]"
        ) from None
    if order is not None:
        label = next(label for label, place in enumerate(order) if label != place)
        raise ConfigError(
            f"{path}: the data now has the classes in another order: label {label} is "
            f"{classes[label]}, and was {before[label]}. List them in the order before by "
            f"class_file, or {anew}"
        )


def _compare_data(
    checkpoint: Checkpoint, data: Mapping[str, Mapping[str, Any]], progress: Progress
) -> None:
    """Say which parts of the data are others than the run had before.

    Args:
        data: fingerprints of the parts.

    Raises:
        ConfigError: the run stands within an epoch of training data that had other samples, so
            that what is left of it cannot be known.
    """
    for part, before in checkpoint.data.items():
        now = data.get(part, {})
        changed = [name for name, value in before.items() if now.get(name) != value]
        if not changed:
            continue
        count = f"{now.get('samples')} samples, it was {before.get('samples')}"
        what = f"the {part} data has other {', '.join(changed)} ({count})"
        order = {"samples", "labels"}.intersection(changed)
        if part == "train" and progress.samples and order:
            raise ConfigError(
                f"{checkpoint.path} stands within an epoch, behind sample {progress.samples}, and "
                f"{what}; give it the data it had until the epoch is done, or begin anew with "
                f"model.pretrained: {checkpoint.path} in another output_dir"
            )
        get_logger().warning("resuming with other data: %s", what)


def compare(old: dict, cfg: Config, checkpoint: Path) -> None:
    """A resumed run may have other settings, such as more epochs; say which. Another optimizer
    cannot use the state.
    """
    try:
        name, before = old["optimizer"]["name"], dict(leaves(old))
    except (KeyError, TypeError, RecursionError):
        raise damaged(checkpoint, "its config is not that of a run") from None
    if name != cfg.optimizer.name:
        raise CheckpointError(
            f"{checkpoint}: saved with optimizer {name}, which "
            f"{cfg.optimizer.name} cannot go on from; "
            f"keep optimizer.name, or start anew with model.pretrained: {checkpoint}"
        )
    now = dict(leaves(cfg.to_dict()))
    for keys in sorted(before.keys() | now.keys(), key=str):
        if before.get(keys) != now.get(keys) and keys != ("output_dir",):
            get_logger().warning(
                "resuming with another %s: %r was %r", dotted(keys), now.get(keys), before.get(keys)
            )


def _continue_schedule(
    learner: Learner, progress: Progress, global_batch: int, steps: int, checkpoint: Path
) -> None:
    """Let the learning rate go on at the same epoch and the same part of it, however many steps the
    epochs had before; and say if the batches are not the same.

    Args:
        global_batch: of this run; steps: of its epochs.
    """
    whole = progress.samples >= steps * global_batch
    if progress.samples % global_batch and not whole:
        raise ConfigError(
            f"{checkpoint} stands within an epoch, behind sample {progress.samples}, which the "
            f"global batch of {global_batch} does not divide; keep the global batch, "
            "batch_size x processes, until the epoch is done"
        )
    place = progress.epoch * steps + steps_done(progress, global_batch, steps)
    learner.schedule_shift = place - progress.step
    world = learner.ranks.world
    if progress.world_size not in (0, world) or progress.global_batch not in (0, global_batch):
        get_logger().warning(
            "resuming with %d process(es) and a global batch of %d, it was %d and %d: the run goes "
            "on, but not as it would have",
            world,
            global_batch,
            progress.world_size,
            progress.global_batch,
        )
    if learner.schedule_shift:
        get_logger().warning(
            "an epoch has %d steps now, and had another number before: the learning rate goes on "
            "at epoch %.2f of the schedule",
            steps,
            place / steps,
        )


def steps_done(progress: Progress, global_batch: int, steps: int) -> int:
    """Steps of the epoch that is not finished. (Its last one may have less than a batch.)"""
    return min(progress.samples // global_batch, steps)
