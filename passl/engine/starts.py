"""Where, when and by what a run was started: one line of `starts.jsonl` for each start."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import paddle

import passl
from passl.distributed.ranks import Ranks
from passl.engine.progress import Progress
from passl.engine.run_files import STARTS
from passl.errors import ConfigError
from passl.io.files import append_line, to_json
from passl.logging import get_logger
from passl.machine import commit_of, processor, versions
from passl.utils.config import recipe_of

_PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "numpy", "pillow")
_CHECKOUT = Path(passl.__file__).resolve().parents[1]


@contextmanager
def recorded_failure(folder: Path, ranks: Ranks) -> Iterator[None]:
    """A context whose failure, before training, is recorded as a failed start."""
    try:
        yield
    except BaseException as error:
        if ranks.is_first:
            record_start(folder, ranks, error=f"{type(error).__name__}: {error}")
        raise


def record_start(
    folder: Path,
    ranks: Ranks,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    error: str | None = None,
    config: Path | None = None,
) -> None:
    """Append a line to the folder's `starts.jsonl`. It has the command line, but no environment
    variables, which may be secret. A failure is a warning, because the run does not depend on it.

    Args:
        folder: of the run.
        progress: where training starts; null if it does not.
        checkpoint: from which it is resumed.
        error: why training does not start.
        config: the file whose config is trained, if it is from one.
    """
    start = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "world_size": ranks.world,
        "device": paddle.get_device(),
        "cpu": processor(),
        "argv": sys.argv,
        "folder": os.getcwd(),
        "config": None if config is None else str(config.resolve()),
        "recipe": None if config is None else _recipe(config),
        "passl": passl.__version__,
        **commit_of(_CHECKOUT),
        "versions": versions(_PACKAGES),
        "resumed_from": None if checkpoint is None else str(checkpoint),
        "epoch": None if progress is None else progress.epoch,
        "step": None if progress is None else progress.step,
        "error": error,
    }
    try:
        append_line(folder / STARTS, to_json(start))
    except OSError as error:
        get_logger().warning("%s cannot be written: %s", folder / STARTS, error.strerror)


def _recipe(config: Path) -> str | None:
    try:
        return recipe_of(config)
    except ConfigError as problem:  # it was edited since the run has read it
        get_logger().warning("the recipe of %s is not recorded: %s", config, problem)
        return None
