"""The model zoo: every published weight file of the eleven variants, as zoo.yaml lists them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from passl.errors import ConfigError
from passl.utils.config import closest, shipped_configs
from passl.utils.yaml import read

FILE = Path(__file__).with_name("zoo.yaml")
SOURCES = (
    "facebookresearch",
    "timm",
    "microsoft",
    "huggingface",
    "mindcv",
    "passl",
    "paddleclas",
)


@dataclass(frozen=True)
class Preset:
    """How a picture becomes the network's input.

    Args:
        size: of the square input, in pixels.
        crop: side of the centre crop over the shorter side of the resized picture; or `squash`, the
            whole picture resized to the square.
        interpolation: of the resizing.
        mean: per channel, of values from 0 to 1.
        std: likewise.
    """

    size: int
    crop: float | Literal["squash"]
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Entry:
    """A published weight file.

    Args:
        name: unique, VARIANT.PUBLISHER_DATA: convit_tiny.mindcv_in1k.
        model: the variant, which is the name of its config.
        source: the project that publishes it, one of `SOURCES`.
        url: its address, https; None where there is no lasting one, and `note` says more.
        file: its name.
        licence: the publisher's.
        preset: the pictures that its score belongs to.
        sha256: hexadecimal, whole or the first digits, 8 at least; None if no page states it.
        size: in bytes; None if no page states it.
        numerics: constructor arguments of the backbone that the weights want, where they are not
            the authors'.
        top1: published accuracy on ImageNet-1k, in percent.
        top5: likewise.
        scores: who publishes the accuracy, and where.
        verified: whether this package has loaded and scored the file.
        default: whether `pretrained=True` picks it for its variant.
        note: what else to know.
    """

    name: str
    model: str
    source: str
    url: str | None
    file: str
    licence: str
    preset: Preset
    sha256: str | None = None
    size: int | None = None
    numerics: Mapping[str, str | float] = field(default_factory=dict, hash=False)
    top1: float | None = None
    top5: float | None = None
    scores: str | None = None
    verified: bool = False
    default: bool = False
    note: str = ""


def entries() -> list[Entry]:
    """Every published file, in the order of zoo.yaml."""
    return list(_entries())


def find(name: str) -> Entry:
    """An entry by its name, or a variant's default by the variant's.

    Raises:
        ConfigError: there is neither.
    """
    known = _by_name()
    if name not in known:
        raise ConfigError(f"the model zoo has no weights {name!r}{closest(name, list(known))}")
    return known[name]


def is_known(name: str) -> bool:
    """Whether `find` knows a name."""
    return name in _by_name()


def _by_name() -> dict[str, Entry]:
    known = {entry.model: entry for entry in _entries() if entry.default}
    return known | {entry.name: entry for entry in _entries()}


def table() -> str:
    """The zoo as an aligned text, one line per file, each variant's default marked by a star."""
    titles = ["name", "model", "source", "MB", "sha256", "top-1", "top-5", "licence", "verified"]
    rows = [titles, *(_row(entry) for entry in _entries())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if title in ("MB", "top-1", "top-5") else cell.ljust(width)
            for title, cell, width in zip(titles, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "* what pretrained=True picks; - unknown or unpublished"])


def _row(entry: Entry) -> list[str]:
    def number(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    known = "none" if entry.sha256 is None else "full" if len(entry.sha256) == 64 else "prefix"
    return [
        entry.name + "*" * entry.default,
        entry.model,
        entry.source,
        number(entry.size and entry.size / 1e6, 1),
        known,
        number(entry.top1, 2),
        number(entry.top5, 2),
        entry.licence,
        "yes" if entry.verified else "no",
    ]


# --------------------------------------------------------------------------------------------------
# Reading zoo.yaml
# --------------------------------------------------------------------------------------------------
@cache
def _entries() -> tuple[Entry, ...]:
    return read_zoo(FILE)


def read_zoo(path: Path) -> tuple[Entry, ...]:
    """Read and check a file such as zoo.yaml.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    tree, _ = read(path)
    if set(tree) != {"presets", "weights"} or not all(isinstance(v, dict) for v in tree.values()):
        raise ConfigError(f"{path}: a zoo has the mappings presets and weights, and nothing else")
    problems: list[str] = []
    presets = {
        name: Preset(**values | {key: tuple(values[key]) for key in ("mean", "std")})
        for name, values in tree["presets"].items()
        if _checked(f"{path}: presets.{name}", values, Preset, _PRESET, problems)
    }
    found = []
    for name, values in tree["weights"].items():
        place = f"{path}: weights.{name}"
        if not re.fullmatch(r"[a-z0-9_]+\.[a-z0-9_]+", name):  # it becomes a folder's name
            problems.append(f"{place}: a name is VARIANT.PUBLISHER_DATA, of a-z, 0-9 and _")
        elif _checked(place, values, Entry, _ENTRY, problems, given=("name",)):
            if values["preset"] not in presets:
                hint = closest(values["preset"], list(presets))
                problems.append(f"{place}: there is no preset {values['preset']!r}{hint}")
                continue
            values["note"] = values.get("note") or ""
            entry = Entry(**values | {"name": name, "preset": presets[values["preset"]]})
            problems += [f"{place}: {rule}" for rule in _contradictions(entry)]
            found.append(entry)
    for model in dict.fromkeys(entry.model for entry in found):
        chosen = [entry.name for entry in found if entry.model == model and entry.default]
        if len(chosen) != 1:
            names = ", ".join(chosen) or "none"
            problems.append(f"{path}: {model}: exactly one entry is the default, not {names}")
    if problems:
        raise ConfigError(*problems)
    return tuple(found)


def _contradictions(entry: Entry) -> list[str]:
    """What is wrong with an entry whose values are right one by one."""
    rules = {
        f"the name begins with the variant, {entry.model}.": entry.name.startswith(
            f"{entry.model}."
        ),
        "without an address, `note` says where the file is": bool(entry.url or entry.note),
        "the last part of the address is the file's name": entry.url is None
        or urlsplit(entry.url).path.endswith(f"/{entry.file}"),
        "a score has its source in `scores`, and no score has none": (entry.scores is None)
        == (entry.top1 is None and entry.top5 is None),
        "a default has an address": bool(entry.url or not entry.default),
    }
    return [rule for rule, kept in rules.items() if not kept]


Check = tuple[Callable[[Any], bool], str]
_TEXT: Check = (lambda v: isinstance(v, str) and bool(v), "a text")
_YES_NO: Check = (lambda v: isinstance(v, bool), "true or false")
_CHANNELS: Check = (
    lambda v: isinstance(v, list) and len(v) == 3 and all(isinstance(x, float) for x in v),
    "three numbers",
)
_PERCENT: Check = (lambda v: v is None or (_is_number(v) and 0 < v <= 100), "a percentage or null")
_PRESET: dict[str, Check] = {
    "size": (lambda v: type(v) is int and v > 0, "a number of pixels"),
    "crop": (
        lambda v: v == "squash" or (_is_number(v) and 0 < v <= 1),
        "a ratio up to 1 or squash",
    ),
    "interpolation": (lambda v: v in ("bicubic", "bilinear"), "bicubic or bilinear"),
    "mean": _CHANNELS,
    "std": _CHANNELS,
}
_ENTRY: dict[str, Check] = {
    "model": (lambda v: v in {path.stem for path in shipped_configs()}, "the name of a config"),
    "source": (lambda v: v in SOURCES, f"one of {', '.join(SOURCES)}"),
    "url": (lambda v: v is None or str(v).startswith("https://"), "an https address or null"),
    "file": (lambda v: bool(re.fullmatch(r"[\w-][\w.-]*", str(v))), "a file name without a folder"),
    "licence": _TEXT,
    "preset": _TEXT,
    "sha256": (
        lambda v: v is None or (isinstance(v, str) and bool(re.fullmatch(r"[0-9a-f]{8,64}", v))),
        "8 to 64 hexadecimal digits in quotes, or null",
    ),
    "size": (lambda v: v is None or (type(v) is int and v > 0), "a number of bytes or null"),
    "numerics": (
        lambda v: isinstance(v, dict) and all(isinstance(x, str | float) for x in v.values()),
        "a mapping of constructor arguments",
    ),
    "top1": _PERCENT,
    "top5": _PERCENT,
    "scores": (lambda v: v is None or _TEXT[0](v), "a text or null"),
    "verified": _YES_NO,
    "default": _YES_NO,
    "note": (lambda v: v is None or isinstance(v, str), "a text"),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checked(
    place: str,
    values: Any,
    kind: type[Preset] | type[Entry],
    checks: Mapping[str, Check],
    problems: list[str],
    given: tuple[str, ...] = (),
) -> bool:
    """Whether `values` are all of a dataclass's fields, and right; `problems` gets what is not."""
    before = len(problems)
    if not isinstance(values, dict):
        problems.append(f"{place}: must be a mapping, not {type(values).__name__}")
        return False
    for key, value in values.items():
        if key not in checks:
            problems.append(f"{place}: unknown key {key!r}{closest(key, list(checks))}")
        elif not checks[key][0](value):
            problems.append(f"{place}.{key}: {value!r} is not {checks[key][1]}")
    required = [f.name for f in fields(kind) if f.default is MISSING is f.default_factory]
    missing = [name for name in required if name not in values and name not in given]
    if missing:
        problems.append(f"{place}: {', '.join(missing)} must be given")
    return len(problems) == before
