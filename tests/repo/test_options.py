"""docs/options.md against the signatures of the networks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from passl.modeling.backbones import BACKBONES
from passl.modeling.heads import HEADS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "options.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["ConViT", "CvT"])
def test_a_network_s_table_has_its_options_and_no_others(name):
    section = PAGE.split(f"## {name}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    text = "".join(rows) + section.split("\n|")[0]  # the paragraph above the table too
    options = BACKBONES.options(name)
    values = {word for o in options.values() for word in re.findall(r"\w+", o.words)}
    named = set(re.findall(r"`(\w+)`", text)) - values
    assert named == options.keys()


def test_the_head_s_options_are_named():
    section = PAGE.split("## The head\n")[1].split("\n## ")[0]
    assert set(HEADS.options("ClsHead")) <= set(re.findall(r"`(\w+)`", section))
