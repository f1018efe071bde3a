"""Loaders return the same batches with any number of workers."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
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

ROOT = Path(__file__).resolve().parents[3]


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
def test_the_key_decides_what_is_random(transform, name):
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


def test_the_global_generators_differ_between_samples(transform):
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


def test_a_sample_is_in_the_batch_before_the_next_is_read():
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
def test_nothing_is_read_behind_an_error(error):
    samples = iter([Sample(np.zeros((3, 2, 2), np.float32), 0, 0), error, None])
    (report,) = collate(samples, 3)
    assert decode_report(report) == Report(str(error), isinstance(error, RunError), [])
    assert list(samples) == [None]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_transform_that_computes_in_float64_makes_batches_of_float32(transform, workers):
    class Halved:
        on_arrays = True

        def __call__(self, array, rng):
            return array.astype(np.float64) / 2

    transform(Halved)
    pair = [section(workers, [CROP, NORMALIZE, *more]) for more in ([], [{"name": "Halved"}])]
    whole, halved = (next(build_loader(node, 7).epoch(0)).images.numpy() for node in pair)
    assert halved.dtype == np.float32
    np.testing.assert_array_equal(2 * halved, whole)


@pytest.mark.parametrize("shared", [True, False, None])
def test_workers_change_nothing(transform, shared):
    transform(draws_globally())
    transforms = [{"name": "DrawsGlobally"}, CROP, NORMALIZE]
    alone = build_loader(section(0, transforms), 7)
    helped = build_loader(section(2, transforms, use_shared_memory=shared), 7)
    for epoch in (0, 1):
        assert_equal(read_all(alone.epoch(epoch)), read_all(helped.epoch(epoch)))


def test_reading_ahead_changes_nothing():
    expected = read_all(build_loader(section(0), 7).epoch(0))
    assert_equal(read_all(build_loader(section(2, prefetch_factor=4), 7).epoch(0)), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_repeated_and_another_one_is_another(workers):
    loader = build_loader(section(workers, sampler={"shuffle": False}), 7)
    first, second, again = (read_all(loader.epoch(epoch)) for epoch in (0, 1, 0))
    assert_equal(first, again)
    for (images, labels, _), (other_images, other_labels, _) in zip(first, second, strict=True):
        np.testing.assert_array_equal(labels, other_labels)
        different = (images != other_images).any(axis=(1, 2, 3))
        assert different.all()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 3, 7])
def test_an_epoch_is_resumed_in_the_middle(workers, start):
    loader = build_loader(section(workers), 7)
    whole = read_all(loader.epoch(2))
    fresh = build_loader(section(workers), 7)
    assert_equal(read_all(fresh.epoch(2, start)), whole[start:])
    assert len(fresh) == 8
    assert_equal(read_all(loader.epoch(2)), whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_is_left_early_does_not_disturb_the_next(workers):
    loader = build_loader(section(workers), 7)
    expected = read_all(build_loader(section(0), 7).epoch(1))
    left = loader.epoch(0)
    next(left)
    left.close()
    assert_equal(read_all(loader.epoch(1)), expected)


def test_reading_leaves_the_generators_of_this_process_alone():
    loader = build_loader(section(0), 7)
    states = random.getstate(), np.random.get_state()[1].tobytes()
    assert len(read_all(loader.epoch(0))) == 8
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == states


def test_another_seed_gives_other_crops():
    sampler = {"shuffle": False}
    ((images, *_), *_), ((others, *_), *_) = (
        read_all(build_loader(section(sampler=sampler), seed).epoch(0)) for seed in (7, 8)
    )
    assert (images != others).any(axis=(1, 2, 3)).all()


def test_ranks_crop_a_sample_as_one_process_does():
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


def test_what_build_loader_refuses():
    with pytest.raises(ConfigError, match=r"^dataloader: sampler\.batch_size 400 .* 360 samples"):
        build_loader(section(sampler={"batch_size": 400, "drop_last": True}), 0)
    with pytest.raises(ConfigError, match="there is no transform 'Centercrop'; .* 'CenterCrop'"):
        build_loader(section(transforms=[{"name": "Centercrop"}]), 0)
    unknown = section()
    unknown["dataset"]["name"] = "Digit"
    with pytest.raises(ConfigError, match="there is no dataset 'Digit'; did you mean 'Digits'?"):
        build_loader(unknown, 0)


@pytest.mark.parametrize("options", [{"num_workers": -1}, {"prefetch_factor": 0}], ids=str)
def test_numbers_that_make_no_loader(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        build_loader(section() | {"loader": options}, 0)


def test_building_does_not_change_the_section():
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
    """A loader over 24 images of which some are no images; an image's grey tells its index."""
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
def test_evaluation_leaves_bad_samples_out(holes, caplog, workers):
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
def test_training_takes_other_samples_instead(holes, caplog, even):
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


def test_what_is_taken_instead_depends_on_seed_and_place_only(holes):
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
def test_too_many_bad_samples_end_the_run(holes, caplog, workers, sampler):
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


def test_a_data_set_without_a_good_sample_ends_the_run(holes):
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


def test_a_bad_first_sample_does_not_send_batches_through_pipes(holes, monkeypatch):
    seen = []
    monkeypatch.setattr(
        workers_module, "DataLoader", lambda _, **options: seen.append(options["use_shared_memory"])
    )
    for bad in (set(), {0}, {0, 1, 2}):
        holes(bad, 2, on_bad_sample="skip")
    assert seen == [True] * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_an_error_unless_it_may_be_skipped(holes, workers):
    for options in ({}, {"on_bad_sample": "error"}):
        with pytest.raises(RunError, match=r"/05\.png: cannot be read as an image"):
            read_all(holes({5, 6}, workers, **options).epoch(0))


@pytest.mark.parametrize("error", [RunError, ZeroDivisionError])
def test_a_transform_that_fails_is_no_bad_sample(holes, transform, error):
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
        ({"on_bad_sample": "ignore"}, "on_bad_sample: must be one of error, skip"),
        ({"on_bad_sample": "skip", "max_bad_samples": -1}, "max_bad_samples: must be a whole"),
    ],
)
def test_options_of_bad_samples_that_make_no_sense(holes, options, rule):
    with pytest.raises(ConfigError, match=rule):
        holes(set(), **options)


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
def test_shared_memory_is_left_if_it_is_too_small_or_not_there(shared_memory, caplog, free):
    assert shared_memory(free) is False
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "batches go through pipes instead" in record.getMessage()


def test_shared_memory_must_hold_what_waits_and_what_is_made(shared_memory):
    assert shared_memory(3 * WAITING) is True
    assert shared_memory(3 * WAITING, prefetch_factor=8) is False


@pytest.mark.parametrize("wanted", [True, False])
def test_shared_memory_is_as_the_config_says(shared_memory, caplog, wanted):
    assert shared_memory(0 if wanted else 1 << 30, use_shared_memory=wanted) is wanted
    assert caplog.records == []


def test_shared_memory_is_not_asked_for_without_workers(monkeypatch):
    def fail(path):
        raise AssertionError("nobody needs to know")

    monkeypatch.setattr(shutil, "disk_usage", fail)
    assert len(build_loader(section(0), 0)) == 8


# -------------------------------------------------------------------------------------------------
# Errors, read in processes of their own: a loader that waits for ever must not stop the other tests
# -------------------------------------------------------------------------------------------------
READ = """
import json, os, sys
from passl.data import TRANSFORMS
from passl.data.loader import build_loader
from passl.errors import RunError

def register(error):
    class Fails:
        def __call__(self, image, rng):
            raise error
    Fails.__name__ = type(error).__name__
    TRANSFORMS.register(Fails)

register(RunError("first line\\nsecond line"))
register(ZeroDivisionError("a bug"))
for name, section in json.load(open("sections.json")).items():
    os.dup2(os.open(name + ".stderr", os.O_CREAT | os.O_WRONLY), 2)
    try:
        loader = build_loader(section, 0)
        for epoch in range(2):  # an error leaves a loader that still works
            try:
                list(loader.epoch(epoch))
            except Exception as error:
                print(json.dumps([name, epoch, type(error).__name__, str(error)]), flush=True)
    except Exception as error:
        print(json.dumps([name, "build", type(error).__name__, str(error)]), flush=True)
"""
RESIZE = {"name": "Resize", "size": [8, 8]}


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """By the number of workers: the folder, and by case type and message of both epochs' errors."""
    made = {}

    def read(workers: int):
        if workers not in made:
            made[workers] = read_in_a_process(tmp_path_factory.mktemp("errors"), workers)
        return made[workers]

    return read


def read_in_a_process(folder: Path, workers: int) -> tuple[Path, dict]:
    for name, size in [("a", 20), ("b", 20), ("c", 30), ("d", 20)]:
        for case in ("broken", "first_broken", "no_name", "sizes"):
            path = folder / case / "cat" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (size, 20)).save(path)
    (folder / "broken" / "cat" / "d.png").write_bytes(b"")
    (folder / "first_broken" / "cat" / "a.png").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(folder) + b"/no_name/cat/e\xff.png")).write_bytes(b"")
    sections = {
        case: section(workers, [RESIZE, NORMALIZE], {"batch_size": 2, "shuffle": False})
        | {
            "dataset": {
                "name": "ImageFolder",
                "dataroot": str(folder / case),
                "transforms": [NORMALIZE] if case == "sizes" else [RESIZE, NORMALIZE],
            }
        }
        for case in ("broken", "first_broken", "no_name", "sizes")
    } | {
        "lines": section(workers, [{"name": "RunError"}, NORMALIZE], use_shared_memory=False),
        "bug": section(workers, [{"name": "ZeroDivisionError"}, NORMALIZE]),
    }
    (folder / "sections.json").write_text(json.dumps(sections))
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", READ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, _ = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, _ = process.communicate()
    found: dict = {case: [] for case in sections}
    for line in stdout.splitlines():
        case, _, kind, message = json.loads(line)
        found[case].append((kind, message))
    return folder, found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("case", "image"), [("broken", "d.png"), ("first_broken", "a.png")])
def test_a_broken_image_is_one_line(failures, workers, case, image):
    folder, found = failures(workers)
    (kind, message), again = found[case]
    assert kind == "RunError"
    assert message.startswith(f"{folder / case / 'cat' / image}: cannot be read as an image")
    assert len(message.splitlines()) == 1
    assert again == (kind, message)
    assert "Traceback" not in (folder / f"{case}.stderr").read_text()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_several_lines_keeps_them(failures, workers):
    assert failures(workers)[1]["lines"] == [("RunError", "first line\nsecond line")] * 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bug_in_a_transform_comes_with_the_sample_and_its_traceback(failures, workers):
    (kind, message), _ = failures(workers)[1]["bug"]
    assert kind == "RuntimeError"
    assert re.match(r"Digits val \d+:\n", message)
    assert "in __call__" in message
    assert message.strip().endswith("ZeroDivisionError: a bug")


WITH_WORKERS = 2


@pytest.mark.parametrize("workers", [0, WITH_WORKERS])
def test_images_of_different_sizes_say_so(failures, workers):
    (kind, message), _ = failures(workers)[1]["sizes"]
    assert kind in ("ConfigError", "RunError", "RuntimeError", "ValueError")
    assert "shape" in message or "size" in message


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_whose_name_is_no_utf_8(failures, workers):
    (kind, message), _ = failures(workers)[1]["no_name"]
    assert kind == "RunError"
    assert "cannot be read as an image" in message
