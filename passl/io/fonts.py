"""Fonts of plots. Names of classes and folders may be in any script, and matplotlib's own font has
no Chinese, Japanese or Korean characters.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import matplotlib
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from passl.logging import get_logger

_CJK = (
    *("Noto Sans CJK", "Noto Sans SC", "Noto Sans TC", "Noto Sans JP", "Noto Sans KR"),
    *("Source Han Sans", "WenQuanYi", "Microsoft YaHei", "SimHei", "PingFang", "Hiragino Sans"),
    *("Heiti", "STHeiti", "Yu Gothic", "Meiryo", "MS Gothic", "IPA", "TakaoGothic", "VL Gothic"),
    *("Malgun Gothic", "Apple SD Gothic", "NanumGothic", "NanumBarunGothic", "UnDotum"),
    *("Droid Sans Fallback", "Arial Unicode MS", "SimSun", "Unifont"),
)
"""Beginnings of the names of fonts with such characters, in the order in which they are tried."""


@contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """A context to draw and save a plot in: texts are no formulas, and are drawn in installed fonts
    that have their characters. What no font has is logged once, and drawn as boxes.

    Args:
        texts: that users have chosen.
    """
    with _quiet():
        families, missing = _chosen({ord(c) for text in texts for c in text if not c.isspace()})
        if missing:
            _say("".join(map(chr, sorted(missing))))
        # A dollar sign in a name would begin a formula.
        with matplotlib.rc_context({"font.family": families, "text.parse_math": False}):
            yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what matplotlib says of each missing character, and of a font that has no regular
    weight.
    """
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
            yield
    finally:
        logger.setLevel(level)


def _chosen(characters: set[int]) -> tuple[list[str], set[int]]:
    """The fonts to draw in, one after another, and which characters none of them has."""
    families = list(matplotlib.rcParams["font.family"])
    missing = characters - _characters(tuple(families))
    for family in _installed():
        found = missing & _characters((family,)) if missing else set()
        families += [family] if found else []
        missing -= found
    return families, missing


def _installed() -> list[str]:
    names = sorted({font.name for font in fontManager.ttflist})
    return [name for begin in _CJK for name in names if name.startswith(begin)]


@cache
def _characters(families: tuple[str, ...]) -> set[int]:
    """The codes of the characters that a font has."""
    try:
        return set(get_font(findfont(FontProperties(family=families))).get_charmap())
    except (OSError, RuntimeError, ValueError):  # a file that is gone or damaged
        return set()


@cache
def _say(characters: str) -> None:
    shown = characters if len(characters) <= 20 else f"{characters[:20]}…"
    get_logger().warning(
        "no installed font has the characters %s: plots show boxes for them; install a font that "
        "has them, for Chinese, Japanese and Korean Noto Sans CJK (Debian: fonts-noto-cjk)",
        shown,
    )
