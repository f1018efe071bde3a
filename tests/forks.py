"""Processes that cost nothing to start: forks of one that has imported Paddle already, and has done
nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path

SECONDS = 120
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["passl.engine.train", "tests.forks"])


def run(script: str, environments: list[Mapping[str, str]], folder: Path) -> list[tuple[int, str]]:
    """Run Python code in several processes at once.

    Args:
        script: what each of them does.
        environments: of each.
        folder: for their output.

    Returns:
        Exit code and output of each. None outlives the call.
    """
    files = [folder / f"output_{index}" for index in range(len(environments))]
    processes = [
        _FORKS.Process(target=_run, args=(script, dict(environment), file))
        for environment, file in zip(environments, files, strict=True)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(SECONDS)
    finally:
        for process in processes:
            process.kill()
            process.join()
    codes = [process.exitcode for process in processes]
    return [(code, file.read_text()) for code, file in zip(codes, files, strict=True)]


def _run(script: str, environment: dict[str, str], file: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    exec(compile(script, "the script of the test", "exec"), {"__name__": "__main__"})  # noqa: S102
