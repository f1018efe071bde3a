"""Text files with one class, image or label per line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from passl.errors import ConfigError
from passl.io.files import open_regular
from passl.io.remote import is_url, read_url

# Formats of other projects, recognised if every line of a class file has them.
_LABEL_AND_NAME = re.compile(r"([0-9]{1,9})\s+(\S.*)")  # PaddleClas: 0 tench, Tinca tinca
_SYNSET = re.compile(r"(n[0-9]{8})\s.*")  # ImageNet's lists: n01440764 tench, Tinca tinca

_SHOWN = 5
"""Lines of a file that a message names."""


def read_class_file(file: str) -> list[str]:
    """Return the class names of a file, local or at an address, in the order of their labels.

    A line is a class name, which can contain spaces; text after a tab is a comment. Two more
    formats are recognised: `LABEL NAME`, with the labels 0, 1, 2, ... in any order, and
    `SYNSET MEANING`, where every line begins with a WordNet number such as n01440764, the name.

    Raises:
        ConfigError: the file cannot be read, names no class, or has an empty line or a class twice.
    """
    lines = list(read_lines(file, _lines_of_url(file) if is_url(file) else None))
    synsets = [match[1] for match in map(_SYNSET.fullmatch, lines) if match]
    numbered = [(int(m[1]), m[2]) for m in map(_LABEL_AND_NAME.fullmatch, lines) if m]
    names, order = lines, list(range(len(lines)))
    if len(synsets) == len(lines):
        names = synsets
    elif sorted(label for label, _ in numbered) == order:
        names = [name for _, name in numbered]
        order = sorted(order, key=lambda line: numbered[line][0])
    names = [name.partition("\t")[0].strip() for name in names]
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if name in first:
            raise ConfigError(
                f"{file}:{number}: class {name!r} is already in line {first[name]}; each class has "
                "one line"
            )
        first[name] = number
    return [names[line] for line in order]


def read_lines(file: str, raw: Iterable[str] | None = None) -> Iterator[str]:
    """Iterate over the lines of a UTF-8 text file, stripped of whitespace. Empty lines at the end
    of the file are ignored.

    Args:
        raw: the lines, if they have been read.

    Raises:
        ConfigError: the file cannot be read, has no line, or an empty line between others.
    """
    number = empty = 0
    for number, line in enumerate(_raw_lines(file) if raw is None else raw, 1):
        if not line.strip():
            empty = empty or number
            continue
        if empty:
            raise ConfigError(f"{file}:{empty}: an empty line between others; remove it")
        yield line.strip()
    if empty == 1 or not number:
        raise ConfigError(f"{file}: has no line")


def split_lines(file: str, delimiter: str | None) -> Iterator[tuple[str, str, str]]:
    """Iterate over the lines of a file, split at the last delimiter (null: whitespace): the line,
    what is before it and what is behind it, both stripped; without a delimiter nothing is behind.

    Raises:
        ConfigError: the delimiter is empty, or as `read_lines`.
    """
    if delimiter == "":
        raise ConfigError("delimiter '' is empty; leave it out for whitespace")
    for line in read_lines(file):
        before, *behind = line.rsplit(delimiter, 1)
        yield line, before.strip(), behind[0].strip() if behind else ""


def raise_first(file: str, wrong: Sequence[str]) -> None:
    """Raise a ConfigError of the first problems of a file's lines, if there is any."""
    if len(wrong) > _SHOWN:
        wrong = [*wrong[:_SHOWN], f"{file}: {len(wrong) - _SHOWN} more lines are wrong"]
    if wrong:
        raise ConfigError(*wrong)


def quoted(text: str) -> str:
    """Return a text of a file for a message, shortened."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _raw_lines(file: str) -> Iterator[str]:
    try:
        # File names can be invalid UTF-8.
        with open_regular(file, "r", encoding="utf-8-sig", errors="surrogateescape") as lines:
            yield from lines
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{file}: cannot be read: {reason}") from None


def _lines_of_url(url: str) -> list[str]:
    try:
        return read_url(url).decode("utf-8-sig", "surrogateescape").splitlines()
    except FileNotFoundError:
        raise ConfigError(f"{url}: there is no such file") from None
