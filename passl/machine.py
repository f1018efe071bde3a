"""What a process runs on. Needs only the standard library: `benchmarks.speed` has no more."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")
BFLOAT16_FEATURES = {"avx512_bf16", "amx_bf16"}
"""Instruction sets that multiply bfloat16; one is enough."""


def processor(cpuinfo: Path = _CPUINFO) -> str:
    """The processor's name, and how many this process may use."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name}, {usable_processors()} usable"


def cpu_features(cpuinfo: Path = _CPUINFO) -> set[str]:
    """The instruction sets of the processor, such as `avx2`; empty where they are not known."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return set(found[1].split()) if found else set()


def usable_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> int | None:
    """Bytes that this process has had at most; null where the system does not tell. (Not
    `ru_maxrss`: a child process starts with its parent's.)
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return 1024 * int(found[1]) if found else None


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    import importlib.metadata  # here, since exported networks start without it

    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit_of(folder: Path) -> Mapping[str, Any]:
    """`commit` of the Git checkout that a folder is, and whether its tracked files are `changed`;
    null if it is no checkout or Git fails.
    """
    import subprocess

    unknown = {"commit": None, "changed": None}
    if not (folder / ".git").exists():  # a checkout around an installed package is not its own
        return unknown
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *arguments],
                env=environment,
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            ).stdout.strip()
            for arguments in (
                ("rev-parse", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return unknown
    return {"commit": commit, "changed": bool(changes)}
