"""Mixup and CutMix by their formulas."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from passl.data.transforms.mixup import Mixup, build_mixup
from passl.errors import ConfigError

CLASSES = 5


def batch(size: int = 6, height: int = 8, width: int = 12):
    """Images whose every pixel is the image's number + 1, and labels that are its number."""
    images = np.ones((size, 3, height, width), np.float32)
    images *= np.arange(1, size + 1, dtype=np.float32)[:, None, None, None]
    return paddle.to_tensor(images), paddle.to_tensor(np.arange(size) % CLASSES)


ROUNDING = 4 * (6 + 1) * 2.0**-24
"""Of pixels up to 6 and targets up to 1: the share, one less it, two products and a sum."""


def parts_kept(images, size: int) -> np.ndarray:
    """How much of each image's own pixels is in it, read from the pixels: [B]."""
    own = np.arange(1, size + 1)
    other = own[::-1]
    mean = images.numpy().astype(np.float64).mean(axis=(1, 2, 3))
    return (mean - other) / (own - other)


def targets_for(kept: np.ndarray, labels) -> np.ndarray:
    on = np.eye(CLASSES)[labels.numpy()]
    return on * kept[:, None] + on[::-1] * (1 - kept[:, None])


def test_sets_of_labels_are_mixed_in_the_same_proportions(rng):
    images, _ = batch()
    labels = (rng.random((6, CLASSES)) < 0.4).astype(np.float32)
    mixed, targets = Mixup(CLASSES, mode="elem")(images, paddle.to_tensor(labels), 0, rng)
    kept = parts_kept(mixed, 6)[:, None]
    assert ((kept > 0) & (kept < 1)).any()
    expected = labels * kept + labels[::-1] * (1 - kept)
    np.testing.assert_allclose(targets.numpy(), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize(
    "options",
    [
        {"cutmix_alpha": 0.0},
        {"mixup_alpha": 0.0},
        {"cutmix_minmax": (0.3, 0.9)},
        {"prob": 0.6},
    ],
    ids=str,
)
def test_targets_have_the_proportions_of_the_pixels(rng, mode, options):
    mixup, soft = Mixup(CLASSES, mode=mode, **options), 0
    for _ in range(40):
        images, labels = batch()
        mixed, targets = mixup(images, labels, 0, rng)
        kept = parts_kept(mixed, 6)
        if targets.ndim == 1:
            np.testing.assert_array_equal(kept, 1)
            continue
        soft += 1
        assert (targets.dtype, targets.shape) == (paddle.float32, [6, CLASSES])
        np.testing.assert_allclose(targets.numpy(), targets_for(kept, labels), 0, ROUNDING)
        if mode == "batch":
            assert np.ptp(kept) < ROUNDING
        if mode == "pair":
            np.testing.assert_allclose(kept, kept[::-1], 0, ROUNDING)
    assert soft > 10
    np.testing.assert_array_equal(images.numpy(), batch()[0].numpy())


def test_mode_elem_draws_for_each_image(rng):
    mixed, _ = Mixup(CLASSES, mode="elem", cutmix_alpha=0.0)(*batch(), 0, rng)
    assert np.diff(np.sort(parts_kept(mixed, 6))).min() > 1e-4


def test_mixup_blends_whole_images(rng):
    mixed, _ = Mixup(CLASSES, cutmix_alpha=0.0)(*batch(), 0, rng)
    pixels = mixed.numpy()
    assert (pixels == pixels[:, :1, :1, :1]).all()


@pytest.mark.parametrize("minmax", [None, (0.2, 0.7)])
def test_cutmix_pastes_a_box_of_the_other_image(rng, minmax):
    mixup = Mixup(CLASSES, mixup_alpha=0.0, cutmix_minmax=minmax, mode="elem")
    for _ in range(20):
        mixed, _ = mixup(*batch(), 0, rng)
        for index, pixels in enumerate(mixed.numpy()):
            foreign = pixels[0] == 6 - index
            assert ((pixels == index + 1) | foreign).all()
            rows, columns = foreign.any(axis=1), foreign.any(axis=0)
            np.testing.assert_array_equal(foreign, rows[:, None] & columns)
            for line in (rows, columns):  # in one piece
                assert np.count_nonzero(np.diff(line.astype(int))) <= 2


def test_box_area_is_the_part_not_kept(rng):
    mixup, height, width = Mixup(CLASSES), 400, 600
    boxes = np.array([mixup.box(0.75, height, width, rng) for _ in range(4000)])
    top, bottom, left, right = boxes.T
    assert (top.min(), left.min(), bottom.max(), right.max()) == (0, 0, height, width)
    # Half of each side; the centre is drawn evenly over the image.
    inside = (bottom - top == 200) & (right - left == 300)
    expected = (0.5 + 1 / height) * (0.5 + 1 / width)  # centres whose box is not cut
    assert abs(inside.mean() - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)
    assert ((bottom - top <= 200) & (right - left <= 300)).all()
    assert (bottom - top).min() == 100
    assert (right - left).min() == 150


def test_cutmix_minmax_bounds_the_sides(rng):
    mixup = Mixup(CLASSES, cutmix_minmax=(0.25, 0.5))
    boxes = [mixup.box(0.1, 8, 12, rng) for _ in range(2000)]
    sides = {(bottom - top, right - left) for top, bottom, left, right in boxes}
    assert sides == {(h, w) for h in (2, 3) for w in (3, 4, 5)}  # int(8 / 4) to below int(8 / 2)
    assert min(top for top, *_ in boxes) == min(left for _, _, left, _ in boxes) == 0
    assert (max(box[1] for box in boxes), max(box[3] for box in boxes)) == (8, 12)


# -------------------------------------------------------------------------------------------------
# Draws
# -------------------------------------------------------------------------------------------------
def test_probabilities_of_draws(rng):
    total = 8000
    mixup = Mixup(CLASSES, mode="elem", prob=0.7, switch_prob=0.3)
    kept, cut = mixup.draw(total, rng)
    mixed = kept < 1
    for share, n, p in ((mixed, total, 0.7), (cut[mixed], mixed.sum(), 0.3)):
        assert abs(share.mean() - p) < 4 * math.sqrt(p * (1 - p) / n)
    assert not cut[~mixed].any()


@pytest.mark.parametrize(("alpha", "cutmix_alpha"), [(0.2, 0.0), (0.8, 0.0), (0.0, 3.0)])
def test_kept_parts_have_a_beta_distribution(rng, alpha, cutmix_alpha):
    options = {"mixup_alpha": alpha, "cutmix_alpha": cutmix_alpha}
    kept, cut = Mixup(CLASSES, mode="elem", **options).draw(20_000, rng)
    assert cut.all() if cutmix_alpha else not cut.any()
    a = max(alpha, cutmix_alpha)
    variance = 1 / (4 * (2 * a + 1))
    fourth = 3 * variance**2 * (2 * a + 1) / (2 * a + 3)  # central moment
    assert abs(kept.mean() - 0.5) < 4 * math.sqrt(variance / 20_000)
    assert abs(kept.var() - variance) < 4 * math.sqrt((fourth - variance**2) / 20_000)


def test_cutmix_minmax_turns_cutmix_on(rng):
    kept, cut = Mixup(
        CLASSES, mode="elem", mixup_alpha=0.0, cutmix_alpha=0.0, cutmix_minmax=(0.2, 0.8)
    ).draw(4000, rng)
    assert cut.all()
    assert abs(kept.var() - 1 / 12) < 0.005


def test_result_depends_on_the_generator_only():
    def result(seed):
        mixed, targets = Mixup(CLASSES, mode="elem")(*batch(), 0, np.random.default_rng(seed))
        return mixed.numpy().tobytes() + targets.numpy().tobytes()

    assert [result(seed) for seed in range(8)] == [result(seed) for seed in range(8)]
    assert len({result(seed) for seed in range(8)}) == 8


# -------------------------------------------------------------------------------------------------
# When nothing is mixed
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mixup", "epoch"),
    [
        (Mixup(CLASSES, off_epoch=3), 3),
        (Mixup(CLASSES, off_epoch=3), 4),
        (Mixup(CLASSES, prob=0.0), 0),
        (Mixup(CLASSES, mixup_alpha=0.0, cutmix_alpha=0.0), 0),
        (build_mixup(None, CLASSES), 0),
    ],
)
@pytest.mark.parametrize("size", [5, 6])
def test_nothing_is_mixed_when_off(rng, mixup, epoch, size):
    images, labels = batch(size)
    mixed, targets = mixup(images, labels, epoch, rng)
    assert mixed is images
    assert targets is labels


def test_epoch_before_off_epoch_is_mixed(rng):
    mixed, targets = Mixup(CLASSES, off_epoch=3)(*batch(), 2, rng)
    assert targets.shape == [6, CLASSES]
    assert (mixed.numpy() != batch()[0].numpy()).any()


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_middle_of_an_odd_batch_does_not_change(rng, mode):
    images, labels = batch(5)
    mixed, targets = Mixup(CLASSES, mode=mode)(images, labels, 0, rng)
    np.testing.assert_allclose(mixed.numpy()[2], images.numpy()[2], 0, ROUNDING)
    np.testing.assert_allclose(targets.numpy()[2], np.eye(CLASSES)[2], 0, ROUNDING)


def test_mode_pair_with_an_odd_batch_is_an_error(rng):
    with pytest.raises(ValueError, match="even number of images, not 5"):
        Mixup(CLASSES, mode="pair")(*batch(5), 0, rng)


def test_batch_of_one(rng):
    images, labels = batch(1)
    mixed, targets = Mixup(CLASSES)(images, labels, 0, rng)
    np.testing.assert_allclose(mixed.numpy(), images.numpy(), 0, ROUNDING)
    np.testing.assert_allclose(targets.numpy(), [[1, 0, 0, 0, 0]], 0, ROUNDING)


# -------------------------------------------------------------------------------------------------
# Config
# -------------------------------------------------------------------------------------------------
def test_build_mixup_uses_the_section(rng):
    mixup = build_mixup({"mode": "elem", "prob": 0.25, "off_epoch": 4}, 7)
    assert (mixup.num_classes, mixup.mode, mixup.prob, mixup.off_epoch) == (7, "elem", 0.25, 4)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"mixup_alpha": -1}, "mixup_alpha: must be a number of at least 0"),
        ({"cutmix_alpha": -0.5}, "cutmix_alpha: must be a number of at least 0"),
        ({"mixup_alpha": float("nan")}, "mixup_alpha: must be a number of at least 0"),
        ({"cutmix_alpha": float("inf")}, "cutmix_alpha: must be a number of at least 0"),
        ({"cutmix_minmax": (0.8, 0.2)}, "cutmix_minmax [0.8, 0.2]"),
        ({"cutmix_minmax": (0.5, 1.2)}, "cutmix_minmax [0.5, 1.2]"),
        ({"prob": 1.1}, "prob: must be a number from 0 to 1"),
        ({"switch_prob": -0.1}, "switch_prob: must be a number from 0 to 1"),
        ({"off_epoch": 0}, "off_epoch: must be a whole number of at least 1"),
    ],
)
def test_wrong_options_are_errors(section, message):
    with pytest.raises(ConfigError, match="^Mixup") as raised:
        build_mixup(section, CLASSES)
    assert message in str(raised.value)
