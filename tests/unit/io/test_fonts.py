"""Class names in any script on the plots, on machines with and without fonts for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image

from passl.analysis.curves import plot_runs, read_run
from passl.engine.metrics import MetricLog
from passl.evaluation.confusion import figure_of_confusion
from passl.io import fonts
from passl.io.figures import save_figure

FAMILY = "WenQuanYi of a test"
NAMES = ["猫", "狗", "$x"]


def made_font(path: Path) -> Path:
    """A font whose 猫 and 狗 are filled squares, and that has no other character."""
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord("猫"): "square", ord("狗"): "square"})
    pen = TTGlyphPen(None)
    for move, point in (
        (pen.moveTo, (0, 0)),
        (pen.lineTo, (0, 900)),
        (pen.lineTo, (900, 900)),
        (pen.lineTo, (900, 0)),
    ):
        move(point)
    pen.closePath()
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": FAMILY, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def no_cjk(monkeypatch):
    """A machine with matplotlib's own fonts alone."""
    own = [font for font in fontManager.ttflist if "matplotlib" in font.fname]
    monkeypatch.setattr(fontManager, "ttflist", own)
    fonts._warn.cache_clear()
    fonts._characters.cache_clear()


@pytest.fixture
def cjk(no_cjk, tmp_path):
    """A machine with a font for Chinese too."""
    fontManager.addfont(made_font(tmp_path / "font.ttf"))


def ink(path: Path) -> int:
    with Image.open(path) as image:
        return int((np.asarray(image.convert("L")) < 128).sum())


def drawn(path: Path, names: list[str]) -> int:
    save_figure(figure_of_confusion(np.zeros((len(names), len(names)), int), names), path)
    return ink(path)


def test_installed_font_is_used(cjk, tmp_path, caplog):
    """Each filled square is of some 14 pixels; a box is its outline, and a space is nothing."""
    blank = drawn(tmp_path / "blank.png", [" ", " ", "$x"])
    named = drawn(tmp_path / "named.png", NAMES)
    assert named - blank > 2 * 2 * 10**2
    assert not caplog.records


def test_missing_font_is_logged_once(no_cjk, tmp_path, caplog):
    for number in range(2):
        drawn(tmp_path / f"{number}.png", NAMES)  # matplotlib's warnings would be errors here
    (record,) = caplog.records
    assert "characters 狗猫" in record.getMessage()
    assert "fonts-noto-cjk" in record.getMessage()


def test_curves_of_a_run_with_a_chinese_name(no_cjk, tmp_path, caplog):
    folder = tmp_path / "猫$a$b^"
    folder.mkdir()
    log = MetricLog(folder)
    log.write("train", 10, epoch=1, loss=1, lr=0.1)
    log.write("val", 10, epoch=1, loss=2, top1=30.0, top5=33.0)
    log.close()
    plot_runs([(folder.name, read_run(folder))], tmp_path / "curves.png")
    assert "characters 猫:" in caplog.text


def test_characters_of_matplotlib_need_no_other_font(cjk, caplog):
    import matplotlib

    before = list(matplotlib.rcParams["font.family"])
    with fonts.fonts_for(["écureuil", "Ωμέγα", "кот", "a b"]):
        assert matplotlib.rcParams["font.family"] == before
    with fonts.fonts_for(["猫"]):
        assert matplotlib.rcParams["font.family"] == [*before, FAMILY]
    assert matplotlib.rcParams["font.family"] == before
    assert not caplog.records


def test_font_without_its_file(cjk, tmp_path, caplog):
    (tmp_path / "font.ttf").write_bytes(b"damaged")
    with fonts.fonts_for(["猫"]):
        pass
    assert "characters 猫" in caplog.text
