"""Small IDX files in the place of those of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from passl.data.build import build_dataset
from passl.data.datasets.mnist import MNIST, FashionMNIST
from passl.errors import ConfigError, RunError
from tests.unit.io.download_server import serving, status

KINDS = [MNIST, FashionMNIST]
TRAIN, TEST = 7, 4
IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def idx(values: np.ndarray) -> bytes:
    """The format of http://yann.lecun.com/exdb/mnist: 8 = unsigned byte, then the dimensions."""
    head = struct.pack(f">2xBB{values.ndim}I", 8, values.ndim, *values.shape)
    return head + values.tobytes()


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        found[f"{part}-images-idx3-ubyte.gz"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        found[f"{part}-labels-idx1-ubyte.gz"] = rng.integers(0, 10, count, np.uint8)
    return found


@pytest.fixture
def contents(arrays, monkeypatch) -> dict[str, bytes]:
    """The published files, whose hashes both classes know."""
    found = {name: gzip.compress(idx(values), mtime=1) for name, values in arrays.items()}
    files = {name: (hashlib.sha256(body).hexdigest(),) for name, body in found.items()}
    for kind in KINDS:
        monkeypatch.setattr(kind, "files", files)
        monkeypatch.setattr(kind, "folders", ())
        monkeypatch.setattr(kind, "part", 5)
    return found


@pytest.fixture
def folder(tmp_path, contents) -> Path:
    for name, body in contents.items():
        (tmp_path / name).write_bytes(body)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("split", "prefix", "chosen"),
    [
        ("train", "train", range(TRAIN)),
        ("train_part", "train", range(5)),
        ("holdout", "train", range(5, TRAIN)),
        ("test", "t10k", range(TEST)),
        ("val", "t10k", range(TEST)),
    ],
)
def test_samples_of_each_split(folder, arrays, kind, split, prefix, chosen):
    dataset = build_dataset(
        {"name": kind.__name__, "dataroot": str(folder), "split": split, "mode": "L"}
    )
    assert len(dataset) == len(chosen)
    for index, stored in enumerate(chosen):
        image, label = dataset[index]
        assert (image.mode, image.size, type(label)) == ("L", (28, 28), int)
        np.testing.assert_array_equal(image, arrays[f"{prefix}-images-idx3-ubyte.gz"][stored])
        assert label == arrays[f"{prefix}-labels-idx1-ubyte.gz"][stored] == dataset.labels[index]
        # An image has one name in every split that has it.
        assert dataset.name(index).split()[1:] == [prefix.replace("t10k", "test"), str(stored)]
    # Both parts of a check read the files of their split only.
    assert kind.class_names(dataroot=str(folder), split=split) == dataset.classes
    assert len(set(dataset.classes)) == 10


def test_classes():
    assert MNIST._classes() == list("0123456789")
    assert FashionMNIST._classes()[::3] == ["T-shirt/top", "Dress", "Shirt", "Ankle boot"]


def test_default_mode_is_that_of_all_datasets(folder, arrays):
    image, _ = FashionMNIST(dataroot=str(folder), split="test")[1]
    grey = arrays["t10k-images-idx3-ubyte.gz"][1]
    np.testing.assert_array_equal(image, np.stack([grey] * 3, axis=-1))


def test_changing_an_image_does_not_change_the_dataset(folder, arrays):
    dataset = MNIST(dataroot=str(folder), split="train")
    dataset.load_image(0).putpixel((0, 0), 255 - int(arrays[IMAGES][0, 0, 0]))
    np.testing.assert_array_equal(dataset.load_image(0), arrays[IMAGES][0])


def test_files_of_debian_package(folder, contents, monkeypatch, tmp_path):
    """They are compressed again, so their hashes are others, and are read without a copy."""
    debian = {
        name: gzip.compress(gzip.decompress(body), mtime=0) for name, body in contents.items()
    }
    hashes = {
        name: (*FashionMNIST.files[name], hashlib.sha256(body).hexdigest())
        for name, body in debian.items()
    }
    package = tmp_path / "package"
    package.mkdir()
    for name, body in debian.items():
        (package / name).write_bytes(body)
    monkeypatch.setattr(FashionMNIST, "files", hashes)
    monkeypatch.setattr(FashionMNIST, "folders", (str(package),))
    for root in ("nowhere", "package"):
        dataset = FashionMNIST(dataroot=str(tmp_path / root), split="train", download=True)
        assert len(dataset) == TRAIN
    assert not (tmp_path / "nowhere").exists()
    # A file in `dataroot` comes first.
    (folder / IMAGES).write_bytes(b"\0wrong")
    with pytest.raises(ConfigError, match="not the published file"):
        FashionMNIST(dataroot=str(folder), split="train")


@pytest.mark.parametrize("kind", KINDS)
def test_missing_file_is_an_error(folder, kind):
    (folder / IMAGES).unlink()
    for call in (kind, kind.class_names):
        with pytest.raises(ConfigError) as caught:
            call(dataroot=str(folder), split="holdout")
        for word in (str(folder), IMAGES, kind.url, "download: true"):
            assert word in str(caught.value)
        assert LABELS not in str(caught.value)
    assert len(kind(dataroot=str(folder), split="test")) == TEST


@pytest.mark.parametrize("body", ["truncated", "other data", "empty", "a page"])
def test_other_file_is_an_error(folder, contents, arrays, body):
    """Names the file, what is expected and found, and the way out; and reads nothing of it."""
    foreign = {
        "truncated": contents[IMAGES][:-20],
        "other data": gzip.compress(idx(arrays[IMAGES] // 2), mtime=1),
        "empty": b"",
        "a page": b"<html>Not found</html>",
    }[body]
    (folder / IMAGES).write_bytes(foreign)
    with pytest.raises(ConfigError) as caught:
        MNIST(dataroot=str(folder), split="train")
    words = [str(folder / IMAGES), "download: true", f"{MNIST.url}{IMAGES}"]
    if body in ("truncated", "other data"):
        words += [hashlib.sha256(foreign).hexdigest(), MNIST.files[IMAGES][0]]
    for word in words:
        assert word in str(caught.value)
    assert (folder / IMAGES).read_bytes() == foreign


def test_wrong_split_is_an_error(folder):
    with pytest.raises(ConfigError, match="split: must be one of train, val, test, train_part, "):
        MNIST(dataroot=str(folder), split="dev")


# -------------------------------------------------------------------------------------------------
# Downloads
# -------------------------------------------------------------------------------------------------
@pytest.fixture
def server(tmp_path, monkeypatch, contents):
    """A server on loopback that has the files, in the order in which they are asked for."""
    with serving(tmp_path, monkeypatch) as server:
        server.answers = [
            lambda handler, body=contents[name]: handler.send(200, body)
            for name in (IMAGES, LABELS)
        ]
        monkeypatch.setattr(FashionMNIST, "url", f"{server.origin}/fashion/")
        yield server


def test_download(server, tmp_path, arrays):
    root = tmp_path / "new" / "data"
    for _ in range(2):  # the second time they are there
        dataset = FashionMNIST(dataroot=str(root), split="train", download=True)
        assert dataset.labels.tolist() == arrays[LABELS].tolist()
    assert [request["path"] for request in server.requests] == [
        f"/fashion/{name}" for name in (IMAGES, LABELS)
    ]


def test_download_keeps_a_wrong_file_under_another_name(server, folder):
    (folder / IMAGES).write_bytes(b"\0mine")
    dataset = FashionMNIST(dataroot=str(folder), split="train", download=True)
    assert len(dataset) == TRAIN
    assert (folder / f"{IMAGES}.rejected").read_bytes() == b"\0mine"
    assert [request["path"] for request in server.requests] == [f"/fashion/{IMAGES}"]


def test_failed_download_says_which_file_to_put_where(server, tmp_path):
    server.answers = [status(404)] * 10
    root = tmp_path / "new"
    with pytest.raises(RunError) as caught:
        FashionMNIST(dataroot=str(root), split="train", download=True)
    for word in ("404", f"{FashionMNIST.url}{IMAGES}", str(root / IMAGES)):
        assert word in str(caught.value)


def test_class_names_download_nothing(tmp_path, contents):
    for kind in KINDS:
        assert len(kind.class_names(dataroot=str(tmp_path), split="train", download=True)) == 10
    assert list(tmp_path.iterdir()) == []
