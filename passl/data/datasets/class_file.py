"""Files of classes, images or labels, one a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from passl.errors import ConfigError

# What other projects write into the lines of a class file, where all of them have it.
_LABEL_AND_NAME = re.compile(r"([0-9]{1,9})\s+(\S.*)")  # PaddleClas: 0 tench, Tinca tinca
_SYNSET = re.compile(r"(n[0-9]{8})\s.*")  # ImageNet's lists: n01440764 tench, Tinca tinca


def read_class_file(file: str) -> list[str]:
    """The class names in the order of their labels.

    A line is a class name, which may have spaces; what follows a tab is a note. Two more forms are
    known: `LABEL NAME`, where the labels are 0, 1, 2, ... in any order, and `SYNSET MEANING`, where
    every line begins with a WordNet number such as n01440764, which is the name.

    Raises:
        ConfigError: the file cannot be read, names no class, has an empty line or a class twice.
    """
    lines = read_lines(file)
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
                f"{file}:{number}: class {name!r} is in line {first[name]} already; each class has "
                "one line"
            )
        first[name] = number
    return [names[line] for line in order]


def read_lines(file: str) -> list[str]:
    """As a list, what `iterate_lines` gives."""
    return list(iterate_lines(file))


def iterate_lines(file: str) -> Iterator[str]:
    """The lines of a text file in UTF-8, without blanks around them. Empty ones at the end of the
    file are no lines.

    Raises:
        ConfigError: the file cannot be read, has no line, or an empty one in between.
    """
    number = empty = 0
    for number, line in enumerate(_lines_as_they_are(file), 1):
        if not line.strip():
            empty = empty or number
            continue
        if empty:
            raise ConfigError(
                f"{file}:{empty}: an empty line, where every line counts; take it out"
            )
        yield line.strip()
    if empty == 1 or not number:
        raise ConfigError(f"{file}: has no line")


def _lines_as_they_are(file: str) -> Iterator[str]:
    path = Path(file)
    # Opening a pipe would wait for ever; a shell's own, /dev/stdin or <(...), has its writer.
    if path.exists() and not path.is_file() and path.parts[:2] != ("/", "dev"):
        raise ConfigError(f"{file}: cannot be read: it is not a regular file")
    try:
        # Names of files may be no UTF-8.
        with open(file, encoding="utf-8-sig", errors="surrogateescape") as lines:
            yield from lines
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
