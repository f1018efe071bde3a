"""Paths in a config: which values are paths, and the expansion of `~` and environment variables."""

from __future__ import annotations

import os
from string import Template
from typing import Any

from passl.errors import ConfigError
from passl.utils.yaml import Keys

_KEYS = ("dataroot", "labels", "pretrained", "shards", "teacher", "weights")
_ENDINGS = ("_dir", "_file", "_path")


def is_path(keys: Keys, value: Any) -> bool:
    """Whether a value is a path: text that is not a URL, whose key is one of `dataroot`, `labels`,
    `pretrained`, `shards`, `teacher` and `weights`, or ends in `_dir`, `_file` or `_path`.
    """
    key = keys[-1] if keys else None
    named = isinstance(key, str) and (key in _KEYS or key.endswith(_ENDINGS))
    return named and isinstance(value, str) and "://" not in value


def expand(path: str) -> str:
    """The path with $NAME and ${NAME} replaced by environment variables, $$ by a dollar sign, and
    a leading ~ or ~USER by a home folder.

    Raises:
        ConfigError: a variable is not set or empty, or there is no such user.
    """
    try:
        expanded = Template(path).substitute({k: v for k, v in os.environ.items() if v})
    except KeyError as error:
        raise ConfigError(
            f"{path}: the environment variable {error.args[0]} is not set; set it, or write $$ for "
            "a dollar sign"
        ) from None
    except ValueError:
        raise ConfigError(
            f"{path}: a $ starts neither $NAME nor ${{NAME}}; write $$ for a dollar sign"
        ) from None
    home = os.path.expanduser(expanded)
    if home.startswith("~"):
        user = home.partition("/")[0]
        raise ConfigError(f"{path}: there is no user {user[1:]}; write ./{user} for a file")
    return home


def escaped(path: str) -> str:
    """The inverse of `expand` for an expanded path."""
    return path.replace("$", "$$")
