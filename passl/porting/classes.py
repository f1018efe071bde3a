"""Class names: whether two lists mean the same classes, in which order, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from passl.errors import shortened

FILE = Path(__file__).with_name("imagenet_classes.txt")


@cache
def imagenet_classes() -> dict[str, str]:
    """Return ImageNet's 1000 classes in the order of their labels: WordNet number -> words.
    `imagenet_classes.md` has the source.
    """
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return {synset: words for synset, _, words in (line.partition("\t") for line in lines)}


def readable(classes: Sequence[str]) -> list[str]:
    """Replace WordNet numbers, the names of ImageNet's folders, by words."""
    words = imagenet_classes()
    return [words.get(name, name) for name in classes]


def are_named(names: Sequence[str] | None) -> bool:
    """Return whether names identify classes. Numbers in order do not: a list of images without a
    class file has them instead of names.
    """
    return names is not None and any(name != str(n) for n, name in enumerate(names))


def order_in(theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """Return the position of each of our classes in their list.

    If one side has WordNet numbers and the other words, words are compared: all words of a class,
    or only the first, because lists of ImageNet's classes differ in the others.

    Args:
        theirs: class names in the order of the labels.
        ours: likewise, of the same length.

    Returns:
        Their label of each of our labels; None if the labels are the same.

    Raises:
        ValueError: they are not the same classes. The message names some that differ.
    """
    for their_names, our_names in _vocabularies(list(theirs), list(ours)):
        if their_names == our_names:
            return None
        labels = {name: label for label, name in enumerate(their_names)}
        if len(labels) == len(their_names) and labels.keys() == set(our_names):
            return [labels[name] for name in our_names]
    only = [
        shortened(sorted(set(one).difference(other))) or "nothing else"
        for one, other in ((theirs, ours), (ours, theirs))
    ]
    raise ValueError(f"only the weights know {only[0]}; only the data has {only[1]}")


def _vocabularies(theirs: list[str], ours: list[str]) -> list[tuple[list[str], list[str]]]:
    """Return the pairs of lists to compare, in order."""
    numbers = imagenet_classes()
    if all(name in numbers for name in theirs) == all(name in numbers for name in ours):
        return [(theirs, ours)]
    words = [[_words(name) for name in names] for names in (theirs, ours)]
    first = [[name.partition(",")[0].strip() for name in names] for names in words]
    return [(words[0], words[1]), (first[0], first[1])]


def _words(name: str) -> str:
    return imagenet_classes().get(name, name).replace("_", " ").casefold().strip()
