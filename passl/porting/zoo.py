"""The model zoo: the published weight files of the eleven variants, and those that are part of this
package, as zoo.yaml lists them. The tests check that file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from passl.errors import ConfigError
from passl.logging import aligned
from passl.utils.yaml import read

FILE = Path(__file__).with_name("zoo.yaml")
PACKAGED = Path(__file__).with_name("weights")
"""Folder of the weight files of this package, each with a model card of the same name (.md)."""
OWN = "own"
SOURCES = (
    "facebookresearch",
    "timm",
    "microsoft",
    "huggingface",
    "mindcv",
    "passl",
    "paddleclas",
    OWN,
)


@dataclass(frozen=True)
class Preset:
    """How an image becomes the network's input.

    Args:
        size: side of the square input, in pixels.
        crop: side of the centre crop over the shorter side of the resized image, or `squash`: the
            whole image is resized to the square.
        interpolation: of the resizing.
        mean: per channel, of values from 0 to 1.
        std: likewise.
    """

    size: int
    crop: float | Literal["squash"]
    interpolation: Literal["bicubic", "bilinear"]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Entry:
    """A published weight file.

    Args:
        name: unique, VARIANT.PUBLISHER_DATA: convit_tiny.mindcv_in1k.
        model: the variant, which is the name of its config unless `config` is set.
        source: the project that publishes it, one of `SOURCES`; `own` is this package.
        url: its https address; None for files of this package, and where there is no lasting one,
            and `note` says more.
        file: its name.
        licence: the publisher's.
        preset: the preprocessing that its score belongs to.
        sha256: hexadecimal, complete or the first digits, 8 at least; None if no page states it.
        size: in bytes; None if no page states it.
        numerics: constructor arguments of the backbone that the weights need, where they differ
            from the authors'.
        top1: published accuracy on ImageNet-1k, in percent; of this package's files on the test
            images of their dataset.
        top5: likewise.
        scores: who publishes the accuracy, and where.
        verified: whether this package has loaded and scored the file.
        default: whether `pretrained=True` selects it for its variant.
        config: name of the shipped config, such as `fashion/cvt`, if it is not that of the model.
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
    config: str | None = None
    note: str = ""


@cache
def entries() -> tuple[Entry, ...]:
    """Return every published file, in the order of zoo.yaml."""
    tree, _ = read(FILE)
    presets = {
        name: Preset(**values | {key: tuple(values[key]) for key in ("mean", "std")})
        for name, values in tree["presets"].items()
    }
    return tuple(
        Entry(**values | {"name": name, "preset": presets[values["preset"]]})
        for name, values in tree["weights"].items()
    )


def find(name: str) -> Entry:
    """Return an entry by its name, or a variant's default by the variant's.

    Raises:
        ConfigError: there is neither.
    """
    known = _by_name()
    if name not in known:
        raise ConfigError(f"the model zoo has no weights {name!r}{like(name)}")
    return known[name]


def like(name: str) -> str:
    """Return, for a message, the known name that is closest to one, or else where they are."""
    near = difflib.get_close_matches(name, _by_name(), n=1)
    return f"; did you mean {near[0]!r}?" if near else "; `passl models` lists the names"


def is_known(name: str) -> bool:
    """Return whether `find` knows a name."""
    return name in _by_name()


def _by_name() -> dict[str, Entry]:
    known = {entry.model: entry for entry in entries() if entry.default}
    return known | {entry.name: entry for entry in entries()}


def table(shown: Sequence[Entry]) -> str:
    """Return entries as an aligned text, one line per file, with a star at each default."""
    titles = ["name", "model", "source", "MB", "sha256", "top-1", "top-5", "licence", "verified"]
    texts = [i for i, title in enumerate(titles) if title not in ("MB", "top-1", "top-5")]
    lines = aligned([titles, *(_row(entry) for entry in shown)], left=texts)
    return "\n".join([*lines, "* what pretrained=True selects; - unknown or unpublished"])


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
