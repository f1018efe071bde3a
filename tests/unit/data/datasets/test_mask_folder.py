"""MaskFolder, and masks that do not fit."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from passl.data.build import build_dataset
from passl.data.loader import build_loader
from passl.errors import ConfigError, RunError


def save_pair(root, name: str, mask: np.ndarray, mode: str = "L", suffix: str = ".jpg"):
    """An image and its mask, as an image of that mode."""
    for folder in ("images", "masks"):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", mask.shape[::-1], (9, 9, 9)).save(root / "images" / f"{name}{suffix}")
    stored = Image.fromarray(mask)
    if mode == "P":
        stored.putpalette(np.random.default_rng(0).bytes(768))
    elif mode != "L":
        stored = stored.convert(mode)
    stored.save(root / "masks" / f"{name}.png")


MASK = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)


@pytest.fixture
def root(tmp_path):
    for name in ("b", "a", "city/c"):
        save_pair(tmp_path, name, MASK)
    return tmp_path


def node(root, **options):
    options = {"num_classes": 3, **options}
    return {
        "name": "MaskFolder",
        "images": str(root / "images"),
        "masks": str(root / "masks"),
        **{key: value for key, value in options.items() if value is not None},
    }


def test_pairs_in_order(root):
    data = build_dataset(node(root))
    assert len(data) == 3
    assert [data.name(i).removeprefix(f"{root}/images/") for i in range(3)] == [
        "a.jpg",
        "b.jpg",
        "city/c.jpg",
    ]
    assert data.label_name(2) == str(root / "masks" / "city" / "c.png")
    image, mask = data[0]
    assert image.size == (3, 2)
    np.testing.assert_array_equal(mask, MASK)
    assert data.classes == ["0", "1", "2"]
    assert data.task == "segmentation"


def test_palette_indices_are_the_labels(tmp_path):
    save_pair(tmp_path, "a", MASK, mode="P")
    with Image.open(tmp_path / "masks" / "a.png") as stored:
        assert stored.mode == "P"
    np.testing.assert_array_equal(build_dataset(node(tmp_path))[0][1], MASK)


def grey_png(rows: np.ndarray, bits: int) -> bytes:
    """A PNG of that many bits of grey, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    shifts = np.arange(bits - 1, -1, -1)
    lines = [np.packbits((row[:, None] >> shifts & 1).ravel()).tobytes() for row in rows]
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line for line in lines))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_few_bits_of_grey_are_the_labels_too(tmp_path, bits):
    labels = np.array([[0, 1, 0], [1, 1, 0]], np.uint8)
    save_pair(tmp_path, "a", labels)
    (tmp_path / "masks" / "a.png").write_bytes(grey_png(labels, bits))
    np.testing.assert_array_equal(build_dataset(node(tmp_path))[0][1], labels)


def test_labels_from_1(root):
    data = build_dataset(node(root, num_classes=2, reduce_zero_label=True))
    np.testing.assert_array_equal(data[0][1], [[255, 0, 1], [255, 1, 0]])


def test_classes_of_a_file(root):
    (root / "classes.txt").write_text("road\ncar\nsky\n")
    data = build_dataset(node(root, num_classes=None, class_file=str(root / "classes.txt")))
    assert data.classes == ["road", "car", "sky"]


@pytest.mark.parametrize(
    ("text", "names"),
    [("city/c\nb\n", ["city/c", "b"]), ("b.jpg a.png\n", ["b"]), ("b.jpg\ta.png\n", ["b"])],
)
def test_lists(root, text, names):
    """Names as PASCAL VOC's, or pairs of paths as PaddleSeg's."""
    (root / "list.txt").write_text(text)
    data = build_dataset(node(root, list_file=str(root / "list.txt")))
    assert [data.name(i) for i in range(len(data))] == [
        str(root / "images" / f"{name}.jpg") for name in names
    ]
    if len(text.split()) == 2 and ".png" in text:
        assert data.label_name(0).endswith("masks/a.png")


def test_suffixes(tmp_path):
    """As Cityscapes has them."""
    save_pair(tmp_path, "x", MASK)
    (tmp_path / "images" / "x.jpg").rename(tmp_path / "images" / "x_leftImg8bit.png")
    (tmp_path / "masks" / "x.png").rename(tmp_path / "masks" / "x_gtFine_labelTrainIds.png")
    suffixes = {"image_suffix": "_leftImg8bit.png", "mask_suffix": "_gtFine_labelTrainIds.png"}
    data = build_dataset(node(tmp_path, **suffixes))
    assert data.label_name(0).endswith("x_gtFine_labelTrainIds.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": None}, "set class_file or num_classes"),
        ({"class_file": "x.txt"}, "set class_file or num_classes"),
        ({"num_classes": 256}, "256 classes; masks of 8 bits have at most 255"),
        ({"image_suffix": ".png"}, "no image ends in '.png'; it has images that end in .jpg"),
        ({"mask_suffix": "_m.png"}, r"3 files do not exist: .*masks/a_m.png"),
        ({"images": "nowhere"}, "nowhere: the folder cannot be listed"),
    ],
)
def test_wrong_options(root, options, message):
    with pytest.raises(ConfigError, match=message):
        build_dataset({**node(root), **options})


def test_wrong_line(root):
    (root / "list.txt").write_text("a\na.jpg b.png c.png\n")
    with pytest.raises(ConfigError, match=r"list.txt:2: 'a.jpg b.png c.png' is not NAME or IMAGE"):
        build_dataset(node(root, list_file=str(root / "list.txt")))


def test_mask_of_another_size(root):
    Image.new("L", (4, 2)).save(root / "masks" / "b.png")
    with pytest.raises(RunError, match=r"masks/b.png: is 4 x 2 pixels, but its image is 3 x 2"):
        build_dataset(node(root))[1]


def test_label_outside_the_classes(root):
    with pytest.raises(RunError, match=r"masks/a.png: has label 2, but the data has 2 classes"):
        build_dataset(node(root, num_classes=2))[0]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_no_labels(tmp_path, mode):
    save_pair(tmp_path, "a", MASK, mode=mode)
    with pytest.raises(RunError, match=f"masks/a.png: .*mode {mode} has no labels"):
        build_dataset(node(tmp_path))[0]


def test_part_of_the_data(root):
    data = build_dataset(node(root, fraction=0.4))
    assert len(data) == 1
    assert data.label_name(0).startswith(str(root / "masks"))


def batches(root, part_of: str, **sampler):
    """The batches of a loader, in training or evaluation."""
    transforms = [{"name": "Resize", "size": [4, 6]}, {"name": "Normalize"}]
    section = {
        "dataset": {**node(root), "transforms": transforms},
        "sampler": {"batch_size": 3, **sampler},
    }
    return list(build_loader(section, seed=0, even=part_of == "train").epoch(0))


def test_masks_follow_in_training_alone(root):
    """In evaluation they keep the size of the data, which scores are for."""
    (batch,) = batches(root, "train")
    assert batch.images.shape == [3, 3, 4, 6]
    assert batch.labels.shape == [3, 4, 6]
    (batch,) = batches(root, "val")
    assert batch.images.shape == [3, 3, 4, 6]
    np.testing.assert_array_equal(batch.labels.numpy(), [MASK] * 3)


def test_masks_of_several_sizes_need_batches_of_one(root):
    save_pair(root, "d", np.zeros((5, 5), np.uint8))
    with pytest.raises(RunError, match=r"labels of .* cannot be in one batch; set sampler.batch_s"):
        batches(root, "val", batch_size=4)
    shapes = [batch.labels.shape for batch in batches(root, "val", batch_size=1)]
    assert shapes == [[1, 2, 3]] * 3 + [[1, 5, 5]]
