"""Fonts of plots. Names of classes and folders may be in any script, and the font of matplotlib
has no Chinese, Japanese or Korean characters.
"""

from __future__ import annotations

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
    families = list(matplotlib.rcParams["font.family"])
    missing = {ord(c) for text in texts for c in text if not c.isspace()}
    missing -= _characters(tuple(families))
    installed = sorted({font.name for font in fontManager.ttflist}) if missing else []
    for family in (name for begin in _CJK for name in installed if name.startswith(begin)):
        found = missing & _characters((family,))
        families += [family] if found else []
        missing -= found
    if missing:
        _warn("".join(map(chr, sorted(missing))))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        # A dollar sign in a name would start a formula.
        with matplotlib.rc_context({"font.family": families, "text.parse_math": False}):
            yield


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
