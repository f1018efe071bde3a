"""How a run can fail or stop, and the exit code of each case. The command line prints one message
and no traceback for any of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

EXIT_FAILED, EXIT_WRONG_CALL, EXIT_INTERRUPTED = 1, 2, 130
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: a stopped run has saved and can be resumed


class ConfigError(ValueError):
    """A call or a config that cannot run, found before anything is computed: exit code 2.

    Args:
        problems: every problem found, one line each.
    """

    def __init__(self, *problems: str):
        self.problems = problems
        super().__init__("\n".join(problems))


class RunError(RuntimeError):
    """A run that cannot continue, because of an unreadable image or a loss for example: exit code
    1.
    """


class CheckpointError(RunError):
    """A weight file or checkpoint that is damaged or belongs to another network."""


class Stopped(Exception):
    """A run that was asked to stop and has saved its state: exit code 75."""


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


def is_of_memory(error: Exception) -> bool:
    """Whether an error, of Python, Paddle or another engine, says that memory is exhausted."""
    text = str(error)
    signs = ("ResourceExhausted", "bad_alloc", "Failed to allocate", "not enough memory")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def shortened(names: Sequence[str], shown: int = 5) -> str:
    """Return the first of many names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"
