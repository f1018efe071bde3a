"""RandomErasing draws and fills boxes as its paper and timm say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from passl.data import TRANSFORMS
from passl.data.transforms.random_erasing import RandomErasing
from passl.errors import ConfigError
from tests.images import check_uniform


def test_area_log_aspect_and_place_are_uniform(rng):
    """Of an image so large that every box fits and rounding does not count."""
    side, count = 4000, 4
    erasing = RandomErasing(min_area=0.1, max_area=0.4, min_aspect=0.5)
    left, top, w, h = np.array([erasing.box(side, side, count, rng) for _ in range(4000)]).T
    draws = {
        "area": (w * h / side**2 * count - 0.1) / 0.3,
        "log aspect": np.log(h / w * 2) / math.log(4),
        "left": left / (side - w),
        "top": top / (side - h),
    }
    check_uniform(draws)


def test_aspect_is_height_over_width(rng):
    boxes = [RandomErasing(min_aspect=2, max_aspect=3).box(900, 900, 1, rng) for _ in range(50)]
    assert all(1.9 < h / w < 3.1 for _, _, w, h in boxes)


def test_boxes_stay_inside_and_reach_the_edges(rng):
    erasing = RandomErasing(min_area=0.25, max_area=0.25, min_aspect=1, max_aspect=1)
    boxes = {erasing.box(4, 4, 1, rng) for _ in range(900)}
    assert boxes == {(left, top, 2, 2) for left in range(3) for top in range(3)}


@pytest.mark.parametrize(("width", "height"), [(8, 200), (200, 8)])
def test_box_that_does_not_fit_is_drawn_again(rng, width, height):
    """It must be smaller than the image both ways."""
    boxes = np.array([RandomErasing().box(width, height, 1, rng) for _ in range(600)])
    left, top, w, h = boxes.T
    assert (w < width).all()
    assert (h < height).all()
    assert ((left + w <= width) & (top + h <= height)).all()
    assert w.min() + h.min() == 0  # none of ten fitted
    assert (w * h > 0).mean() > 0.5


def test_box_that_never_fits_erases_nothing(rng):
    erasing = RandomErasing(p=1, min_area=1, max_area=1, min_aspect=1, max_aspect=1)
    array = np.ones((3, 8, 8), np.float32)
    np.testing.assert_array_equal(erasing(array, rng), array)


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_probability(rng, p):
    erasing, array, total = (
        RandomErasing(p=p, max_area=0.02),
        np.ones((3, 20, 20), np.float32),
        3000,
    )
    erased = sum(bool((erasing(array, rng) == 0).any()) for _ in range(total))
    assert abs(erased / total - p) <= 4 * math.sqrt(p * (1 - p) / total)


def test_mode_const_is_the_mean_colour(rng):
    array = np.full((3, 30, 30), 7, np.float32)
    erased = RandomErasing(p=1)(array, rng)
    inside = (erased == 0).all(axis=0)
    rows, columns = inside.any(axis=1), inside.any(axis=0)
    assert 0.01 < inside.mean() < 0.4
    np.testing.assert_array_equal(inside, rows[:, None] & columns)  # one box
    assert (erased[:, ~inside] == 7).all()


@pytest.mark.parametrize("mode", ["rand", "pixel"])
def test_random_colours_are_normal(rng, mode):
    erasing = RandomErasing(p=1, mode=mode, min_area=0.2, max_area=0.3)
    colours = []
    for _ in range(600 if mode == "rand" else 6):
        erased = erasing(np.full((3, 40, 40), np.inf, np.float32), rng)
        content = erased[np.isfinite(erased)].reshape(3, -1)
        assert erased.dtype == np.float32
        if mode == "rand":  # one colour in a box
            assert (content == content[:, :1]).all()
            content = content[:, :1]
        colours.append(content.ravel())
    colours = np.concatenate(colours)
    assert len(np.unique(colours)) > 0.99 * len(colours)
    assert abs(colours.mean()) < 4 / math.sqrt(len(colours))
    assert abs(colours.std() - 1) < 4 / math.sqrt(2 * len(colours))


def test_number_of_boxes(rng, monkeypatch):
    drawn = []
    original = RandomErasing.box

    def box(self, width, height, count, rng):
        drawn.append(count)
        return original(self, width, height, count, rng)

    monkeypatch.setattr(RandomErasing, "box", box)
    array, counts, total = np.ones((3, 20, 20), np.float32), [], 1200
    for _ in range(total):
        drawn.clear()
        RandomErasing(p=1, min_count=2, max_count=4)(array, rng)
        assert drawn == [len(drawn)] * len(drawn)
        counts.append(len(drawn))
    numbers, seen = np.unique(counts, return_counts=True)
    assert numbers.tolist() == [2, 3, 4]
    assert np.abs(seen / total - 1 / 3).max() < 4 * math.sqrt(2 / 9 / total)


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_input_is_not_modified_and_result_depends_on_the_generator(mode):
    array = np.ones((3, 16, 16), np.float32)
    erasing = RandomErasing(p=1, mode=mode, max_count=3)
    results = [erasing(array, np.random.default_rng(seed)).tobytes() for seed in range(20)]
    assert results == [erasing(array, np.random.default_rng(seed)).tobytes() for seed in range(20)]
    assert len(set(results)) > 15
    assert (array == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.5}, "p: must be a number from 0 to 1"),
        ({"p": -0.1}, "p: must be a number from 0 to 1"),
        ({"min_area": 0.5}, "min_area 0.5 and max_area 0.333"),
        ({"min_area": 0}, "min_area 0 "),
        ({"max_area": 1.5}, "max_area 1.5"),
        ({"min_aspect": 0}, "min_aspect 0 "),
        ({"min_aspect": 2}, "min_aspect 2 "),
        ({"max_aspect": 0.1}, "max_aspect, here 0.1"),
        ({"max_aspect": float("inf")}, "max_aspect, here inf"),
        ({"min_aspect": float("nan")}, "min_aspect nan "),
        ({"min_count": 0}, "min_count: must be a whole number of at least 1"),
        ({"min_count": 3, "max_count": 2}, "max_count 2 "),
        ({"mode": "mean"}, "mode: must be one of const, rand, pixel"),
    ],
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(ConfigError) as raised:
        TRANSFORMS.build({"name": "RandomErasing", **options})
    assert message in str(raised.value)
