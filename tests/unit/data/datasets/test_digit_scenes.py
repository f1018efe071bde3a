"""DigitScenes: images and masks belong together, and are the same in every process."""

from __future__ import annotations

import numpy as np

from passl.data.build import build_dataset


def scenes(split: str = "train", count: int = 60):
    return build_dataset({"name": "DigitScenes", "split": split, "count": count})


def test_masks():
    data = scenes()
    image, mask = data[3]
    assert image.size == (48, 48)
    assert mask.shape == (48, 48)
    assert len(data.classes) == 11
    labels = np.bincount(np.concatenate([data.label(i).ravel() for i in range(60)]), minlength=11)
    assert (labels > 0).all()
    assert 0.7 < labels[0] / labels.sum() < 0.95  # the background


def test_digits_stand_out():
    """The colour of a digit differs from that around it, in most images."""
    data, distances = scenes(), []
    for index in range(20):
        image, mask = data[index]
        pixels = np.asarray(image, float)
        inside, outside = pixels[mask > 0].mean(0), pixels[mask == 0].mean(0)
        distances.append(np.abs(inside - outside).max())
    assert np.median(distances) > 20


def test_an_image_depends_on_its_index_alone():
    one, other = scenes(), scenes(count=10)
    for index in (7, 2):
        assert one.load_image(index).tobytes() == other.load_image(index).tobytes()
        np.testing.assert_array_equal(one.label(index), other.label(index))
    assert scenes("val").load_image(7).tobytes() != one.load_image(7).tobytes()
