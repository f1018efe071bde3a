"""The order of samples over epochs and ranks, also with balanced classes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from passl.data.balance import balanced_order, samples_per_class
from passl.data.build import build_dataset
from passl.data.datasets.base import ImageDataset
from passl.data.loader import build_loader
from passl.data.samplers import BatchSampler
from passl.errors import ConfigError


class Samples(ImageDataset):
    """So many samples without images, with an order of their own if one is given."""

    load_image = name = None

    def __init__(self, length: int, labels=None, shuffled=None):
        self.labels = np.zeros(length, np.int64) if labels is None else labels
        self.shuffled = shuffled or super().shuffled


# -------------------------------------------------------------------------------------------------
# Samplers
# -------------------------------------------------------------------------------------------------
def batches_of(sampler: BatchSampler, epoch: int = 0, start: int = 0) -> list[list[tuple]]:
    sampler.set_epoch(epoch, start)
    return list(sampler)


def indices(batches) -> list[int]:
    return [index for batch in batches for _, _, index in batch]


def over_ranks(length: int, world: int, epoch: int = 0, **options) -> list[list[list[tuple]]]:
    """The batches of each rank."""
    return [
        batches_of(BatchSampler(Samples(length), 7, rank, world, **options), epoch)
        for rank in range(world)
    ]


@pytest.mark.parametrize(("length", "sizes"), [(10, [4, 4, 2]), (8, [4, 4]), (3, [3]), (1, [1])])
def test_evaluation_reads_samples_in_order(length, sizes):
    sampler = BatchSampler(Samples(length), 0, batch_size=4)
    batches = batches_of(sampler)
    assert [len(batch) for batch in batches] == sizes
    assert len(sampler) == len(sizes)
    assert indices(batches) == list(range(length))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [1, 3, 10, 24, 25])
def test_evaluation_reads_each_sample_once_over_all_ranks(world, length):
    ranks = over_ranks(length, world, batch_size=3)
    assert sorted(indices(batch for batches in ranks for batch in batches)) == list(range(length))
    for rank, batches in enumerate(ranks):
        assert len(batches) == len(BatchSampler(Samples(length), 7, rank, world, batch_size=3))


@pytest.mark.parametrize("shuffle", [True, False])
def test_drop_last_drops_incomplete_batches(shuffle):
    sampler = BatchSampler(Samples(11), 0, batch_size=4, shuffle=shuffle, drop_last=True)
    batches = batches_of(sampler)
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(sampler) == 2
    assert len(set(indices(batches))) == 8


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_training_reads_each_sample_once_in_random_order(epoch):
    order = indices(batches_of(BatchSampler(Samples(100), 0, batch_size=8, shuffle=True), epoch))
    assert sorted(order) == list(range(100))
    assert order != list(range(100))


def test_order_depends_on_seed_and_epoch():
    def order(seed, epoch):
        return tuple(
            indices(batches_of(BatchSampler(Samples(100), seed, batch_size=8, shuffle=True), epoch))
        )

    assert len({order(seed, epoch) for seed in range(4) for epoch in range(4)}) == 16
    assert order(2, 3) == order(2, 3)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize(("length", "size"), [(25, 5), (37, 5), (48, 5), (30, 2), (31, 3)])
def test_training_batches_are_equal_on_all_ranks(length, size, world, drop_last):
    ranks = over_ranks(length, world, batch_size=size, shuffle=True, drop_last=drop_last)
    sizes = [[len(batch) for batch in batches] for batches in ranks]
    assert sizes == [sizes[0]] * world
    times = Counter(indices(batch for batches in ranks for batch in batches))
    if drop_last:
        assert set(times.values()) == {1}
        assert len(times) == length // (size * world) * size * world
    else:
        assert set(times) == set(range(length))
        assert sum(times.values()) - length == -length % world
        assert max(times.values()) <= 2


def test_training_with_more_ranks_than_samples():
    ranks = over_ranks(2, 5, batch_size=1, shuffle=True)
    assert [len(indices(batches)) for batches in ranks] == [1] * 5
    assert set(indices(batch for batches in ranks for batch in batches)) == {0, 1}


@pytest.mark.parametrize("options", [{"shuffle": True, "drop_last": True}, {"shuffle": True}, {}])
def test_ranks_share_one_order(options):
    """The n-th batches of all ranks are the n-th batch of one rank with a larger batch size."""
    whole = batches_of(BatchSampler(Samples(48), 7, batch_size=12, **options), 3)
    for world in (2, 3, 4):
        ranks = over_ranks(48, world, 3, batch_size=12 // world, **options)
        joined = [
            sorted(key for batch in step for key in batch) for step in zip(*ranks, strict=True)
        ]
        assert joined == whole


def test_key_has_epoch_position_and_index():
    keys = [
        key for batch in batches_of(BatchSampler(Samples(9), 0, batch_size=4), 5) for key in batch
    ]
    assert keys == [(5, position, position) for position in range(9)]
    assert all(type(part) is int for key in keys for part in key)
    ranks = over_ranks(7, 3, batch_size=1, shuffle=True)
    positions = [position for batches in ranks for batch in batches for _, position, _ in batch]
    assert sorted(positions) == list(range(9))  # also those that are dealt twice


@pytest.mark.parametrize("start", range(5))
@pytest.mark.parametrize("rank", [0, 1])
def test_start_skips_batches(start, rank):
    sampler = BatchSampler(Samples(21), 7, rank, 2, batch_size=3, shuffle=True)
    whole = batches_of(sampler, 2)
    assert len(whole) == 4
    assert batches_of(sampler, 2, start) == whole[start:]
    assert len(sampler) == 4
    assert batches_of(sampler, 2) == whole


def test_iterating_twice_gives_the_same_keys():
    sampler = BatchSampler(Samples(10), 0, batch_size=3, shuffle=True)
    assert list(sampler) == list(sampler) != []


def test_set_epoch_does_not_change_a_running_iterator():
    sampler = BatchSampler(Samples(9), 0, batch_size=3, shuffle=True)
    whole = batches_of(sampler, 0)
    sampler.set_epoch(0)
    begun = iter(sampler)
    first = next(begun)
    sampler.set_epoch(1)
    assert [first, *begun] == whole


@pytest.mark.parametrize(("length", "world", "fits"), [(10, 1, 10), (10, 3, 3), (7, 2, 3)])
def test_batch_larger_than_dataset_is_an_error_with_drop_last(length, world, fits):
    samples = Samples(length)
    with pytest.raises(ValueError, match=rf"11 on {world} .* {length} samples.*batch_size {fits} "):
        BatchSampler(samples, 0, 0, world, batch_size=11, shuffle=True, drop_last=True)
    advised = BatchSampler(
        Samples(length), 0, 0, world, batch_size=fits, shuffle=True, drop_last=True
    )
    assert len(advised) >= 1
    assert len(BatchSampler(samples, 0, 0, world, batch_size=11, shuffle=True)) == 1


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_must_be_positive(batch_size):
    with pytest.raises(ValueError, match="batch_size: must be a whole number of at least 1"):
        BatchSampler(Samples(10), 0, batch_size=batch_size)


@pytest.mark.parametrize("shuffle", [True, False])
def test_empty_dataset_is_an_error(shuffle):
    with pytest.raises(ValueError, match="0 samples"):
        BatchSampler(Samples(0), 0, batch_size=1, shuffle=shuffle)


def deit_order(length: int, repeats: int, rank: int, world: int, order: list[int]) -> list[int]:
    """Repeated augmentation as its authors and DeiT deal it out: each index `repeats` times in a
    row, every world-th of them to a rank, and of these as many as a rank has without repeats.
    """
    repeated = [index for index in order for _ in range(repeats)]
    repeated += repeated[: -len(repeated) % world]
    return repeated[rank::world][: length // world]


@pytest.mark.parametrize("repeats", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_repeated_augmentation_equals_deit(world, repeats):
    def order(rng):
        return np.roll(np.arange(24), 5)

    for rank in range(world):
        sampler = BatchSampler(
            Samples(24, shuffled=order),
            7,
            rank,
            world,
            True,
            batch_size=3,
            shuffle=True,
            repeats=repeats,
        )
        assert indices(batches_of(sampler)) == deit_order(
            24, repeats, rank, world, order(None).tolist()
        )
        assert len(sampler) == -(-24 // world // 3)


def test_repeats_of_a_sample_have_different_positions():
    keys = [
        key
        for rank in range(2)
        for batch in batches_of(
            BatchSampler(Samples(8), 7, rank, 2, batch_size=2, shuffle=True, repeats=2)
        )
        for key in batch
    ]
    assert sorted(Counter(index for _, _, index in keys).values()) == [2] * 4
    assert len({position for _, position, _ in keys}) == len(keys) == 8


@pytest.mark.parametrize(
    ("options", "rule"),
    [({"repeats": 0}, "repeats: must be"), ({"repeats": 3}, "repeats 3 needs shuffle")],
)
def test_wrong_repeats_are_an_error(options, rule):
    with pytest.raises(ValueError, match=rule):
        BatchSampler(Samples(10), 0, batch_size=2, **options)


@pytest.mark.parametrize("samples", [3, 10, 25])
def test_epoch_of_another_length_goes_on_through_the_dataset(samples):
    """Each pass has every sample once, in an order of its own; the last pass may be cut short."""

    def epoch(number: int, start: int = 0, **options) -> list[list[tuple]]:
        sampler = BatchSampler(
            Samples(10), 7, batch_size=5, shuffle=True, samples=samples, **options
        )
        return batches_of(sampler, number, start)

    order = indices(epoch(0))
    assert len(order) == samples
    passes = [order[start : start + 10] for start in range(0, samples, 10)]
    assert all(len(set(one)) == len(one) for one in passes)
    assert len({tuple(one) for one in passes}) == len(passes)
    assert order != indices(epoch(1))
    assert epoch(0, 1) == epoch(0)[1:]
    if samples < 10:
        assert set(indices(epoch(0))) != set(indices(epoch(1)))


@pytest.mark.parametrize("options", [{"drop_last": True}, {"repeats": 2}, {"balanced": True}, {}])
def test_ranks_share_an_epoch_of_another_length(options):
    given = {"shuffle": True, "samples": 24, **options}
    whole = batches_of(BatchSampler(Samples(10), 7, batch_size=6, **given))
    ranks = over_ranks(10, 2, batch_size=3, **given)
    joined = [sorted(key for batch in step for key in batch) for step in zip(*ranks, strict=True)]
    assert joined == whole
    assert len(indices(whole)) == 24


def test_epoch_of_another_length_needs_shuffle():
    with pytest.raises(ValueError, match=r"sampler\.samples 20 .* shuffle: true"):
        BatchSampler(Samples(10), 0, batch_size=2, samples=20)


def test_dataset_defines_its_own_order():
    def order(rng):
        return np.roll(np.arange(10), int(rng.integers(10)))

    sampler = BatchSampler(Samples(10, shuffled=order), 7, batch_size=4, shuffle=True)
    orders = [indices(batches_of(sampler, epoch)) for epoch in range(4)]
    for epoch, got in enumerate(orders):
        assert got == order(np.random.default_rng((7, epoch))).tolist()
    assert len(set(map(tuple, orders))) > 1
    assert indices(batches_of(BatchSampler(Samples(10, shuffled=order), 7, batch_size=4))) == list(
        range(10)
    )


# -------------------------------------------------------------------------------------------------
# Balanced classes
# -------------------------------------------------------------------------------------------------
SIZES = (3, 40, 157, 1000)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), SIZES))
LENGTH = len(LABELS)  # 1,200


def sampler(rank: int = 0, world: int = 1, seed: int = 7, **options) -> BatchSampler:
    given = {"batch_size": 16, "shuffle": True, "balanced": True, **options}
    return BatchSampler(Samples(LENGTH, LABELS), seed, rank, world, True, **given)


def keys(one: BatchSampler, epoch: int = 0, start: int = 0) -> list[tuple[int, int, int]]:
    one.set_epoch(epoch, start)
    return [key for batch in one for key in batch]


def test_classes_are_drawn_equally_often():
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
def test_classes_differ_by_at_most_one_draw(count, classes):
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


def test_each_place_has_each_class_equally_often():
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


def test_balanced_order_follows_the_order_of_the_dataset():
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
def test_ranks_share_one_balanced_order(repeats, options):
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


def test_balanced_with_repeated_augmentation():
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


def test_loader_with_balanced_classes(folder):
    node = {**folder, "transforms": [{"name": "Normalize"}]}
    section = {"dataset": node, "sampler": {"batch_size": 4, "shuffle": True, "balanced": True}}
    labels = [b.labels.numpy() for b in build_loader(section, seed=0, even=True).epoch(0)]
    assert np.bincount(np.concatenate(labels)).tolist() == [4, 4]


def test_balanced_with_empty_class_is_an_error(folder, tmp_path):
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
