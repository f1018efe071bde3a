"""Import of a user's modules, listed in a config under `imports`, which register their entries."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from passl.errors import ConfigError


def import_modules(names: Any, folders: Sequence[Path], places: Sequence[str]) -> None:
    """Import modules, which runs their code.

    Args:
        names: module names, such as `my_package.my_module`.
        folders: searched before Python's path.
        places: "FILE:LINE" of each name.

    Raises:
        ConfigError: all modules that cannot be imported, each with the reason.
    """
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{places[0]}: imports: {names!r} must be a list of "
            "module names, such as [my_package.my_module]"
        )
    for folder in reversed([str(folder.resolve()) for folder in folders]):
        if names and folder not in sys.path:
            sys.path.insert(0, folder)  # it stays: a module may import others later
    problems = []
    for name, place in zip(names, places, strict=True):
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            problems.append(f"{place}: {_reason(name, error, folders)}")
    if problems:
        raise ConfigError(*problems)


def import_stored(names: Any, file: Path, is_allowed: bool) -> None:
    """Import the modules that a stored config names, such as that of a checkpoint.

    Args:
        names: of modules.
        file: that stores the config, for messages.
        is_allowed: whether their code may run. A module that is already imported is allowed.

    Raises:
        ConfigError: importing is not allowed, or a module cannot be imported.
    """
    if is_allowed:
        import_modules(names, (Path.cwd(),), [str(file)] * len(names))
    elif not isinstance(names, list) or any(str(name) not in sys.modules for name in names):
        raise ConfigError(
            f"{file}: needs to import {names}. Importing them runs their "
            "code: if you trust it, pass --allow-imports or allow_imports=True, or import them "
            "first"
        )


def _reason(name: str, error: BaseException, folders: Sequence[Path]) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{name}.".startswith(f"{missing}."):
        places = " and ".join(dict.fromkeys(str(folder) for folder in folders))
        return (
            f"imports: there is no module {missing!r} in {places} or on Python's path; install "
            "it, or set PYTHONPATH"
        )
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"imports: {name} cannot be imported: {type(error).__name__}: {error} "
        f"({last.filename}:{last.lineno})"
    )
