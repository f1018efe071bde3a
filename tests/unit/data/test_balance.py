"""Orders in which every class is drawn equally often, over any number of ranks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from passl.data.balance import balanced_order, samples_per_class
from passl.data.build import build_dataset
from passl.data.loader import build_loader
from passl.data.samplers import BatchSampler
from passl.errors import ConfigError

SIZES = (3, 40, 157, 1000)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), SIZES))
LENGTH = len(LABELS)  # 1,200


def sampler(rank: int = 0, world: int = 1, seed: int = 7, **options) -> BatchSampler:
    given = {"batch_size": 16, "shuffle": True, "balanced": True, **options}
    return BatchSampler(LENGTH, seed, rank, world, True, None, LABELS, **given)


def keys(one: BatchSampler, epoch: int = 0, start: int = 0) -> list[tuple[int, int, int]]:
    one.set_epoch(epoch, start)
    return [key for batch in one for key in batch]


def test_every_class_is_drawn_equally_often():
    """Small classes each sample equally often but for one, large ones another part each epoch."""
    epochs = [[index for _, _, index in keys(sampler(), epoch)] for epoch in range(3)]
    for drawn in epochs:
        assert len(drawn) == LENGTH
        assert Counter(LABELS[drawn]) == {label: 300 for label in range(4)}
        for label, size in enumerate(SIZES):
            copies = [drawn.count(index) for index in np.flatnonzero(label == LABELS)]
            assert {300 // size, -(-300 // size)} >= set(copies)
    large = [{index for index in drawn if LABELS[index] == 3} for drawn in epochs]
    assert len(set.union(*large)) > 600


@pytest.mark.parametrize(("count", "classes"), [(1201, 4), (2, 4), (5, 4), (1, 1), (9, 2)])
def test_any_number_of_draws(count, classes):
    """The classes that get one more are drawn too."""
    labels = np.arange(20) % classes
    more = Counter()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        drawn = balanced_order(rng.permutation(20), labels, count, rng)
        assert len(drawn) == count
        found = np.bincount(labels[drawn], minlength=classes)
        assert found.max() - found.min() <= 1
        more.update(np.flatnonzero(found > count // classes).tolist())
    if count % classes:
        assert set(more) == set(range(classes))


def test_every_place_is_of_every_class_equally_often():
    """Chi-squared over 2,000 seeds at some places: three degrees of freedom, p = 1e-4."""
    labels = np.repeat(np.arange(4), (1, 5, 20, 74))
    places = (0, 1, 49, 50, 98, 99)
    found = np.zeros((len(places), 4))
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        drawn = balanced_order(rng.permutation(100), labels, 100, rng)
        found[np.arange(len(places)), labels[drawn[list(places)]]] += 1
    assert (((found - 500) ** 2 / 500).sum(-1) < 21.1).all(), found


def test_classes_and_copies_are_spread_over_the_epoch():
    drawn = np.array([index for _, _, index in keys(sampler())])
    for part in np.split(LABELS[drawn], 10):
        assert np.bincount(part, minlength=4).min() > 15  # of 30
    for index in np.flatnonzero(LABELS == 0):  # a hundred copies each
        gaps = np.diff(np.flatnonzero(drawn == index))
        assert gaps.min() >= 3


def test_reading_follows_the_order_of_the_data_set():
    """Samples that are drawn once come in its order, from some place on round to there again:
    shards are read as ever.
    """
    order = np.roll(np.arange(1200), 411)
    labels = np.arange(1200) % 3
    drawn = balanced_order(order, labels, 600, np.random.default_rng(0))
    place = np.empty(1200, int)
    place[order] = np.arange(1200)
    assert (np.diff(place[drawn]) < 0).sum() <= 1


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("options", [{"drop_last": True}, {}])
def test_ranks_share_one_order(repeats, options):
    """What is drawn depends on (seed, epoch, position) alone, and goes on from any batch."""
    whole = {position: index for _, position, index in keys(sampler(repeats=repeats))}
    for world in (2, 3):
        parts = [sampler(rank, world, repeats=repeats, **options) for rank in range(world)]
        assert len({len(part) for part in parts}) == 1
        for part in parts:
            found = keys(part)
            assert all(whole[position] == index for _, position, index in found)
            assert keys(part, start=3) == found[3 * 16 :]
    assert keys(sampler(seed=8)) != keys(sampler()) != keys(sampler(), epoch=1)


def test_repeated_augmentation_of_balanced_classes():
    drawn = [index for _, _, index in keys(sampler(repeats=3))]
    assert drawn[::3] == drawn[1::3] == drawn[2::3]
    assert Counter(LABELS[drawn]) == {label: 300 for label in range(4)}


def test_balanced_needs_shuffle():
    with pytest.raises(ValueError, match=r"sampler\.balanced .* shuffle: true"):
        sampler(shuffle=False)


@pytest.fixture
def folder(tmp_path):
    """Two images of cats, six of dogs; and a list of classes that has horses too."""
    for name, count in (("cat", 2), ("dog", 6)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / f"{number}.png")
    (tmp_path / "classes.txt").write_text("cat\nhorse\ndog\n")
    return {"name": "ImageFolder", "dataroot": str(tmp_path / "data")}


def test_a_loader_of_balanced_classes(folder):
    node = {**folder, "transforms": [{"name": "Normalize"}]}
    section = {"dataset": node, "sampler": {"batch_size": 4, "shuffle": True, "balanced": True}}
    labels = [b.labels.numpy() for b in build_loader(section, seed=0, even=True).epoch(0)]
    assert np.bincount(np.concatenate(labels)).tolist() == [4, 4]


def test_a_class_without_samples_is_named(folder, tmp_path):
    node = {**folder, "class_file": str(tmp_path / "classes.txt")}
    with pytest.raises(ConfigError, match="no sample of horse"):
        samples_per_class(build_dataset(node))
    section = {
        "dataset": {**node, "transforms": []},
        "sampler": {"batch_size": 4, "shuffle": True, "balanced": True},
    }
    with pytest.raises(ConfigError, match="labels: present"):
        build_loader(section, seed=0)
    # The way out that the message names.
    assert samples_per_class(build_dataset({**node, "labels": "present"})).tolist() == [2, 0, 6]
