"""Datasets: what they hold, and what they say of an image or folder that is not right."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl.data import DATASETS
from passl.data.build import DATASET_OPTIONS
from passl.data.datasets.digits import FILE, Digits
from passl.data.datasets.image_folder import ImageFolder
from passl.data.datasets.walk import SUFFIXES
from passl.data.loader import Loader
from passl.data.samplers import BatchSampler
from passl.errors import ConfigError, RunError
from passl.utils.schema import Choice, Section, section_of
from passl.utils.yaml import parse

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "transforms"


# -------------------------------------------------------------------------------------------------
# Digits
# -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def digits() -> dict[str, Digits]:
    return {split: Digits(split=split) for split in ("train", "val")}


@pytest.mark.parametrize(("split", "length"), [("train", 1437), ("val", 360)])
def test_digits_splits(digits, split, length):
    dataset = digits[split]
    assert len(dataset) == length
    image, label = dataset[length - 1]
    assert (image.mode, image.size) == ("RGB", (32, 32))
    assert type(label) is int
    assert {dataset[index][1] for index in range(length)} == set(range(10))
    with pytest.raises(IndexError):
        dataset[length]


def test_digits_splits_partition_the_file(digits):
    with np.load(FILE) as file:
        labels = file["labels"]
    assert len(labels) == 1797
    counts = {split: np.bincount(digits[split].labels, minlength=10) for split in digits}
    np.testing.assert_array_equal(counts["train"] + counts["val"], np.bincount(labels))
    seen = {
        split: {dataset[index][0].tobytes() for index in range(len(dataset))}
        for split, dataset in digits.items()
    }
    assert (len(seen["train"]), len(seen["val"])) == (1437, 360)
    assert seen["train"].isdisjoint(seen["val"])


def test_digits_are_stratified(digits):
    total = np.bincount(digits["train"].labels) + np.bincount(digits["val"].labels)
    assert np.abs(np.bincount(digits["val"].labels) - total * 360 / 1797).max() < 1


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel, a = -1/2 (IEEE ASSP 29, 1981)."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def test_digits_are_enlarged_by_cubic_convolution(digits):
    with np.load(FILE) as file:
        ink = file["images"][file["is_val"]]
    weights = cubic((np.arange(8) + 0.5) - (np.arange(32)[:, None] + 0.5) / 4)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.clip((ink * (255 / 16)) @ weights.T, 0, 255)
    expected = np.clip(weights @ rows, 0, 255)
    pixels = np.stack([np.asarray(digits["val"][index][0]) for index in range(360)])
    assert (pixels.min(), pixels.max()) == (0, 255)
    for channel in range(3):
        np.testing.assert_allclose(pixels[..., channel], expected, atol=2.5)


def test_digits_wrong_split_is_an_error():
    with pytest.raises(ValueError, match="split: must be one of train, val"):
        Digits(split="test")
    with pytest.raises(ConfigError, match="split: must be one of train, val, not 'test'"):
        DATASETS.build({"name": "Digits", "split": "test"})


def test_digits_names(digits):
    assert digits["val"].classes == Digits.class_names(split="val") == list("0123456789")
    assert digits["val"].name(7) == "Digits val 7"


# -------------------------------------------------------------------------------------------------
# ImageFolder: what it finds
# -------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path):
    """Make images: folder({"cat/a.png": (255, 0, 0)}), and get the path of their folder."""

    def make(colours: dict[str, object]) -> str:
        for name, colour in colours.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 4), colour).save(path)
        return str(tmp_path)

    return make


def test_classes_are_sorted(folder):
    root = folder({f"{name}/a.png": "red" for name in ("n02", "n01", "Zebra", "ant", "n10")})
    dataset = ImageFolder(dataroot=root)
    assert dataset.classes == ["Zebra", "ant", "n01", "n02", "n10"]
    assert dataset.classes == ImageFolder.class_names(dataroot=root)
    assert [(Path(dataset.name(index)).parent.name, dataset[index][1]) for index in range(5)] == [
        ("Zebra", 0),
        ("ant", 1),
        ("n01", 2),
        ("n02", 3),
        ("n10", 4),
    ]


def test_sample_is_image_and_label(folder):
    dataset = ImageFolder(dataroot=folder({"cat/a.png": (10, 20, 30), "dog/b.bmp": (1, 2, 3)}))
    assert len(dataset) == 2
    for index, colour in enumerate([(10, 20, 30), (1, 2, 3)]):
        image, label = dataset[index]
        assert (image.mode, image.size, label) == ("RGB", (6, 4), index)
        assert (np.asarray(image) == colour).all()


def test_nested_folders_belong_to_their_class(folder):
    names = ["cat/a.png", "cat/x/b.png", "cat/x/y/c.png", "cat/w/d.png", "dog/cat/e.png"]
    root = folder(dict.fromkeys(names, "red"))
    dataset = ImageFolder(dataroot=root)
    assert dataset.classes == ["cat", "dog"]
    found = {
        str(Path(dataset.name(index)).relative_to(root)): dataset[index][1]
        for index in range(len(dataset))
    }
    assert found == {name: int(name.startswith("dog")) for name in names}


@pytest.mark.parametrize("backwards", [False, True])
def test_order_does_not_depend_on_the_file_system(folder, monkeypatch, backwards):
    names = ["a/3.png", "a/1.png", "a/y/2.png", "a/x/2.png", "b/2.png", "b/1.png", "c/1.png"]
    root = folder(dict.fromkeys(names, "red"))
    scandir = os.scandir

    @contextmanager
    def scandir_in_order(path):
        with scandir(path) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name, reverse=backwards))

    monkeypatch.setattr(os, "scandir", scandir_in_order)
    dataset = ImageFolder(dataroot=root)
    assert dataset.classes == ["a", "b", "c"]
    assert [str(Path(path).relative_to(root)) for path in dataset.paths] == [
        *["a/1.png", "a/3.png", "a/x/2.png", "a/y/2.png"],
        *["b/1.png", "b/2.png", "c/1.png"],
    ]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".JPEG", ".Png", ".TIFF"])
def test_suffixes_in_any_case(folder, suffix):
    dataset = ImageFolder(dataroot=folder({f"cat/a{suffix}": (200, 100, 50)}))
    image, label = dataset[0]
    assert (image.mode, image.size, label) == ("RGB", (6, 4), 0)
    # JPEG and WebP lose a little.
    assert np.abs(np.asarray(image, dtype=float) - (200, 100, 50)).max() < 6


def test_other_files_and_hidden_folders_are_ignored(folder, tmp_path):
    root = folder({"cat/a.png": "red", ".trash/b.png": "red", "c.png": "red"})
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "cat" / "png").write_text("not an image")
    dataset = ImageFolder(dataroot=root)
    assert dataset.classes == ["cat"]
    assert [Path(path).name for path in dataset.paths] == ["a.png"]


def test_link_to_a_class_folder_is_followed(folder, tmp_path):
    root = folder({"data/cat/a.png": "red", "elsewhere/dog/b.png": "red"})
    os.symlink(tmp_path / "elsewhere" / "dog", tmp_path / "data" / "dog")
    dataset = ImageFolder(dataroot=f"{root}/data")
    assert dataset.classes == ["cat", "dog"]
    assert len(dataset) == 2


def test_circular_link_does_not_duplicate_images(folder, tmp_path):
    root = folder({"cat/a.png": "red"})
    os.symlink(tmp_path / "cat", tmp_path / "cat" / "again")
    assert len(ImageFolder(dataroot=root)) == 1


# Each: the link's place below data/, and where it leads.
CROSSING = {
    "to another class": ("cat/more", "data/dog"),
    "into another class": ("cat/more", "data/dog/young"),
    "into another class on another disk": ("cat/more", "disk/bird/young"),
    "to the folder of all classes": ("cat/up", "data"),
    "as a class folder": ("lion", "data/cat"),
    "from deep inside": ("dog/young/more", "data/cat"),
}


@pytest.mark.parametrize("case", CROSSING)
def test_link_to_another_class_is_an_error(folder, tmp_path, case):
    """Its images would have two labels."""
    images = ("data/cat/a.png", "data/dog/b.png", "data/dog/young/c.png", "disk/bird/young/d.png")
    root = folder(dict.fromkeys(images, "red"))
    os.symlink(tmp_path / "disk" / "bird", tmp_path / "data" / "bird")
    assert ImageFolder(dataroot=f"{root}/data").labels.tolist() == [0, 1, 2, 2]
    place, target = CROSSING[case]
    os.symlink(tmp_path / target, tmp_path / "data" / place)
    with pytest.raises(ConfigError, match="two labels; remove the link") as caught:
        ImageFolder(dataroot=f"{root}/data")
    assert f"{root}/data/{place}" in str(caught.value) or case == "as a class folder"
    (first, second) = re.findall(r"to class (\w+)", str(caught.value))
    assert {first, second} <= {"cat", "dog", "bird", "lion"}
    assert first != second


def test_links_within_one_class_are_followed(folder, tmp_path):
    root = folder({"data/cat/a.png": "red", "data/dog/b.png": "red", "more/young/c.png": "red"})
    os.symlink(tmp_path / "more", tmp_path / "data" / "dog" / "more")
    os.symlink(tmp_path / "more" / "young" / "c.png", tmp_path / "data" / "cat" / "c.png")
    dataset = ImageFolder(dataroot=f"{root}/data")
    assert [Path(path).relative_to(tmp_path / "data").as_posix() for path in dataset.paths] == [
        "cat/a.png",
        "cat/c.png",
        "dog/b.png",
        "dog/more/young/c.png",
    ]
    assert dataset.labels.tolist() == [0, 0, 1, 1]


def test_broken_link_to_a_class_folder_is_an_error(folder, tmp_path):
    """Without it, labels of the classes after it would shift."""
    root = folder({"ape/a.png": "red", "cat/a.png": "red"})
    os.symlink(tmp_path / "gone", tmp_path / "bear")
    for find in (ImageFolder, ImageFolder.class_names):
        with pytest.raises(ConfigError, match="/bear: broken link"):
            find(dataroot=root)


def test_broken_links_and_pipes_are_left_out_with_a_warning(folder, tmp_path, caplog):
    root = folder({"cat/b.png": "red"})
    os.symlink(tmp_path / "gone.png", tmp_path / "cat" / "a.png")
    os.symlink(tmp_path / "cat" / "c.png", tmp_path / "cat" / "c.png")
    os.symlink(tmp_path / "gone", tmp_path / "cat" / "folder")
    os.mkfifo(tmp_path / "cat" / "d.png")
    dataset = ImageFolder(dataroot=root)
    assert [Path(path).name for path in dataset.paths] == ["b.png"]
    assert (
        f"4 broken links or special files are left out; the first is {root}/cat/a.png"
        in caplog.text
    )
    (tmp_path / "cat" / "b.png").unlink()
    with pytest.raises(ConfigError, match="no image in cat"):
        ImageFolder(dataroot=root)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_folder_without_permission_is_an_error(folder, tmp_path):
    root = folder({"cat/a.png": "red", "cat/more/b.png": "red"})
    (tmp_path / "cat" / "more").chmod(0)
    with pytest.raises(ConfigError, match="cat/more: the folder cannot be listed"):
        ImageFolder(dataroot=root)
    (tmp_path / "cat" / "more").chmod(0o755)


# -------------------------------------------------------------------------------------------------
# ImageFolder: images
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("image", ["china", "flower"])
def test_photos_decode_to_the_pixels_of_timm(tmp_path, image):
    (tmp_path / "cat").mkdir()
    os.symlink(GOLDEN / f"{image}.jpg", tmp_path / "cat" / "a.jpg")
    with np.load(GOLDEN / "eval.npz") as file:
        expected = file[f"{image}/decoded"]
    np.testing.assert_array_equal(ImageFolder(dataroot=str(tmp_path))[0][0], expected)


def test_deleted_image_is_an_error(folder, tmp_path):
    dataset = ImageFolder(dataroot=folder({"cat/a.png": "red", "cat/b.png": "blue"}))
    path = tmp_path / "cat" / "a.png"
    path.unlink()
    with pytest.raises(RunError, match=rf"^{re.escape(str(path))}: cannot be read .*No such file"):
        dataset[0]
    assert dataset[1][0].getpixel((0, 0)) == (0, 0, 255)


def test_missing_folder_is_an_error(tmp_path):
    root = str(tmp_path / "gone")
    for find in (ImageFolder, ImageFolder.class_names):
        with pytest.raises(ConfigError, match=rf"^{re.escape(root)}: the data folder does not exi"):
            find(dataroot=root)


def test_file_instead_of_folder_is_an_error(tmp_path):
    path = tmp_path / "data.zip"
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"data\.zip: the data folder is a file, not a folder"):
        ImageFolder(dataroot=str(path))


def test_folder_without_classes_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / ".git").mkdir()
    for find in (ImageFolder, ImageFolder.class_names):
        with pytest.raises(ConfigError, match=rf"^{re.escape(str(tmp_path))}: .* has no class"):
            find(dataroot=str(tmp_path))


def test_class_without_images_is_an_error(folder, tmp_path):
    root = folder({"cat/a.png": "red"})
    (tmp_path / "dog" / "inner").mkdir(parents=True)
    (tmp_path / "dog" / "a.txt").write_text("not an image")
    for find in (ImageFolder, ImageFolder.class_names):
        with pytest.raises(ConfigError, match=r": no image in dog; .*\.jpeg.*remove the folder"):
            find(dataroot=root)
    Image.new("RGB", (4, 4)).save(tmp_path / "dog" / "inner" / "b.png")
    for find in (ImageFolder, ImageFolder.class_names):
        find(dataroot=root)


def test_error_names_the_first_classes_without_images(folder, tmp_path):
    root = folder({"cat/a.png": "red"})
    for index in range(7):
        (tmp_path / f"empty{index}").mkdir()
    with pytest.raises(ConfigError, match="in empty0, .*, empty4 and 2 more;"):
        ImageFolder(dataroot=root)


# -------------------------------------------------------------------------------------------------
# docs/data.md and docs/multilabel.md
# -------------------------------------------------------------------------------------------------
DOCS = Path(__file__).resolve().parents[4] / "docs"
PAGES = {name: (DOCS / name).read_text(encoding="utf-8") for name in ("data.md", "multilabel.md")}
BLOCKS = {
    name: [parse(block, name)[0] for block in re.findall(r"```yaml\n(.*?)```", page, re.S)]
    for name, page in PAGES.items()
}


def datasets_in(node):
    """The nodes of datasets in a config, at any depth."""
    for key, value in node.items():
        if key == "dataset":
            yield value
        elif isinstance(value, dict):
            yield from datasets_in(value)


NODES = BLOCKS["data.md"] + [each for node in BLOCKS["multilabel.md"] for each in datasets_in(node)]


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.get("name", "loader"))
def test_yaml_examples_are_valid(node):
    spec = Choice(DATASETS, DATASET_OPTIONS)
    if "name" not in node:
        spec = section_of(Loader)
    if "sampler" in node:
        spec = Section({"sampler": section_of(BatchSampler)})
    assert list(spec.problems(node)) == []


def test_pages_show_every_dataset():
    assert {node["name"] for node in NODES if "name" in node} == set(DATASETS.names())
    options = {key for name in DATASETS.names() for key in DATASETS.options(name)}
    for option in options | set(DATASET_OPTIONS):
        assert any(option in page for page in PAGES.values()), option


def test_python_example_is_a_dataset(monkeypatch):
    monkeypatch.setattr(DATASETS, "_registered", dict(DATASETS._registered))
    (example,) = re.findall(r"```python\n(.*?)```", PAGES["data.md"], re.S)
    exec(compile(example, "docs/data.md", "exec"), {"__name__": "example"})  # noqa: S102
    dataset = DATASETS.build({"name": "Stripes", "count": 2})
    columns, rows = (np.asarray(dataset[index][0]) for index in range(2))
    assert [dataset[index][1] for index in range(2)] == [0, 1]
    np.testing.assert_array_equal(columns, rows.swapaxes(0, 1))
    assert (rows[::2] == 255).all()
