"""The values that a sweep tries: lists of values, and ranges to sample from."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from passl.errors import ConfigError
from passl.io.files import to_json
from passl.utils.yaml import parse

MOST_POINTS = 1000
"""Each is checked before the first run, and is a training run."""
_RANGES = ("uniform", "loguniform", "int", "logint")
_SYNTAX = (
    "write KEY=uniform(LOW,HIGH), loguniform(LOW,HIGH), int(LOW,HIGH), logint(LOW,HIGH) or "
    "choice(V1,V2,...)"
)


@dataclass(frozen=True)
class Values:
    """The values of a key: some, or a range of numbers with both ends included.

    Args:
        kind: `choice`, or of a range `uniform` or `loguniform` for floats, `int` or `logint`.
        texts: the values, or the ends of the range, as JSON, which distinguishes 1 from 1.0 and
            from true. All are checked before the first run.
    """

    key: str
    kind: str
    texts: tuple[str, ...]

    def suggest(self, trial: Any) -> str:
        """The value of an Optuna trial, as JSON."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.key, self.texts)
        draw = trial.suggest_int if self.kind.endswith("int") else trial.suggest_float
        low, high = map(json.loads, self.texts)
        return to_json(draw(self.key, low, high, log=self.kind.startswith("log")))

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(self.texts)})"


Point = dict[str, str]
"""A value for each key, as JSON."""


def parse_grid(option: str) -> Values:
    """The values of `KEY=V1,V2,...`, each in YAML.

    Raises:
        ConfigError: the option has another form.
    """
    key, text = _split("--grid", option, "write KEY=V1,V2,...")
    return _choice("--grid", option, key, text)


def parse_search(option: str) -> Values:
    """The values of `KEY=KIND(LOW,HIGH)` or `KEY=choice(V1,V2,...)`.

    Raises:
        ConfigError: the option has another form, or no such range exists.
    """
    key, text = _split("--search", option, _SYNTAX)
    match = re.fullmatch(r"\s*([a-z]+)\((.*)\)\s*", text, re.DOTALL)
    if match is None or match[1] not in (*_RANGES, "choice"):
        raise ConfigError(f"--search {option}: {_SYNTAX}")
    kind = match[1]
    if kind == "choice":
        return _choice("--search", option, key, match[2])
    ends = _list("--search", option, match[2])
    numbers = int if kind.endswith("int") else (int, float)
    if len(ends) != 2 or not all(
        isinstance(end, numbers) and not isinstance(end, bool) and math.isfinite(end)
        for end in ends
    ):
        rule = "two integers" if kind.endswith("int") else "two numbers"
        raise ConfigError(f"--search {option}: {kind} takes {rule}, LOW and HIGH")
    low, high = ends if kind.endswith("int") else map(float, ends)
    if low >= high or (kind.startswith("log") and low <= 0):
        rule = "0 < LOW < HIGH" if kind.startswith("log") else "LOW < HIGH"
        raise ConfigError(f"--search {option}: {kind} needs {rule}")
    return Values(key, kind, (to_json(low), to_json(high)))


def check_keys(values: Sequence[Values]) -> None:
    """Check that every key is another one, and none the folder of the runs.

    Raises:
        ConfigError: which key is wrong.
    """
    keys = [each.key for each in values]
    for key in dict.fromkeys(keys):
        if key == "output_dir":
            raise ConfigError("output_dir cannot be tried: each run gets a folder in it")
        if keys.count(key) > 1:
            raise ConfigError(f"{key}: is given twice; list all its values in one option")


def grid_points(choices: Sequence[Values]) -> list[Point]:
    """Every combination; the values of the last key change first.

    Raises:
        ConfigError: there are too many.
    """
    count = math.prod(len(choice.texts) for choice in choices)
    if count > MOST_POINTS:
        raise ConfigError(
            f"--grid: {count} combinations are more than {MOST_POINTS}; sample some of them by "
            "--search KEY=choice(V1,V2,...) --trials N"
        )
    combinations = itertools.product(*(choice.texts for choice in choices))
    return [dict(zip([c.key for c in choices], texts, strict=True)) for texts in combinations]


def points_to_check(values: Sequence[Values]) -> list[Point]:
    """Points in which every choice and both ends of every range occur, one key varied at a time."""
    first = {each.key: each.texts[0] for each in values}
    return [first] + [{**first, each.key: text} for each in values for text in each.texts[1:]]


def overrides_of(point: Point) -> list[str]:
    """The point as overrides of a config."""
    return [f"{key}={text}" for key, text in point.items()]


def _split(name: str, option: str, syntax: str) -> tuple[str, str]:
    key, separator, text = option.partition("=")
    if not separator or not key.strip() or not text.strip():
        raise ConfigError(f"{name} {option}: {syntax}")
    return key.strip(), text


def _list(name: str, option: str, text: str) -> list[Any]:
    found = parse(f"[{text}]", f"{name} {option}")[0]
    assert isinstance(found, list)  # anything else in brackets is not YAML
    return found


def _choice(name: str, option: str, key: str, text: str) -> Values:
    texts = tuple(to_json(value) for value in _list(name, option, text))
    twice = [value for value in dict.fromkeys(texts) if texts.count(value) > 1]
    if not texts or twice:
        rule = f"{', '.join(twice)} is given twice" if twice else "name at least one value"
        raise ConfigError(f"{name} {option}: {rule}")
    return Values(key, "choice", texts)
