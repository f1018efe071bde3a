"""The names of the weights in the files of each project, as names.yaml lists them.

The tables are read in both directions, so the same rules import and export.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from passl.utils.yaml import read

FILE = Path(__file__).with_name("names.yaml")
Rule = tuple[str, tuple[str, ...]]
"""Our name, `{i}` for a number and `{leaf}` for a last part, and the names in the file."""


@dataclass(frozen=True)
class Source:
    """The files of a project; the fields are explained in names.yaml."""

    name: str
    family: str
    framework: str
    anchor: str
    rules: tuple[Rule, ...]
    numerics: dict[str, str | float] = field(default_factory=dict)

    def theirs(self, ours: str) -> tuple[str, ...]:
        """Return the names in the file of a weight of ours."""
        for pattern, targets in self.rules:
            match = _compiled(pattern).fullmatch(ours)
            if match:
                return tuple(target.format(**match.groupdict()) for target in targets)
        raise AssertionError(f"the table of {self.name} has no rule for {ours}")  # tables are total

    def ours(self, theirs: str) -> str | None:
        """Return our name of the weight that this one is, or is a part of."""
        for pattern, targets in self.rules:
            for target in targets:
                match = _compiled(target).fullmatch(theirs)
                if match:
                    name = pattern.format(**match.groupdict())
                    if theirs in self.theirs(name):
                        return name
        return None


_PLACES = {"i": r"\d+", "s": r"\d+", "n": r"\d+", "p": r"[qkv]", "leaf": r"[a-z_]+", "name": r".+"}


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    seen: set[str] = set()
    text = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            text += re.escape(part)
        else:
            text += f"(?P={part})" if part in seen else f"(?P<{part}>{_PLACES[part]})"
            seen.add(part)
    return re.compile(text)


def _sources() -> Iterator[Source]:
    tree, _ = read(FILE)
    for values in tree["sources"]:
        rules = tuple(
            (ours, (theirs,) if isinstance(theirs, str) else tuple(theirs))
            for ours, theirs in values["rules"].items()
        )
        yield Source(**values | {"rules": rules})


SOURCES = tuple(_sources())

DROPPED = {
    "num_batches_tracked": "PyTorch's BatchNorm counts batches, Paddle's does not",
    "rel_indices": "relative positions are computed here",
    "global_step": "training progress, not a weight",
    "learning_rate": "training progress, not a weight",
    "epoch_num": "training progress, not a weight",
    "step_num": "training progress, not a weight",
}
"""Last parts of names that are not weights of the network, and why they are left out."""

WRAPPERS = ("module.", "_orig_mod.", "model.", "ema.", "network.")
"""Prefixes that training wrappers add to every name."""


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Return name -> name without the prefixes of `WRAPPERS` that all of them have."""
    result = {name: name for name in names}
    while result:
        wrapper = next((w for w in WRAPPERS if all(n.startswith(w) for n in result.values())), None)
        if wrapper is None:
            break
        result = {name: inner.removeprefix(wrapper) for name, inner in result.items()}
    return result
