"""The folder of a run: who may write there, and what it holds."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from passl.distributed.ranks import Ranks
from passl.engine.metrics import METRICS, VISUALDL, read_metrics
from passl.engine.run_lock import LOCK, RunLock
from passl.engine.starts import STARTS
from passl.errors import CheckpointError, ConfigError, RunError, no_file
from passl.io.files import duplicate, remove_unfinished, sync, write_text
from passl.logging import get_logger, log_to_file, stop_logging_to
from passl.utils.config import storable
from passl.utils.yaml import to_yaml

CONFIG = "config.yaml"
CONFIG_OF_RESUME = "config.from_epoch_{}.yaml"
NONFINITE = "nonfinite_step_{}.txt"
LOG = "train.log"
LAST, BEST = "last.safetensors", "best.safetensors"
PREVIOUS = "previous.safetensors"
"""The last but one."""
T = TypeVar("T")


@contextmanager
def opened_run_folder(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Make the folder, keep every other run out of it, and let its `train.log` have what is logged.
    The first rank does so for all.

    Raises:
        ConfigError: another run is at work there, or it cannot be made. All ranks raise it.
    """
    with ExitStack() as stack:
        by_first(ranks, lambda: _open(folder, stack))
        yield


def _open(folder: Path, stack: ExitStack) -> None:
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_new:
            stack.callback(_remove_if_unused, folder)
        lock = RunLock(folder)
        stack.callback(lock.release)
        remove_unfinished(folder)
        log_file = log_to_file(folder / LOG)
        stack.callback(stop_logging_to, log_file)
    except OSError as error:
        kind = RunError if error.errno in (errno.ENOSPC, errno.EDQUOT) else ConfigError
        raise kind(
            f"output_dir: {folder} cannot be made, or not be written: {error.strerror}"
        ) from None


def _remove_if_unused(folder: Path) -> None:
    """Remove the folder of a run that could not even begin."""
    log = folder / LOG
    own = {log, folder / LOCK, folder / STARTS}
    with suppress(OSError):
        if {*folder.iterdir()} <= own and not (log.exists() and log.stat().st_size):
            for path in own:
                path.unlink(missing_ok=True)
            folder.rmdir()


def by_first(ranks: Ranks, act: Callable[[], str | None]) -> str | None:
    """What `act` gives on the first rank, or the ConfigError or RunError that it raises there: the
    same on all ranks.
    """
    if ranks.world == 1:
        return act()
    told: list[str] = []
    if ranks.is_first:
        try:
            found = act()
            told = [""] if found is None else ["", found]
        except (ConfigError, RunError) as error:
            texts = error.problems if isinstance(error, ConfigError) else [str(error)]
            told = [type(error).__name__, *texts]
    ranks.wait()
    error_type, *text = ranks.gather_texts(told)[0]
    if error_type:
        kinds = {kind.__name__: kind for kind in (ConfigError, CheckpointError)}
        raise kinds.get(error_type, RunError)(*text)
    return text[0] if text else None


def check_start(folder: Path, resume: str | None) -> None:
    """Whether a run may begin in the folder, or go on there. What a run has left is never written
    over.

    Args:
        folder: of the run.
        resume: as for `find_checkpoint`.

    Raises:
        ConfigError: the folder has a checkpoint and `resume` does not say to go on from it, or it
            has results of a run whose checkpoints are gone; or there is no such checkpoint.
    """
    if resume == "auto":
        return
    if resume is not None:
        _check_named(Path(resume))
    if resume is None or Path(resume).resolve().parent != folder.resolve():
        _check_unused(folder)


def find_checkpoint(folder: Path, resume: str | None, read: Callable[[Path], T]) -> T | None:
    """The checkpoint that a run goes on from, whole.

    Args:
        folder: of the run, which `check_start` lets begin.
        resume: null starts a new run; `auto` goes on from the folder's last checkpoint, if there is
            one, or from the one before if that cannot be used; else a checkpoint's path.
        read: gives what is made of the file, or raises CheckpointError if the run cannot go on from
            it.

    Returns:
        What `read` gives; null for a new run.

    Raises:
        CheckpointError: it cannot be used, and neither can the one before.
    """
    if resume is None:
        return None
    if resume != "auto":
        return read(Path(resume))
    return _last_usable(folder, read) if has_checkpoint(folder) else None


def _check_unused(folder: Path) -> None:
    """Raise ConfigError if a run has left there what it makes after its first epoch, or what no run
    that ended before leaves alone: its checkpoints may have been moved away or deleted.
    """
    way_out = "choose another with -o output_dir=..."
    if has_checkpoint(folder):
        raise ConfigError(
            f"output_dir: {folder} holds a run already; go on with it by --resume auto, or "
            f"{way_out}"
        )
    metrics = folder / METRICS
    if metrics.exists():
        has_results = any(row["phase"] == "val" for row in read_metrics(folder))
        found = f"{METRICS} with results" if has_results else ""
    else:
        left = [*folder.glob(VISUALDL), *sorted(folder.glob(NONFINITE.format("*")))]
        found = " and ".join(path.name for path in left[:2])
    if found:
        raise ConfigError(
            f"output_dir: {folder} holds {found} of a run whose checkpoints are not there; put "
            f"them back and go on by --resume auto, or {way_out}. Without them --resume auto "
            "begins anew, and moves these files to a folder in it before"
        )


def has_checkpoint(folder: Path) -> bool:
    """Whether a run in the folder has come to its first checkpoint."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS, BEST))


def _check_named(path: Path) -> None:
    if path.is_file():
        return
    known = [path / name for name in (LAST, PREVIOUS, BEST) if (path / name).is_file()]
    how = f", such as {known[0]}" if known else ""
    raise ConfigError(
        f"--resume {path}: {no_file(path, 'checkpoint')}; name a .safetensors file of a run{how}, "
        "or say auto"
    )


def _last_usable(folder: Path, read: Callable[[Path], T]) -> T:
    """What is read of the last checkpoint, or of the one before."""
    damage: list[str] = []
    for path in (folder / LAST, folder / PREVIOUS):
        try:
            if not path.exists():
                raise CheckpointError(f"{path}: missing")
            found = read(path)
        except CheckpointError as error:
            damage.append(str(error))
            continue
        for text in damage:
            get_logger().warning("%s; going on from %s, the one before", text, path)
        return found
    instead = "start anew in another output_dir"
    if (folder / BEST).exists():
        instead = f"go on from the best epoch by --resume {folder / BEST}, or {instead}"
    raise CheckpointError("; ".join([*damage, f"there is no other one. {instead}"]))


def set_aside(folder: Path) -> None:
    """Move what a run has left that this one would write over into a folder `unsaved_N`. If there
    is no checkpoint, that is everything but `train.log`, which goes on. If there is one, it is
    curves without the metrics that they could be drawn anew from.
    """
    patterns = [CONFIG, CONFIG_OF_RESUME.format("*"), METRICS, VISUALDL, NONFINITE.format("*")]
    if has_checkpoint(folder):
        patterns = [] if (folder / METRICS).exists() else [VISUALDL]
    left = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if not left:
        return
    places = (folder / f"unsaved_{number}" for number in count(1))
    place = next(place for place in places if not place.exists())
    place.mkdir()
    for path in left:
        os.rename(path, place / path.name)
    names = ", ".join(path.name for path in left[:5]) + ", ..." * (len(left) > 5)
    get_logger().info("an earlier run's %s are kept in %s", names, place)


def make_last(folder: Path, checkpoint: Path) -> None:
    """Let the folder's last checkpoint be the one that the run goes on from. Until the next one is
    saved, `auto` must find it: not a damaged one, nor a later one, whose metrics are dropped.
    """
    last = folder / LAST
    if last.exists() and last.samefile(checkpoint):
        return
    duplicate(checkpoint, last)
    sync(folder)


def write_config(folder: Path, config: Mapping[str, Any], epoch: int) -> None:
    """Store the resolved config; that of a run resumed with other settings beside the first."""
    text = to_yaml(storable(config))
    path = folder / CONFIG
    if path.exists() and path.read_text(encoding="utf-8") != text:
        path = folder / CONFIG_OF_RESUME.format(epoch + 1)
    write_text(path, text)
