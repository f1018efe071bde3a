"""A first look says what the run would do, and shows what it would see."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from passl.analysis import first_look as module
from passl.analysis.augmented import augmented
from passl.analysis.first_look import first_look
from passl.data.loader import build_loader
from passl.errors import RunError
from passl.io.masks import COLORS
from passl.logging import get_logger
from passl.utils.config import get_config

ROWS, COLUMNS = 3, 4


@pytest.fixture(autouse=True)
def small_sheets(monkeypatch):
    """A sheet of eight by eight takes a second to draw."""
    monkeypatch.setattr(module, "ROWS", ROWS)
    monkeypatch.setattr(module, "COLUMNS", COLUMNS)


@pytest.fixture
def lines():
    """What is logged, as it comes."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record):
            found.append(record.getMessage())

    logger, handler = get_logger(), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def drawn_images(monkeypatch) -> list[np.ndarray]:
    """The images that are drawn from here on."""
    shown: list[np.ndarray] = []
    draw = Axes.imshow

    def record(axes, data, **style):
        shown.append(np.asarray(data))
        return draw(axes, data, **style)

    monkeypatch.setattr(Axes, "imshow", record)
    return shown


def the_line(lines: list[str], beginning: str) -> str:
    (line,) = (line for line in lines if line.startswith(beginning))
    return line


def test_log_of_a_dry_run(tiny_config, tmp_path, lines):
    path = tiny_config("ConViT", epochs=8)
    cfg = get_config(path, ["optimizer.lr_base_batch=512", "lr_scheduler.warmup_epochs=2"])
    first_look(cfg, tmp_path / "augmented.png")
    assert not Path(cfg.output_dir).exists()

    with np.load(Path(__file__).parents[3] / "passl" / "data" / "datasets" / "digits.npz") as file:
        counts = np.bincount(file["labels"][~file["is_val"].astype(bool)])
    assert len(counts) == 10
    low, high = counts.min(), counts.max()
    assert the_line(lines, "train: 1437") == (
        f"train: 1437 images of 10 classes, {low} to {high} of each (median {np.median(counts):g})"
    )
    fewest = the_line(lines, "train: the classes with the fewest: ")
    assert f": {counts.argmin()} ({low})," in fewest

    # 16 wide, two blocks, 16 patches of 8 x 8: see the lists of parameters in the network's tests.
    width, hidden = 16, 64
    matrices = 3 * 64 * width + 2 * (4 * width * width + 2 * width * hidden) + 10 * width + 3 * 4
    spared = (
        (16 + 1) * width  # position embedding and class token
        + width  # bias of the patches
        + 2 * (4 * width + width + hidden + width)  # two norms, three biases
        + 4 + 4  # gates and the bias of the local block's positions
        + 2 * width + 10  # last norm, head
    )  # fmt: skip
    text = "\n".join(lines)
    assert f"{matrices + spared:,} parameters to train" in text
    assert f"weight decay on {matrices:,} in" in text
    assert f"none on {spared:,} in" in text

    peak = 2e-3 * 128 / 512
    assert the_line(lines, "run: ") == (
        "run: 8 epochs of 11 steps with 128 images each, on 1 process(es)"
    )
    assert f"{peak:g} at its peak (0.002 x 128 / 512)" in text
    middle = 1e-5 + (peak - 1e-5) * (1 + math.cos(math.pi * 4 / 8)) / 2
    rates = the_line(lines, "learning rate: Cosine")
    assert "after epoch 0: 1e-06, 2: " in rates
    assert f", 4: {middle:.3g}, 6: " in rates


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_drawing_shows_what_the_run_sees(tiny_config, tmp_path, monkeypatch, repeats):
    """Column two is the first batch of the first epoch, without mean and deviation, each sample
    once.
    """
    shown = drawn_images(monkeypatch)
    cfg = get_config(tiny_config(), [f"dataloader.train.sampler.repeats={repeats}", "seed=3"])
    first_look(cfg, tmp_path / "augmented.png")
    assert len(shown) == ROWS * COLUMNS
    assert len({image.tobytes() for image in shown}) == ROWS * COLUMNS  # nothing is the same
    loader = build_loader(cfg.dataloader.train, 3)
    batch = next(loader.epoch(0))
    std, mean = np.array([0.229, 0.224, 0.225]), np.array([0.485, 0.456, 0.406])
    for row in range(ROWS):
        image = batch.images.numpy()[row * repeats].transpose(1, 2, 0) * std + mean
        np.testing.assert_allclose(shown[row * COLUMNS + 1], np.clip(image, 0, 1), atol=1e-6)
        index = int(batch.indices[row * repeats])
        stored = np.asarray(loader.dataset[index][0]) / 255
        np.testing.assert_array_equal(shown[row * COLUMNS], stored)
    with Image.open(tmp_path / "augmented.png") as image:
        assert image.format == "PNG"
        assert image.width > 100 * COLUMNS


@pytest.fixture
def with_bad_samples(tmp_path):
    """Overrides for a dataset of twelve images in two classes, of which the first, the last and
    one in the middle cannot be read.
    """
    for index in range(12):
        (tmp_path / "data" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        path = tmp_path / "data" / "ab"[index % 2] / f"{index:02}.png"
        Image.new("RGB", (40 + index, 40), (20 * index, 90, 0)).save(path)
        if index in (0, 6, 11):
            path.write_bytes(b"damaged")
    crop = "[{name: RandomResizedCrop, size: 32}, {name: Normalize}]"
    data = f"{{name: ImageFolder, dataroot: '{tmp_path / 'data'}', transforms: {crop}}}"
    parts = [f"dataloader.{part}.dataset={data}" for part in ("train", "val")]
    return [*parts, "model.head.num_classes=2", "dataloader.train.sampler.batch_size=4"]


def skipping(most: int) -> str:
    return f"dataloader.train.loader={{on_bad_sample: skip, max_bad_samples: {most}}}"


def test_bad_samples_are_skipped_as_in_the_run(
    tiny_config, tmp_path, with_bad_samples, lines, monkeypatch
):
    monkeypatch.setattr(module, "ROWS", 12)
    cfg = get_config(tiny_config(), [*with_bad_samples, skipping(100)])
    first_look(cfg, tmp_path / "augmented.png")
    assert (tmp_path / "augmented.png").is_file()
    bad = [line for line in lines if line.startswith("bad sample")]
    for name in ("00.png", "06.png", "11.png"):
        (line,) = (line for line in bad if name in line)
        assert "replaced by another" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [((), r"\d\d\.png: cannot be read"), ((skipping(2),), "more than 2 samples cannot be read")],
)
def test_bad_samples_end_it_as_they_end_the_run(
    tiny_config, tmp_path, with_bad_samples, monkeypatch, options, message
):
    monkeypatch.setattr(module, "ROWS", 12)
    cfg = get_config(tiny_config(), [*with_bad_samples, *options])
    with pytest.raises(RunError, match=message):
        first_look(cfg, tmp_path / "augmented.png")


def test_another_size_in_validation_draws_a_remark(tiny_config, tmp_path, lines):
    told = ["dataloader.val.dataset.transforms=[{name: Resize, size: [48, 40]}, {name: Normalize}]"]
    first_look(get_config(tiny_config(), told), tmp_path / "augmented.png")
    remark = the_line(lines, "images are ")
    assert "32 x 32 in training and 48 x 40 in validation" in remark
    lines.clear()
    first_look(get_config(tiny_config()), tmp_path / "augmented.png")
    assert not [line for line in lines if line.startswith("images are ")]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGBA", 4)])
def test_the_drawing_in_other_modes(tiny_config, tmp_path, monkeypatch, mode, channels):
    shown = drawn_images(monkeypatch)
    told = [f"dataloader.{part}.dataset.mode={mode}" for part in ("train", "val")]
    cfg = get_config(tiny_config(), [*told, f"model.architecture.in_chans={channels}"])
    first_look(cfg, tmp_path / "augmented.png")
    batch = next(build_loader(cfg.dataloader.train, 0).epoch(0)).images.numpy()
    assert batch.shape[1] == channels
    for row in range(ROWS):
        original, augmented = shown[row * COLUMNS], shown[row * COLUMNS + 1]
        assert original.shape[2] == augmented.shape[2] == max(channels, 3)
        grey = batch[row, 0] * (0.226 if channels == 1 else 0.229)
        grey += 0.459 if channels == 1 else 0.485
        np.testing.assert_allclose(augmented[..., 0], np.clip(grey, 0, 1), rtol=0, atol=1e-6)


def test_fewer_samples_than_rows(tiny_config, tmp_path, lines):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for place, size in (("a/0", (40, 30)), ("a/1", (64, 48)), ("b/0", (33, 90))):
        Image.new("RGB", size, (size[0], 90, 0)).save(tmp_path / "data" / f"{place}.png")
    crop = "[{name: RandomResizedCrop, size: 32}, {name: Normalize}]"
    data = f"{{name: ImageFolder, dataroot: '{tmp_path / 'data'}', transforms: {crop}}}"
    overrides = [f"dataloader.{part}.dataset={data}" for part in ("train", "val")]
    overrides += ["model.head.num_classes=2", "dataloader.train.sampler.batch_size=2"]
    first_look(get_config(tiny_config(), overrides), tmp_path / "augmented.png")
    assert (tmp_path / "augmented.png").is_file()
    assert "3 images of 2 classes, 1 to 2 of each (median 1.5)" in the_line(lines, "train: 3")


def test_masks_are_drawn_over_their_images():
    """As the run gets them: the colours of the labels, and those of the ignored border."""
    cfg = get_config("segmentation/digits_cvt", ["dataloader.train.dataset.count=16"])
    loader = build_loader(cfg.dataloader.train, 0, even=True)
    shown = augmented(loader, 2, 3)
    assert [len(each.seen) for each in shown] == [3, 3]
    loader.sampler.set_epoch(0)
    ((_, position, index), *_), *_ = list(loader.sampler)
    expected = loader.samples[2, position, index]
    image = loader.samples.transforms[-1].undo(expected.image)
    np.testing.assert_allclose(
        2 * shown[0].seen[2] - image, COLORS[expected.label] / 255, atol=1e-6
    )
