"""The folder of a run: who may write there, and what it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from passl.engine.checkpoint import read_checkpoint
from passl.engine.distributed import Ranks
from passl.utils.config import storable
from passl.utils.errors import CheckpointError, ConfigError
from passl.utils.files import duplicate, remove_unfinished, sync, write_text
from passl.utils.logging import get_logger
from passl.utils.yaml12 import to_yaml

CONFIG = "config.yaml"
LOG = "train.log"
LAST, BEST = "last.safetensors", "best.safetensors"
PREVIOUS = "previous.safetensors"
"""The last but one."""


def find_checkpoint(
    folder: Path, resume: str | None, check: Callable[[Path], object] = read_checkpoint
) -> Path | None:
    """The checkpoint that a run goes on from, whole. A run that is there already is never written
    over.

    Args:
        folder: of the run.
        resume: null starts a new run; `auto` goes on from the folder's last checkpoint, if there is
            one, or from the one before if that cannot be used; else a checkpoint's path.
        check: raises CheckpointError for a file that the run cannot go on from.

    Raises:
        ConfigError: the folder holds a run and `resume` does not say to go on with it, or there is
            no such checkpoint.
        CheckpointError: it cannot be used, and neither can the one before.
    """
    used = any((folder / name).exists() for name in (CONFIG, LAST, PREVIOUS))
    inside = resume is not None and Path(resume).resolve().parent == folder.resolve()
    if used and resume != "auto" and not inside:
        raise ConfigError(
            f"output_dir: {folder} holds a run already; go on with it by --resume auto, or choose "
            "another with -o output_dir=..."
        )
    if resume is None:
        return None
    if resume != "auto":
        if not Path(resume).is_file():
            raise ConfigError(
                f"--resume {resume}: there is no such checkpoint; name a .safetensors file of a "
                "run, or say auto"
            )
        check(Path(resume))
        return Path(resume)
    damage: list[CheckpointError] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            check(path)
        except CheckpointError as error:
            damage.append(error)
            continue
        for error in damage:
            get_logger().warning("%s; going on from %s, the one before", error, path)
        return path
    if damage:
        instead = "start anew in another output_dir"
        if (folder / BEST).exists():
            instead = f"go on from the best epoch by --resume {folder / BEST}, or {instead}"
        raise CheckpointError("; ".join([*map(str, damage), f"there is no other one. {instead}"]))
    return None


def make_last(folder: Path, checkpoint: Path) -> None:
    """Let the folder's last checkpoint be the one that the run goes on from. Until the next one is
    saved, `auto` must find it: not a damaged one, nor a later one, whose metrics are dropped.
    """
    last = folder / LAST
    if last.exists() and last.samefile(checkpoint):
        return
    duplicate(checkpoint, last)
    sync(folder)


def make_run_folder(folder: Path, ranks: Ranks) -> None:
    """Make the folder, once every rank has looked into it.

    Raises:
        ConfigError: it cannot be made.
    """
    ranks.wait()
    if ranks.is_first:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(folder)
        except OSError as error:
            raise ConfigError(f"output_dir: {folder} cannot be made: {error.strerror}") from None
    ranks.wait()


def write_config(folder: Path, config: Mapping[str, Any], epoch: int) -> None:
    """Store the resolved config; that of a run resumed with other settings beside the first."""
    text = to_yaml(storable(config))
    path = folder / CONFIG
    if path.exists() and path.read_text(encoding="utf-8") != text:
        path = folder / f"config.from_epoch_{epoch + 1}.yaml"
    write_text(path, text)
