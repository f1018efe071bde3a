"""Figures of matplotlib as files and images, in fonts that have their characters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from passl.io.files import write_atomically
from passl.io.fonts import fonts_for

DPI = 110


def save_figure(figure: Figure, out: Path) -> None:
    """Write a figure as its file's suffix says, PNG or SVG, in fonts that have its characters.

    The file is complete or absent. The same figure gives the same bytes.
    """
    kind = out.suffix.lower().removeprefix(".")
    options: dict[str, Any] = {"format": kind, "dpi": DPI, "bbox_inches": "tight"}
    if kind == "svg":
        options["metadata"] = {"Date": None}
    with _fonts_of(figure), matplotlib.rc_context({"svg.hashsalt": "passl"}):
        write_atomically(out, lambda temporary: figure.savefig(temporary, **options))


def as_image(figure: Figure) -> Image.Image:
    """A figure as an image, as `save_figure` writes it."""
    file = BytesIO()
    with _fonts_of(figure):
        figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight")
    return Image.open(file).convert("RGB")


@contextmanager
def _fonts_of(figure: Figure) -> Iterator[None]:
    """Draw in fonts that have the figure's characters, with no text as a formula."""
    texts = figure.findobj(Text)
    with fonts_for([text.get_text() for text in texts]):
        for text in texts:
            text.set_fontfamily(matplotlib.rcParams["font.family"])
            text.set_parse_math(False)
        yield
