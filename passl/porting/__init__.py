"""Weights from files: `load_weights(model, path)`. Only that imports paddle."""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "WeightFile": "weight_file",
    "architecture_of": "weight_file",
    "fetch_default": "resolve",
    "load_weights": "load",
    "locate": "resolve",
    "read_file": "weight_file",
    "zoo_entry": "resolve",
}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"passl.porting.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
