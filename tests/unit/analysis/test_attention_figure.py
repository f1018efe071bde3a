"""Attention is drawn where it goes."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from passl.analysis.attention_figure import draw_attention, image_attention
from passl.analysis.figures import HEAT, Shown
from passl.analysis.layers import find_point
from passl.errors import ConfigError
from tests.unit.analysis.planted import PATCH, image_with, planted_model

# CvT's keys are every second cell.
PLACES = [("ConViT", 1, 4), ("ConViT", 3, 0), ("CvT", 2, 4), ("CvT", 0, 0)]


@pytest.mark.parametrize(("name", "row", "column"), PLACES)
def test_planted_head_is_drawn_at_its_place(name, row, column):
    """In an image of 32 x 48 pixels."""
    model, image = planted_model(name), image_with(row, column, 32, 48)
    point = find_point(model.backbone, "-1")
    (found,) = image_attention(model, image, [point])
    assert found.query == "class token"
    shown = Shown("a", image, np.zeros((32, 48, 3)))
    figure = draw_attention([shown], [[found]])
    # The image, the mean, head 0 and head 1, which attends to all keys alike.
    _, _, planted, uniform = (axes.images[0].get_array() for axes in figure.axes)
    yellow = np.array(matplotlib.colormaps[HEAT](1.0)[:3])
    distance = np.abs(planted - (0.4 * 0.2 + 0.6 * yellow)).sum(-1)
    centre = row * PATCH + PATCH // 2, column * PATCH + PATCH // 2
    rows, columns = (
        np.abs(np.arange(n) - place) for n, place in zip((32, 48), centre, strict=True)
    )
    far = np.maximum(rows[:, None], columns)
    assert distance.min() < 0.25
    assert far.ravel()[distance.argmin()] <= PATCH  # beside the border the nearest cell goes on
    assert distance[far > 2 * PATCH].min() > 0.5
    assert np.ptp(uniform, axis=(0, 1)).max() < 1e-6


def test_queries_and_heads():
    model, image = planted_model("CvT"), image_with(2, 4, 32, 48)
    point = find_point(model.backbone, "0.0")
    (found,) = image_attention(model, image, [point], heads=[1], query=(9, 30))
    assert (found.query, found.mark) == ("patch 1, 3", (11.5, 27.5))
    assert found.maps_HYX.shape == (1, 2, 3)
    assert np.isclose(found.mean_YX.max(), (1 + 1 / 7) / 2, rtol=1e-5)  # 6 keys and the class token
    (alone,) = image_attention(model, image, [point], heads=[])
    assert len(draw_attention([Shown("a", image, np.zeros((32, 48, 3)))], [[alone]]).axes) == 2
    for options, word in (
        ({"heads": [2]}, "heads 0 to 1"),
        ({"query": (32, 0)}, "rows are 0 to 31"),
    ):
        with pytest.raises(ConfigError, match=word):
            image_attention(model, image, [point], **options)
    with pytest.raises(ConfigError, match=r"those that have it: stage0\.blocks\.0"):
        image_attention(model, image, [find_point(model.backbone, "0.embed")])
