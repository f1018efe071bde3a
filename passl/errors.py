"""How a user's input can be wrong. The tools turn each into one message and an exit code."""

from __future__ import annotations

import os
from pathlib import Path


class ConfigError(ValueError):
    """A call or a config that cannot run, found before anything is computed: exit code 2.

    Args:
        problems: every problem found, one line each.
    """

    def __init__(self, *problems: str):
        self.problems = problems
        super().__init__("\n".join(problems))


class RunError(RuntimeError):
    """A run that cannot go on because of what it met, a picture or a loss: exit code 1."""


class CheckpointError(RunError):
    """A weight file or checkpoint that is damaged, or another network's."""


class Stopped(Exception):
    """A run that was told to stop, and has saved its state: exit code 75, "try again later"."""


def no_file(path: str | Path, kind: str = "file") -> str:
    """What to say of a path that is no file to read.

    Args:
        path: for which `is_file` is false.
        kind: of the file that is looked for.
    """
    if os.path.isdir(path):
        return f"is a folder, not a {kind}"
    if os.path.exists(path):
        return "is not a regular file"  # reading a pipe would wait for ever
    return f"there is no such {kind}"
