"""The options that every dataset has: a fraction of it, and some of its classes only."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from passl.data import DATASETS
from passl.data.build import DATASET_OPTIONS, build_dataset, dataset_arguments
from passl.data.datasets.base import ImageDataset
from passl.data.datasets.subset import Subset, chosen_labels
from passl.errors import ConfigError


class Numbers(ImageDataset):
    """Samples whose image is their index, in classes of 1, 4, 50 and 200."""

    def __init__(self):
        self.classes = ["one", "four", "fifty", "many", "none"]
        self.labels = np.random.default_rng(0).permutation(np.repeat(range(4), [1, 4, 50, 200]))

    def load_image(self, index):
        return Image.new("RGB", (1, 1), (index, 0, 0))

    def name(self, index):
        return f"number {index}"

    def shuffled(self, rng):
        """Its own order, which is a rotation and not any."""
        return np.roll(np.arange(len(self)), int(rng.integers(len(self))))


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


def names(dataset) -> list[str]:
    return [dataset.name(index) for index in range(len(dataset))]


@pytest.mark.parametrize(
    ("fraction", "counts"),
    [
        (0.1, [1, 1, 5, 20]),  # at least one of each
        (0.05, [1, 1, 2, 10]),  # 2.5 rounds to even
        (0.5, [1, 2, 25, 100]),
        (1e-9, [1, 1, 1, 1]),
        (1.0, [1, 4, 50, 200]),
        (1, [1, 4, 50, 200]),
    ],
)
def test_fraction_of_each_class(numbers, fraction, counts):
    part = Subset(numbers, fraction=fraction)
    assert np.bincount(part.labels).tolist() == counts
    assert part.valid_labels is None
    assert part.classes == numbers.classes


def test_subset_samples_are_those_of_the_dataset(numbers):
    part = Subset(numbers, fraction=0.3)
    assert len(part) == len(set(names(part))) > 0
    for index in range(len(part)):
        whole = int(part.name(index).removeprefix("number "))
        image, label = part[index]
        assert image.getpixel((0, 0)) == (whole, 0, 0)
        assert label == part.labels[index] == numbers.labels[whole]
    assert np.all(np.diff(part.indices) > 0)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_smaller_fraction_is_a_subset_of_a_larger_one(numbers, seed):
    parts = [
        set(names(Subset(numbers, fraction=fraction, fraction_seed=seed)))
        for fraction in (0.01, 0.05, 0.1, 0.3, 0.31, 0.9, 1.0)
    ]
    for smaller, larger in zip(parts, parts[1:], strict=False):
        assert smaller <= larger
    assert len(parts[0]) < len(parts[-1])


def test_subset_depends_on_fraction_seed_only(numbers):
    first = names(Subset(numbers, fraction=0.2))
    np.random.seed(5)
    assert names(Subset(numbers, fraction=0.2)) == first
    assert names(Subset(numbers, fraction=0.2, fraction_seed=1)) != first


def test_subset_of_a_class_does_not_depend_on_other_classes(numbers):
    whole = Subset(numbers, fraction=0.2)
    alone = Subset(numbers, fraction=0.2, labels=["fifty"])
    assert names(alone) == [
        n for n, label in zip(names(whole), whole.labels, strict=True) if label == 2
    ]


def test_classes_are_drawn_independently(numbers):
    """Not the same places of each class, where classes are of one size and take turns."""
    numbers.labels = np.tile([0, 1, 2, 3], 50)
    part = Subset(numbers, fraction=0.5)
    places = [set((part.indices[part.labels == label] // 4).tolist()) for label in range(4)]
    for left in range(4):
        for right in range(left):
            assert 5 < len(places[left] & places[right]) < 20  # 12.5 is the mean


@pytest.mark.parametrize(
    ("labels", "valid"),
    [
        (["four", "one"], [0, 1]),
        ([3], [3]),
        ([2, "one", 0, "fifty"], [0, 2]),
        ([0, 4], [0, 4]),  # a class without samples still competes
        (("many",), [3]),
    ],
)
def test_labels_select_classes(numbers, labels, valid):
    part = Subset(numbers, labels=labels)
    assert part.valid_labels == valid
    assert names(part) == [
        f"number {index}" for index, label in enumerate(numbers.labels) if label in valid
    ]
    assert set(part.labels.tolist()) <= set(valid)  # as they were
    assert part.classes == numbers.classes


def test_labels_present(numbers):
    part = Subset(numbers, labels="present")
    assert part.valid_labels == [0, 1, 2, 3]
    assert names(part) == names(numbers)


@pytest.mark.parametrize("text", ["four\none\n", "1\n0", "one\r\n1\r\n\r\n"])
def test_labels_from_a_file(numbers, tmp_path, text):
    file = tmp_path / "classes.txt"
    file.write_bytes(text.encode())
    assert Subset(numbers, labels=str(file)).valid_labels == [0, 1]


def test_name_takes_precedence_over_number():
    classes = ["2", "1", "0"]
    assert chosen_labels(None, classes) is chosen_labels("present", classes) is None
    assert chosen_labels(["2"], classes) == [0]
    assert chosen_labels([2], classes) == [2]


def test_subset_keeps_the_order_of_the_dataset(numbers):
    part = Subset(numbers, labels=["fifty", "four"])
    order = numbers.shuffled(np.random.default_rng(3))
    expected = [f"number {index}" for index in order if numbers.labels[index] in (1, 2)]
    got = part.shuffled(np.random.default_rng(3))
    assert [part.name(index) for index in got] == expected
    assert sorted(got.tolist()) == list(range(len(part)))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"fraction": 0}, "fraction: must be a number above 0"),
        ({"fraction": 1.5}, "fraction: must be a number above 0 and at most 1"),
        ({"fraction": float("nan")}, "fraction: must be a number above 0"),
        ({"fraction": 0.5, "fraction_seed": -1}, "fraction_seed: must be a whole number"),
        ({"labels": ["for"]}, "'for' is not a class of the data; did you mean 'four'?"),
        ({"labels": [5]}, "5 is not the number of a class; there are 5, counted from 0"),
        ({"labels": ["-1"]}, "'-1' is not a class"),
        ({"labels": []}, "names no class"),
        ({"labels": ["none"]}, "no sample of these classes"),
        ({"labels": "gone.txt"}, r"gone\.txt: cannot be read"),
    ],
    ids=str,
)
def test_wrong_options_are_errors(numbers, options, rule):
    with pytest.raises(ValueError, match=rule) as caught:
        Subset(numbers, **options)
    assert len(str(caught.value).splitlines()) == 1


# -------------------------------------------------------------------------------------------------
# In a node
# -------------------------------------------------------------------------------------------------
def test_dataset_options_do_not_clash_with_options_of_datasets():
    assert {name: option.default for name, option in DATASET_OPTIONS.items()} == {
        "fraction": 1.0,
        "fraction_seed": 0,
        "labels": None,
        "mode": "RGB",
        "background": None,
    }
    for name in DATASETS.names():
        assert not set(DATASETS.options(name)) & {*DATASET_OPTIONS, "transforms", "name"}, name


def test_dataset_arguments_of_a_node():
    node = {"name": "Digits", "split": "val", "transforms": [], "fraction": 0.5, "labels": [1]}
    assert dataset_arguments(node) == {"split": "val"}
    assert node["fraction"] == 0.5


def test_build_dataset_with_options():
    node = {"name": "Digits", "split": "val", "fraction": 0.1, "labels": [3, "7"], "transforms": []}
    dataset = build_dataset(node)
    whole = build_dataset({"name": "Digits", "split": "val"})
    counts = np.bincount(whole.labels)
    assert np.bincount(dataset.labels, minlength=10).tolist() == [
        round(0.1 * count) if label in (3, 7) else 0 for label, count in enumerate(counts)
    ]
    assert dataset.valid_labels == [3, 7]


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        ({"fraction": "half"}, "fraction: must be a number"),
        ({"fraction": 2}, "fraction: must be a number above"),
        ({"labels": 3}, "labels: must be text, or"),
        ({"labels": [True]}, "labels: must be text, or"),
        ({"labels": ["ten"]}, "'ten' is not a class"),
        ({"fractions": 0.5}, "'fractions' is not an option of Digits"),
    ],
    ids=str,
)
def test_build_dataset_with_wrong_options_is_an_error(option, rule):
    with pytest.raises(ConfigError, match=rule):
        build_dataset({"name": "Digits", "split": "val", **option})
