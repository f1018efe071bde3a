"""Loaders return the same batches with any number of workers."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from passl.data import TRANSFORMS
from passl.data import workers as workers_module
from passl.data.build import build_dataset, build_transforms
from passl.data.datasets.digits import Digits
from passl.data.loader import build_loader
from passl.data.samples import Report, Sample, Samples, collate, decode_report
from passl.errors import ConfigError, RunError
from passl.logging import get_logger


# -------------------------------------------------------------------------------------------------
# Samples
# -------------------------------------------------------------------------------------------------
@pytest.fixture
def transform(monkeypatch):
    """Register a transform for one test."""
    TRANSFORMS.names()  # imports the transforms of passl, which stay registered
    monkeypatch.setattr(TRANSFORMS, "_registered", dict(TRANSFORMS._registered))
    return TRANSFORMS.register


def draws_globally():
    """A user's transform that does not use the generator it is given."""

    class DrawsGlobally:
        def __call__(self, image, rng):
            grey = random.randrange(256), int(np.random.randint(256)), int(rng.integers(256))
            return Image.new("RGB", image.size, grey)

    return DrawsGlobally


CROP = {"name": "RandomResizedCrop", "size": 16}
NORMALIZE = {"name": "Normalize"}


def section(workers: int = 0, transforms=(CROP, NORMALIZE), sampler=None, **loader) -> dict:
    """A `dataloader.train` section over the 360 digits of the validation split: 8 batches."""
    return {
        "dataset": {"name": "Digits", "split": "val", "transforms": list(transforms)},
        "sampler": {"batch_size": 50, "shuffle": True} | (sampler or {}),
        "loader": {"num_workers": workers, **loader},
    }


@pytest.mark.parametrize("name", ["RandomResizedCrop", "DrawsGlobally"])
def test_random_numbers_depend_on_the_key_only(transform, name):
    transform(draws_globally())
    node = CROP if name == "RandomResizedCrop" else {"name": name}
    transforms = build_transforms([node, NORMALIZE])

    def read(seed, epoch, position, index=3):
        dataset = Samples(Digits(split="val"), transforms, seed)
        return dataset[(epoch, position, index)].image.tobytes()

    keys = [
        (seed, epoch, position) for seed in range(2) for epoch in range(2) for position in (0, 9)
    ]
    first = [read(*key) for key in keys]
    random.seed(5)
    np.random.seed(5)
    assert [read(*key) for key in keys] == first
    assert len(set(first)) == len(keys)


def test_global_generators_differ_between_samples(transform):
    transform(draws_globally())
    transforms = build_transforms([{"name": "DrawsGlobally"}, NORMALIZE])
    dataset = Samples(Digits(split="val"), transforms, 0)
    colours = np.array([dataset[(0, position, 0)].image[:, 0, 0] for position in range(60)])
    for channel in range(3):
        assert len(set(colours[:, channel].tolist())) > 40  # 60 of 256 greys meet a few times
    assert np.abs(np.corrcoef(colours.T) - np.eye(3)).max() < 0.5


# -------------------------------------------------------------------------------------------------
# Loaders
# -------------------------------------------------------------------------------------------------
def read_all(batches) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Images, labels and indices of each batch."""
    return [tuple(map(np.asarray, batch)) for batch in batches]


def assert_equal(left, right):
    assert len(left) == len(right) > 0
    for ours, theirs in zip(left, right, strict=True):
        for part, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_stacked_samples(workers):
    loader = build_loader(section(workers), 7)
    loader.sampler.set_epoch(1)
    keys = list(loader.sampler)
    batches = read_all(loader.epoch(1))
    assert len(loader) == len(batches) == 8
    assert loader.classes == list("0123456789")
    for (images, labels, indices), batch in zip(batches, keys, strict=True):
        assert (images.dtype, labels.dtype, indices.dtype) == (np.float32, np.int64, np.int64)
        assert (images.shape, labels.shape) == ((len(batch), 3, 16, 16), (len(batch),))
        np.testing.assert_array_equal(images, [loader.samples[key].image for key in batch])
        np.testing.assert_array_equal(indices, [index for _, _, index in batch])
        np.testing.assert_array_equal(labels, loader.dataset.labels[indices])


def test_samples_are_copied_before_the_next_is_read():
    """So a batch needs the memory of one; here all share an array. Two are left out."""
    image = np.empty((3, 2, 5), np.float32)

    def samples():
        for index in range(6):
            image[:] = index
            left_out = index in (0, 3)
            bad = ((index, f"no {index}"),) if left_out else ()
            yield Sample(None if left_out else image, 10 + index, index, bad)

    images, labels, indices, report = collate(samples(), 6)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, np.multiply.outer([1, 2, 4, 5], np.ones((3, 2, 5))))
    assert labels.tolist() == [11, 12, 14, 15]
    assert indices.tolist() == [1, 2, 4, 5]
    assert decode_report(report) == Report(None, False, [[0, "no 0"], [3, "no 3"]])


@pytest.mark.parametrize("error", [RunError("no image"), RuntimeError("a bug")])
def test_reading_stops_at_an_error(error):
    samples = iter([Sample(np.zeros((3, 2, 2), np.float32), 0, 0), error, None])
    _, report = collate(samples, 3)
    assert decode_report(report) == Report(str(error), isinstance(error, RunError), [])
    assert list(samples) == [None]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_float32_after_a_float64_transform(transform, workers):
    class Halved:
        on_arrays = True

        def __call__(self, array, rng):
            return array.astype(np.float64) / 2

    transform(Halved)
    pair = [section(workers, [CROP, NORMALIZE, *more]) for more in ([], [{"name": "Halved"}])]
    whole, halved = (next(build_loader(node, 7).epoch(0)).images.numpy() for node in pair)
    assert halved.dtype == np.float32
    np.testing.assert_array_equal(2 * halved, whole)


@pytest.mark.parametrize(
    "options",
    [{"use_shared_memory": True}, {"use_shared_memory": False}, {"prefetch_factor": 4}],
    ids=str,
)
def test_batches_do_not_depend_on_workers(transform, options):
    transform(draws_globally())
    transforms = [{"name": "DrawsGlobally"}, CROP, NORMALIZE]
    alone = build_loader(section(0, transforms), 7)
    helped = build_loader(section(2, transforms, **options), 7)
    for epoch in (0, 1):
        assert_equal(read_all(alone.epoch(epoch)), read_all(helped.epoch(epoch)))


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_are_reproducible_and_differ(workers):
    loader = build_loader(section(workers, sampler={"shuffle": False}), 7)
    first, second, again = (read_all(loader.epoch(epoch)) for epoch in (0, 1, 0))
    assert_equal(first, again)
    for (images, labels, _), (other_images, other_labels, _) in zip(first, second, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        different = (images != other_images).any(axis=(1, 2, 3))
        assert different.all()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 3, 7])
def test_epoch_resumes_in_the_middle(workers, start):
    loader = build_loader(section(workers), 7)
    whole = read_all(loader.epoch(2))
    fresh = build_loader(section(workers), 7)
    assert_equal(read_all(fresh.epoch(2, start)), whole[start:])
    assert len(fresh) == 8
    assert_equal(read_all(loader.epoch(2)), whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_unfinished_epoch_does_not_change_the_next(workers):
    loader = build_loader(section(workers), 7)
    expected = read_all(build_loader(section(0), 7).epoch(1))
    left = loader.epoch(0)
    next(left)
    left.close()
    assert_equal(read_all(loader.epoch(1)), expected)


def test_reading_does_not_change_the_global_generators():
    loader = build_loader(section(0), 7)
    states = random.getstate(), np.random.get_state()[1].tobytes()
    assert len(read_all(loader.epoch(0))) == 8
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == states


def test_crops_do_not_depend_on_the_world_size():
    def by_pixels(world):
        sampler = {"batch_size": 60 // world}
        loaders = [build_loader(section(sampler=sampler), 7, rank, world) for rank in range(world)]
        return sorted(
            (int(label), image.tobytes())
            for loader in loaders
            for images, labels, _ in read_all(loader.epoch(1))
            for image, label in zip(images, labels, strict=True)
        )

    assert by_pixels(2) == by_pixels(1)


def test_wrong_section_is_an_error():
    with pytest.raises(ConfigError, match=r"^dataloader: sampler\.batch_size 400 .* 360 samples"):
        build_loader(section(sampler={"batch_size": 400, "drop_last": True}), 0)
    with pytest.raises(ConfigError, match="there is no transform 'Centercrop'; .* 'CenterCrop'"):
        build_loader(section(transforms=[{"name": "Centercrop"}]), 0)
    unknown = section()
    unknown["dataset"]["name"] = "Digit"
    with pytest.raises(ConfigError, match="there is no dataset 'Digit'; did you mean 'Digits'?"):
        build_loader(unknown, 0)


def test_section_is_not_modified():
    node = section()
    build_loader(node, 0)
    assert node == section()
    assert len(build_dataset(node["dataset"])) == 360
    assert [type(made).__name__ for made in build_transforms(node["dataset"]["transforms"])] == [
        "RandomResizedCrop",
        "Normalize",
    ]


# -------------------------------------------------------------------------------------------------
# Samples that cannot be read
# -------------------------------------------------------------------------------------------------
@pytest.fixture
def holes(tmp_path, monkeypatch, caplog):
    """Make a loader over 24 files, some of them not images; the grey of an image is its index."""
    monkeypatch.setattr(get_logger(), "propagate", True)

    def make(bad, workers=0, rank=0, world=1, even=False, transforms=None, sampler=None, **loader):
        folder = tmp_path / "cat"
        folder.mkdir(exist_ok=True)
        for index in range(24):
            path = folder / f"{index:02d}.png"
            Image.new("RGB", (8, 8), (10 * index,) * 3).save(path)
            if index in bad:
                path.write_bytes(b"no image")
        section = {
            "dataset": {
                "name": "ImageFolder",
                "dataroot": str(tmp_path),
                "transforms": [
                    *(transforms or []),
                    {"name": "Normalize", "mean": [0] * 3, "std": [1] * 3},
                ],
            },
            "sampler": {"batch_size": 4, **(sampler or {})},
            "loader": {"num_workers": workers, **loader},
        }
        return build_loader(section, 7, rank, world, even)

    return make


def assert_right(batches):
    """Every image is the one that its index says."""
    for images, labels, indices in batches:
        assert len(images) == len(labels) == len(indices)
        np.testing.assert_array_equal((images[:, 0, 0, 0] * 255).round(), 10 * indices)


TRAINING = {"shuffle": True, "drop_last": True}


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_out_bad_samples(holes, caplog, workers):
    bad = {0, 5, 8, 9, 10, 11, 23}  # first, last, and a whole batch
    loader = holes(bad, workers, on_bad_sample="skip")
    for _ in range(2):
        batches = read_all(loader.epoch(0))
        assert_right(batches)
        assert [batch[2].tolist() for batch in batches] == [
            [1, 2, 3],
            [4, 6, 7],
            [12, 13, 14, 15],
            [16, 17, 18, 19],
            [20, 21, 22],
        ]
    assert set(loader.bad) == bad
    messages = warnings_of(caplog)
    assert len(messages) == len(bad)  # once each, though there were two epochs
    for index, message in zip(sorted(bad), messages, strict=True):
        assert re.match(rf"bad sample \d, left out: .*/{index:02d}\.png: cannot be read", message)


@pytest.mark.parametrize("even", [True, False])
def test_training_replaces_bad_samples(holes, caplog, even):
    bad = {0, 5, 8, 9, 10, 11, 23}
    options = {"sampler": TRAINING} if not even else {"even": True}
    whole = holes(set(), on_bad_sample="skip", **options)
    expected = [read_all(whole.epoch(epoch)) for epoch in range(3)]
    loader = holes(bad, on_bad_sample="skip", **options)
    replaced = set()
    for epoch in range(3):
        batches = read_all(loader.epoch(epoch))
        assert_right(batches)
        assert [len(batch[2]) for batch in batches] == [4] * 6
        for batch, other in zip(batches, expected[epoch], strict=True):
            for got, wanted in zip(batch[2].tolist(), other[2].tolist(), strict=True):
                assert (got == wanted) == (wanted not in bad)
                if wanted in bad:
                    replaced.add(got)
    assert not replaced & bad
    assert len(replaced) > 5  # not always the same one
    assert set(loader.bad) == bad
    assert len(warnings_of(caplog)) == len(bad)
    assert all("replaced by another" in message for message in warnings_of(caplog))


def test_replacement_depends_on_seed_and_position_only(holes):
    bad = {1, 2, 3, 5, 8, 13, 21}
    crop = [{"name": "RandomResizedCrop", "size": 8}]
    options = {"sampler": TRAINING, "transforms": crop, "on_bad_sample": "skip"}
    alone, helped = holes(bad, 0, **options), holes(bad, 2, **options)
    for epoch in (0, 1):
        assert_equal(read_all(alone.epoch(epoch)), read_all(helped.epoch(epoch)))
    assert_equal(read_all(alone.epoch(1, 3)), read_all(helped.epoch(1))[3:])
    # Two ranks see what one sees.
    one = [batch[2].tolist() for batch in read_all(alone.epoch(0))]
    two = [
        [batch[2].tolist() for batch in read_all(loader.epoch(0))]
        for loader in (holes(bad, 0, rank, 2, **options) for rank in range(2))
    ]
    assert sorted(sum(two[0] + two[1], [])) == sorted(sum(one, []))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampler", [{}, TRAINING])
def test_too_many_bad_samples_are_an_error(holes, caplog, workers, sampler):
    loader = holes({2, 3, 4, 15}, workers, sampler=sampler, on_bad_sample="skip", max_bad_samples=3)
    with pytest.raises(RunError, match=r"^more than 3 samples .*\.png: .*max_bad_samples$"):
        for epoch in range(20):
            read_all(loader.epoch(epoch))
    assert len(warnings_of(caplog)) == 3
    allowed = holes(
        {2, 3, 4, 15}, workers, sampler=sampler, on_bad_sample="skip", max_bad_samples=4
    )
    for epoch in range(2):
        assert_right(read_all(allowed.epoch(epoch)))


def test_dataset_without_a_good_sample(holes):
    for options in ({"sampler": TRAINING}, {}):
        loader = holes(set(range(24)), on_bad_sample="skip", **options)
        with_limit = holes(set(range(24)), on_bad_sample="skip", max_bad_samples=5, **options)
        with pytest.raises(RunError, match="more than 5 samples|cannot be read as an image"):
            read_all(with_limit.epoch(0))
        if options:
            with pytest.raises(RunError, match="cannot be read as an image"):
                read_all(loader.epoch(0))
        else:
            assert read_all(loader.epoch(0)) == []
            assert len(loader.bad) == 24


def test_bad_first_sample_does_not_disable_shared_memory(holes, monkeypatch):
    seen = []
    monkeypatch.setattr(
        workers_module, "DataLoader", lambda _, **options: seen.append(options["use_shared_memory"])
    )
    for bad in (set(), {0}, {0, 1, 2}):
        holes(bad, 2, on_bad_sample="skip")
    assert seen == [True] * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_sample_is_an_error_by_default(holes, workers):
    for options in ({}, {"on_bad_sample": "error"}):
        with pytest.raises(RunError, match=r"/05\.png: cannot be read as an image"):
            read_all(holes({5, 6}, workers, **options).epoch(0))


@pytest.mark.parametrize("error", [RunError, ZeroDivisionError])
def test_failing_transform_is_always_an_error(holes, transform, error):
    class Fails:
        def __call__(self, image, rng):
            raise error("a bug")

    transform(Fails)
    loader = holes(set(), transforms=[{"name": "Fails"}], on_bad_sample="skip")
    with pytest.raises(RuntimeError, match="a bug"):
        read_all(loader.epoch(0))
    assert loader.bad == {}


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"num_workers": -1}, "num_workers: must be a whole"),
        ({"prefetch_factor": 0}, "prefetch_factor: must be a whole"),
        ({"on_bad_sample": "ignore"}, "on_bad_sample: must be one of error, skip"),
        ({"on_bad_sample": "skip", "max_bad_samples": -1}, "max_bad_samples: must be a whole"),
    ],
)
def test_wrong_loader_options_are_errors(options, rule):
    with pytest.raises(ConfigError, match=rule):
        build_loader(section() | {"loader": options}, 0)


# -------------------------------------------------------------------------------------------------
# Shared memory
# -------------------------------------------------------------------------------------------------
WAITING = 2 * 2 * 50 * (3 * 16 * 16 * 4)
"""Bytes of the batches that two workers read ahead."""


@pytest.fixture
def shared_memory(tmp_path, monkeypatch):
    """Whether a loader hands paddle shared memory, with that many bytes free."""
    seen = []

    def record(dataset, **options):
        seen.append(options["use_shared_memory"])
        return []

    def decide(free: int | None, **loader) -> bool:
        folder = tmp_path if free is not None else tmp_path / "gone"
        monkeypatch.setattr("passl.io.shared_memory.SHARED_MEMORY", folder)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        build_loader(section(2, **loader), 0)
        return seen[-1]

    monkeypatch.setattr(workers_module, "DataLoader", record)
    monkeypatch.setattr(get_logger(), "propagate", True)
    return decide


def test_shared_memory_is_used_if_it_is_large_enough(shared_memory, caplog):
    assert shared_memory(1 << 30) is True
    assert caplog.records == []


@pytest.mark.parametrize("free", [0, WAITING - 1, None])
def test_small_or_missing_shared_memory_is_not_used(shared_memory, caplog, free):
    assert shared_memory(free) is False
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "batches go through pipes instead" in record.getMessage()


def test_shared_memory_must_hold_waiting_and_new_batches(shared_memory):
    assert shared_memory(3 * WAITING) is True
    assert shared_memory(3 * WAITING, prefetch_factor=8) is False


@pytest.mark.parametrize("wanted", [True, False])
def test_config_overrides_shared_memory(shared_memory, caplog, wanted):
    assert shared_memory(0 if wanted else 1 << 30, use_shared_memory=wanted) is wanted
    assert caplog.records == []


def test_shared_memory_is_not_checked_without_workers(monkeypatch):
    def fail(path):
        raise AssertionError("nobody needs to know")

    monkeypatch.setattr(shutil, "disk_usage", fail)
    assert len(build_loader(section(0), 0)) == 8


# -------------------------------------------------------------------------------------------------
# Errors
# -------------------------------------------------------------------------------------------------
@pytest.fixture
def failing(tmp_path, transform):
    """A loader of four images, and a function that gives the error of each of two epochs."""

    def make(workers: int, node: dict, **loader) -> tuple[Exception, Exception]:
        sampler = {"batch_size": 2, "shuffle": False}
        made = build_loader(
            section(workers, sampler=sampler, timeout=60.0, **loader) | {"dataset": node}, 0
        )
        errors = []
        for epoch in range(2):  # a loader still works after an error
            with pytest.raises(RuntimeError) as caught:
                list(made.epoch(epoch))
            errors.append(caught.value)
            assert not workers_module._READINGS  # the workers have ended
        return tuple(errors)

    return make


def four_images(folder: Path, bad: str | None = None, sizes=(20, 20, 20, 20)) -> dict:
    """The node of a folder of a.png, b.png, c.png and d.png, and a bad file if one is named."""
    (folder / "cat").mkdir()
    for name, size in zip("abcd", sizes, strict=True):
        Image.new("RGB", (size, 20)).save(folder / "cat" / f"{name}.png")
    if bad is not None:
        Path(os.fsdecode(os.fsencode(folder) + b"/cat/" + os.fsencode(bad))).write_bytes(b"")
    return {"name": "ImageFolder", "dataroot": str(folder), "transforms": [NORMALIZE]}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("bad", ["a.png", "d.png", "e\udcff.png"])
def test_unreadable_image_is_a_one_line_error(failing, tmp_path, capfd, workers, bad):
    first, second = failing(workers, four_images(tmp_path, bad))
    assert type(first) is RunError
    shown = "" if "\udcff" in bad else bad
    assert f"{shown}: cannot be read as an image" in str(first)
    assert len(str(first).splitlines()) == 1
    assert str(second) == str(first)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_different_sizes_are_an_error(failing, tmp_path, workers):
    first, _ = failing(workers, four_images(tmp_path, sizes=(20, 20, 30, 20)))
    assert type(first) is RunError
    assert "(3, 20, 20) and (3, 20, 30) cannot be in one batch" in str(first)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [RunError("first line\nsecond line"), ZeroDivisionError("a bug")])
def test_error_of_a_transform_keeps_its_message(failing, transform, workers, error):
    class Fails:
        def __call__(self, image, rng):
            raise error

    transform(Fails)
    digits = {"name": "Digits", "split": "val", "transforms": [{"name": "Fails"}, NORMALIZE]}
    first, _ = failing(workers, digits, use_shared_memory=False)
    if isinstance(error, RunError):
        assert (type(first), str(first)) == (RunError, "first line\nsecond line")
    else:  # a bug comes with the sample and its traceback
        assert re.match(r"Digits val \d+:\n", str(first))
        assert "in __call__" in str(first)
        assert str(first).strip().endswith("ZeroDivisionError: a bug")
