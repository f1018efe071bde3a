"""Names of classes that a person can read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("imagenet_classes.txt")


@cache
def imagenet_classes() -> dict[str, str]:
    """ImageNet's thousand classes in the order of their labels: WordNet number -> words.
    `imagenet_classes.md` says where they are from.
    """
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return {synset: words for synset, _, words in (line.partition("\t") for line in lines)}


def readable(classes: Sequence[str]) -> list[str]:
    """The names as they are, but words for the WordNet numbers that ImageNet's folders are called
    by.
    """
    words = imagenet_classes()
    return [words.get(name, name) for name in classes]
