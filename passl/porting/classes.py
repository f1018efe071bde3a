"""Names of classes: whether two lists mean the same ones, in which order, and in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def told(names: Sequence[str] | None) -> bool:
    """Whether names say which classes they are. Numbers in order do not: a list of images without a
    class file has them instead of names.
    """
    return names is not None and any(name != str(n) for n, name in enumerate(names))


def order_in(theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """The place of each of our classes in their list.

    WordNet numbers on one side and words on the other are compared in words: all of them, or, since
    lists of ImageNet's classes differ in that, the first of each.

    Args:
        theirs, ours: names in the order of the labels, as many on both sides.

    Returns:
        Their label of each of our labels; null if it is the same one for all.

    Raises:
        ValueError: they are not the same classes. The message names some that differ.
    """
    for theirs_said, ours_said in _vocabularies(list(theirs), list(ours)):
        if theirs_said == ours_said:
            return None
        places = {name: label for label, name in enumerate(theirs_said)}
        if len(places) == len(theirs_said) and places.keys() == set(ours_said):
            return [places[name] for name in ours_said]
    only = [_some(set(one).difference(other)) for one, other in ((theirs, ours), (ours, theirs))]
    raise ValueError(f"only the weights know {only[0]}; only the data has {only[1]}")


def _vocabularies(theirs: list[str], ours: list[str]) -> list[tuple[list[str], list[str]]]:
    words = imagenet_classes()
    if all(name in words for name in theirs) == all(name in words for name in ours):
        return [(theirs, ours)]
    full, first = ([[form(name) for name in names] for names in (theirs, ours)] for form in _FORMS)
    return [(full[0], full[1]), (first[0], first[1])]


def _words(name: str) -> str:
    return imagenet_classes().get(name, name).replace("_", " ").casefold().strip()


def _first_word(name: str) -> str:
    return _words(name).partition(",")[0].strip()


_FORMS = (_words, _first_word)


def _some(names: Iterable[str], shown: int = 5) -> str:
    found = sorted(names)
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return f"{', '.join(found[:shown]) or 'nothing else'}{more}"
