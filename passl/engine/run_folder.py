"""The folder of a run: who may write there, and what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passl.engine.distributed import Ranks
from passl.utils.errors import ConfigError
from passl.utils.files import write_text
from passl.utils.yaml12 import to_yaml

CONFIG = "config.yaml"
LOG = "train.log"
LAST, BEST = "last.safetensors", "best.safetensors"


def open_run_folder(folder: Path, resume: str | None, ranks: Ranks) -> Path | None:
    """Make the run's folder, or find the checkpoint to go on from. A run that is there already is
    never written over.

    Args:
        resume: null starts a new run; `auto` goes on from the folder's last checkpoint, if there is
            one; else a checkpoint's path.

    Returns:
        The checkpoint to resume from, or None.

    Raises:
        ConfigError: the folder holds a run and `resume` does not say to go on with it, or cannot be
            made.
    """
    used = (folder / CONFIG).exists() or (folder / LAST).exists()
    own = resume == "auto" or (
        resume is not None and Path(resume).resolve().parent == folder.resolve()
    )
    if used and not own:
        raise ConfigError(
            f"output_dir: {folder} holds a run already; go on with it by --resume auto, or choose "
            "another with -o output_dir=..."
        )
    checkpoint = folder / LAST if resume == "auto" else Path(resume) if resume else None
    if resume not in (None, "auto") and not checkpoint.is_file():
        raise ConfigError(
            f"--resume {resume}: there is no such checkpoint; name a .safetensors file of a run, "
            "or say auto"
        )
    ranks.wait()  # every rank has looked before the first one writes
    if ranks.is_first:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"output_dir: {folder} cannot be made: {error.strerror}") from None
    ranks.wait()
    return checkpoint if checkpoint is not None and checkpoint.is_file() else None


def write_config(folder: Path, config: Mapping[str, Any], epoch: int) -> None:
    """Store the resolved config; that of a run resumed with other settings beside the first."""
    text = to_yaml(config)
    path = folder / CONFIG
    if path.exists() and path.read_text(encoding="utf-8") != text:
        path = folder / f"config.from_epoch_{epoch + 1}.yaml"
    write_text(path, text)
