"""The Chinese pages have the commands, configs and code of the English ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ZH = ROOT / "docs" / "zh"


def blocks(path: Path) -> list[str]:
    """Code blocks without comments, which may be translated."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"```(?:bash|python|yaml)\n.*?```", text, re.DOTALL)
    return [re.sub(r"[ \t]*#.*", "", block) for block in found]


@pytest.mark.parametrize("page", sorted(path.name for path in ZH.glob("*.md")))
def test_same_blocks(page):
    english = ROOT / page if page == "README.md" else ROOT / "docs" / page
    assert blocks(ZH / page) == blocks(english)


@pytest.mark.parametrize("page", sorted(path.name for path in ZH.glob("*.md")))
def test_links_exist(page):
    text = (ZH / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    assert links
    missing = {link for link in links if "://" not in link and not (ZH / link).exists()}
    assert missing == set()
