"""Fonts of plots. Names of classes and folders may be in any script, and the font of matplotlib
has no Chinese, Japanese or Korean characters.
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
"""Prefixes of the names of fonts that have these characters, in order of preference."""


@contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Draw and save a plot in fonts that have the characters of `texts`, with no text as a formula.

    Characters that no installed font has are logged once, and drawn as boxes.

    Args:
        texts: names that users have chosen.
    """
    with _quiet():
        families, missing = _chosen({ord(c) for text in texts for c in text if not c.isspace()})
        if missing:
            _warn("".join(map(chr, sorted(missing))))
        # A dollar sign in a name would start a formula.
        with matplotlib.rc_context({"font.family": families, "text.parse_math": False}):
            yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress matplotlib's messages about missing characters and regular weights."""
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
    """Return the fonts to use, in order, and the characters that none of them has."""
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
    """Return the codes of the characters that fonts have."""
    try:
        return set(get_font(findfont(FontProperties(family=families))).get_charmap())
    except (OSError, RuntimeError, ValueError):  # a file that is gone or damaged
        return set()


@cache
def _warn(characters: str) -> None:
    shown = characters if len(characters) <= 20 else f"{characters[:20]}…"
    get_logger().warning(
        "no installed font has the characters %s: plots show boxes for them; install a font that "
        "has them, for Chinese, Japanese and Korean Noto Sans CJK (Debian: fonts-noto-cjk)",
        shown,
    )
