"""The folder of a run: its files, and which run may write there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from passl.distributed.ranks import Ranks
from passl.engine.metrics import read_metrics
from passl.engine.run_files import LOG, METRICS, STARTS, VISUALDL
from passl.engine.run_lock import LOCK, RunLock
from passl.errors import CheckpointError, ConfigError, RunError, no_file, shortened
from passl.io.files import duplicate, remove_unfinished, sync, write_text
from passl.logging import get_logger, log_to_file, stop_logging_to
from passl.utils.config import storable
from passl.utils.yaml import to_yaml

CONFIG = "config.yaml"
CONFIG_OF_RESUME = "config.from_epoch_{}.yaml"
NONFINITE = "nonfinite_step_{}.txt"
LAST, BEST = "last.safetensors", "best.safetensors"
PREVIOUS = "previous.safetensors"
"""The checkpoint before the last one."""
KEPT = "step_{}.safetensors"
"""A checkpoint that is kept; see `checkpoint.keep_interval` and `keep_epochs`."""
RECENT = "recent_{}.safetensors"
"""One of the newest checkpoints; see `checkpoint.keep_last`."""
T = TypeVar("T")


def checkpoint_of(folder: Path) -> Path | None:
    """The best checkpoint of a run, else the last, else the one before; null without one."""
    files = (folder / name for name in (BEST, LAST, PREVIOUS))
    return next((file for file in files if file.is_file()), None)


@contextmanager
def opened_run_folder(folder: Path, ranks: Ranks) -> Iterator[None]:
    """A context in which the folder exists, no other run may use it, and `train.log` in it gets the
    log. The first rank opens it for all.

    Raises:
        ConfigError: another run uses it, or it cannot be made. All ranks raise it.
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
        raise kind(f"output_dir: {folder} cannot be made or written: {error.strerror}") from None


def _remove_if_unused(folder: Path) -> None:
    """Remove the new folder of a run that could not start."""
    log = folder / LOG
    own = {log, folder / LOCK, folder / STARTS}
    with suppress(OSError):
        if {*folder.iterdir()} <= own and not (log.exists() and log.stat().st_size):
            for path in own:
                path.unlink(missing_ok=True)
            folder.rmdir()


def by_first(ranks: Ranks, act: Callable[[], str | None]) -> str | None:
    """Call `act` on the first rank. All ranks return its result, or raise its ConfigError or
    RunError.
    """
    if ranks.world == 1:
        return act()
    sent: list[str] = []
    if ranks.is_first:
        try:
            found = act()
            sent = [""] if found is None else ["", found]
        except (ConfigError, RunError) as error:
            texts = error.problems if isinstance(error, ConfigError) else [str(error)]
            sent = [type(error).__name__, *texts]
    ranks.wait()
    error_type, *text = ranks.gather_texts(sent)[0]
    if error_type:
        kinds = {kind.__name__: kind for kind in (ConfigError, CheckpointError)}
        raise kinds.get(error_type, RunError)(*text)
    return text[0] if text else None


def check_start(folder: Path, resume: str | None) -> None:
    """Check that a run may start or continue in the folder. Files of another run are never
    overwritten.

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
    """Find the checkpoint that a run continues from.

    Args:
        folder: of the run, after `check_start`.
        resume: null for a new run; `auto` for the folder's last checkpoint, if there is one, or an
            earlier one if that cannot be used; else a checkpoint's path.
        read: reads the file, or raises CheckpointError if the run cannot continue from it.

    Returns:
        The result of `read`; null for a new run.

    Raises:
        CheckpointError: it cannot be used, and neither can an earlier one.
    """
    if resume is None:
        return None
    if resume != "auto":
        return read(Path(resume))
    return _last_usable(folder, read) if has_checkpoint(folder) else None


def _check_unused(folder: Path) -> None:
    """Raise ConfigError if the folder has checkpoints of a run, or results whose checkpoints may
    have been moved or deleted. A run that ends before its first checkpoint leaves no such results.
    """
    way_out = "choose another with -o output_dir=..."
    if has_checkpoint(folder):
        raise ConfigError(
            f"output_dir: {folder} holds a run already; continue it by --resume auto, or {way_out}"
        )
    metrics = folder / METRICS
    if metrics.exists():
        has_results = any(row["phase"] == "val" for row in read_metrics(folder))
        found = f"{METRICS} with results" if has_results else ""
    else:
        left = [*folder.glob(VISUALDL), *sorted(folder.glob(NONFINITE.format("*")))]
        left += sorted(folder.glob(KEPT.format("*")))
        found = " and ".join(path.name for path in left[:2])
    if found:
        raise ConfigError(
            f"output_dir: {folder} holds {found} of a run whose checkpoints are not there; put "
            f"them back and continue by --resume auto, or {way_out}. Without them --resume auto "
            "starts a new run, and moves these files to a folder in it first"
        )


def has_checkpoint(folder: Path) -> bool:
    """Whether the folder has a checkpoint."""
    found = any((folder / name).exists() for name in (LAST, PREVIOUS, BEST))
    return found or bool(recent_checkpoints(folder))


def recent_checkpoints(folder: Path) -> dict[int, Path]:
    """The files of `checkpoint.keep_last` by step, the newest first."""
    paths = [(path.stem.partition("_")[2], path) for path in folder.glob(RECENT.format("*"))]
    return dict(sorted(((int(n), path) for n, path in paths if n.isdecimal()), reverse=True))


def outdated(steps: Iterable[int], step: int, keep_last: int | None) -> list[int]:
    """The recent checkpoints, by step, that are before the `keep_last` newest. Later ones than
    `step`, of a run that was resumed from before them, stay until it reaches them.
    """
    if keep_last is None:
        return []
    return sorted((one for one in steps if one <= step), reverse=True)[keep_last:]


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
    """The result of `read` for the last checkpoint, for the previous one, or for the newest one of
    `checkpoint.keep_last` that can be used.
    """
    damage: list[str] = []
    tried: list[Path] = []
    for path in (folder / LAST, folder / PREVIOUS, *recent_checkpoints(folder).values()):
        try:
            if not path.exists():
                raise CheckpointError(f"{path}: missing")
            if any(path.samefile(other) for other in tried):
                continue
            tried.append(path)
            found = read(path)
        except CheckpointError as error:
            damage.append(str(error))
            continue
        for text in damage:
            get_logger().warning("%s; continuing from %s, an earlier one", text, path)
        return found
    instead = "start a new run in another output_dir"
    if (folder / BEST).exists():
        instead = f"continue from the best epoch by --resume {folder / BEST}, or {instead}"
    raise CheckpointError("; ".join([*damage, f"there is no other one. {instead}"]))


def set_aside(folder: Path) -> None:
    """Move files of an earlier run, which this one would overwrite, into a folder `unsaved_N`:
    without a checkpoint all but `train.log`, which is continued; with a checkpoint, curves that
    could not be drawn again because their metrics are gone.
    """
    patterns = [CONFIG, METRICS, VISUALDL]
    patterns += [name.format("*") for name in (CONFIG_OF_RESUME, NONFINITE, KEPT)]
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
    names = shortened([path.name for path in left])
    get_logger().info("an earlier run's %s are kept in %s", names, place)


def make_last(folder: Path, checkpoint: Path) -> None:
    """Make the checkpoint that the run continues from the folder's last one. `auto` must find it,
    not a damaged one, nor a later one, whose metrics are dropped, until the next one is saved.
    """
    last = folder / LAST
    if last.exists() and last.samefile(checkpoint):
        return
    duplicate(checkpoint, last)
    sync(folder)


def write_config(folder: Path, config: Mapping[str, Any], epoch: int) -> None:
    """Store the resolved config. That of a run resumed with other settings is stored beside it."""
    text = to_yaml(storable(config))
    path = folder / CONFIG
    if path.exists() and path.read_text(encoding="utf-8") != text:
        path = folder / CONFIG_OF_RESUME.format(epoch + 1)
    write_text(path, text)
