"""What a run goes on from: which checkpoint, whether it fits, and what is another now."""

from __future__ import annotations

from pathlib import Path

from passl.engine.checkpoint import Progress, damaged, read_checkpoint
from passl.engine.distributed import Ranks
from passl.engine.learner import Learner
from passl.engine.run_folder import by_first, find_checkpoint, set_aside
from passl.modeling import Model
from passl.porting.classes import order_in, told
from passl.porting.files import read_classes
from passl.utils.config import Config, dotted, leaves
from passl.utils.errors import CheckpointError, ConfigError
from passl.utils.logging import get_logger


def start_from(cfg: Config, resume: str | None, classes: list[str], ranks: Ranks) -> Path | None:
    """The checkpoint that the run goes on from, which the first rank finds for all."""
    folder = Path(cfg.output_dir)

    def find() -> str | None:
        found = find_checkpoint(folder, resume, lambda path: _check_checkpoint(path, cfg, classes))
        set_aside(folder)
        return None if found is None else str(found)

    found = by_first(ranks, find)
    return None if found is None else Path(found)


def _check_checkpoint(path: Path, cfg: Config, classes: list[str]) -> None:
    """Raise CheckpointError unless it is whole, and of this network; and ConfigError if it is for
    other classes, or for these in another order.
    """
    arrays, metadata = read_checkpoint(path)
    Model(cfg, path)
    before = read_classes(path, arrays, metadata)
    if before is None or not (told(before) and told(classes)):
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


def continue_schedule(
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
