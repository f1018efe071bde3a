"""CIFAR's archives as Python 2 and 3 write them, and damaged, hostile, missing and fetched ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import re
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from passl.data import DATASETS
from passl.data.datasets import cifar as cifar_module
from passl.data.datasets.cifar import CIFAR10, CIFAR100
from passl.errors import ConfigError, RunError
from tests.unit.io.download_server import serving, status

ROOT = Path(__file__).resolve().parents[4]
RNG = np.random.default_rng(0)


# -------------------------------------------------------------------------------------------------
# Pickles as cPickle of Python 2 wrote them, opcode by opcode (pickletools documents each)
# -------------------------------------------------------------------------------------------------
def text(value: bytes) -> bytes:
    """SHORT_BINSTRING or BINSTRING."""
    if len(value) < 256:
        return b"U" + struct.pack("<B", len(value)) + value
    return b"T" + struct.pack("<i", len(value)) + value


def number(value: int) -> bytes:
    """BININT1, BININT2 or BININT."""
    if 0 <= value < 256:
        return b"K" + struct.pack("<B", value)
    if 0 <= value < 65536:
        return b"M" + struct.pack("<H", value)
    return b"J" + struct.pack("<i", value)


def array(value: np.ndarray, fortran: bool = False) -> bytes:
    rows, columns = value.shape
    content = value.tobytes(order="F" if fortran else "C")
    dtype = (
        b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
        b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    )
    return (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06"
        + number(0) + b"\x85q\x07" + text(b"b") + b"\x87R("
        + number(1) + number(rows) + number(columns) + b"\x86" + dtype
        + (b"\x88" if fortran else b"\x89") + text(content) + b"tb"
    )  # fmt: skip


def labels(values) -> bytes:
    return b"](" + b"".join(map(number, values)) + b"e"


def python2(items: Mapping[bytes, bytes]) -> bytes:
    """A dict by protocol 2."""
    return b"\x80\x02}q\x01(" + b"".join(text(key) + v for key, v in items.items()) + b"u."


def batch(count: int, classes: Mapping[str, int]) -> dict:
    """The content of a batch: pixels, and labels by their names."""
    return {
        "batch_label": "a batch",
        "data": RNG.integers(0, 256, (count, 3072), dtype=np.uint8),
        **{name: RNG.integers(0, top, count).tolist() for name, top in classes.items()},
        "filenames": [f"image_{index}.png" for index in range(count)],
    }


def as_python2(content: dict, fortran: bool = False) -> bytes:
    return python2(
        {
            b"batch_label": text(b"a batch"),
            b"data": array(content["data"], fortran),
            **{name.encode(): labels(v) for name, v in content.items() if "labels" in name},
            b"filenames": b"](" + b"".join(text(n.encode()) for n in content["filenames"]) + b"e",
        }
    )


def as_python3(content: dict, protocol: int, bytes_keys: bool) -> bytes:
    keyed = {key.encode() if bytes_keys else key: value for key, value in content.items()}
    return pickle.dumps(keyed, protocol)


WRITERS = {
    "python 2": as_python2,
    "python 2, fortran": lambda content: as_python2(content, True),
    "python 3, fortran": lambda content: as_python3(
        content | {"data": np.asfortranarray(content["data"])}, 5, False
    ),
    **{
        f"python 3, protocol {protocol}, {'bytes' if keys else 'str'}": (
            lambda content, protocol=protocol, keys=keys: as_python3(content, protocol, keys)
        )
        for protocol in range(6)
        for keys in (False, True)
    },
}
TEN = {"labels": 10}
HUNDRED = {"fine_labels": 100, "coarse_labels": 20}


def ten(writer=as_python2) -> tuple[dict[str, bytes], dict[str, dict]]:
    """The files of CIFAR-10 and what is in them, in small."""
    contents = {f"data_batch_{n}": batch(n, TEN) for n in range(1, 6)} | {
        "test_batch": batch(4, TEN)
    }
    return {name: writer(content) for name, content in contents.items()}, contents


def archived(path: Path, folder: str, files: Mapping[str, bytes], prefix: str = "") -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{prefix}{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def unpacked(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def assert_samples(dataset, contents: list[dict], key: str):
    expected = np.concatenate([content["data"] for content in contents])
    assert dataset.labels.tolist() == [label for content in contents for label in content[key]]
    assert len(dataset) == len(expected)
    for index, row in enumerate(expected):
        image, label = dataset[index]
        assert (image.mode, image.size, type(label)) == ("RGB", (32, 32), int)
        # Red, then green, then blue, each row by row.
        np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1).ravel(), row)
        assert label == dataset.labels[index]


def test_standard_library_reads_the_test_pickles():
    """The standard library reads what is written here as what it is meant to be."""
    content = batch(3, TEN)
    read = pickle.loads(as_python2(content), encoding="latin1")  # noqa: S301
    np.testing.assert_array_equal(read["data"], content["data"])
    assert read["labels"] == content["labels"]


# -------------------------------------------------------------------------------------------------
# What is read
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("writer", WRITERS)
def test_pickles_of_all_python_versions(tmp_path, writer):
    files, contents = ten(WRITERS[writer])
    unpacked(tmp_path / "cifar-10-batches-py", files)
    dataset = CIFAR10(dataroot=str(tmp_path), split="train")
    assert_samples(dataset, [contents[f"data_batch_{n}"] for n in range(1, 6)], "labels")


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("place", ["archive", "folder", "the folder itself"])
def test_data_in_archive_or_folder(tmp_path, place, prefix):
    files, contents = ten()
    root = tmp_path
    if place == "archive":
        extra = {"readme.html": b"<html>", "batches.meta": b"not read"}
        archived(tmp_path / CIFAR10.archive, CIFAR10.folder, files | extra, prefix)
    else:
        unpacked(tmp_path / CIFAR10.folder, files)
        root = tmp_path / CIFAR10.folder if place == "the folder itself" else tmp_path
    for split in ("val", "test"):
        dataset = CIFAR10(dataroot=str(root), split=split)
        assert_samples(dataset, [contents["test_batch"]], "labels")
    assert len(CIFAR10(dataroot=str(root), split="train")) == 1 + 2 + 3 + 4 + 5
    assert dataset.classes == CIFAR10.class_names(dataroot=str(root), split="val")
    assert (len(dataset.classes), dataset.classes[0], dataset.classes[9]) == (
        10,
        "airplane",
        "truck",
    )
    assert dataset.name(2) == "CIFAR10 test 2"


@pytest.mark.parametrize(("label_mode", "count"), [("fine", 100), ("coarse", 20)])
def test_cifar_100_labels(tmp_path, label_mode, count):
    contents = {"train": batch(6, HUNDRED), "test": batch(3, HUNDRED)}
    files = {name: as_python2(content) for name, content in contents.items()}
    archived(tmp_path / CIFAR100.archive, CIFAR100.folder, files)
    arguments = {"dataroot": str(tmp_path), "label_mode": label_mode}
    for split in ("train", "test"):
        dataset = CIFAR100(split=split, **arguments)
        assert_samples(dataset, [contents[split]], f"{label_mode}_labels")
    assert len(set(dataset.classes)) == len(dataset.classes) == count
    assert dataset.classes == sorted(dataset.classes)  # the authors number both by the alphabet
    assert dataset.classes == CIFAR100.class_names(split="test", **arguments)
    assert CIFAR100(dataroot=str(tmp_path), split="test").classes == CIFAR100.class_names(
        dataroot=str(tmp_path), split="test"
    )


def test_changing_an_image_does_not_change_the_dataset(tmp_path):
    files, contents = ten()
    unpacked(tmp_path / CIFAR10.folder, files)
    dataset = CIFAR10(dataroot=str(tmp_path), split="val")
    dataset[0][0].putpixel((0, 0), (1, 2, 3))
    assert_samples(dataset, [contents["test_batch"]], "labels")


# -------------------------------------------------------------------------------------------------
# What is refused
# -------------------------------------------------------------------------------------------------
BATCH = batch(2, TEN)
RAN = []


class Huge:
    """An array as protocol 5 has it, of more values than it brings."""

    def __reduce__(self):
        return np._core.numeric._frombuffer, (b"123", np.dtype("u1"), (10**9, 3072), "C")


class Runs:
    def __reduce__(self):
        return RAN.append, ("code of the file",)


BAD = {
    "empty": (b"", "damaged, or not a batch"),
    "text": (b"not a pickle", "damaged, or not a batch"),
    "cut": (as_python2(BATCH)[:-5000], "damaged, or not a batch"),
    "list": (pickle.dumps([1, 2]), "damaged, or not a batch"),
    "no data": (python2({b"labels": labels([1, 2])}), "KeyError 'data'"),
    "no labels": (python2({b"data": array(BATCH["data"])}), "KeyError 'labels'"),
    "fewer labels": (as_python2(BATCH | {"labels": [1]}), "has 2 images and 1 labels"),
    "label too large": (as_python2(BATCH | {"labels": [1, 10]}), "label 10 is not below 10"),
    "negative label": (as_python2(BATCH | {"labels": [1, -1]}), "label -1 is not below 10"),
    "labels of text": (
        as_python3(BATCH | {"labels": ["1", "2"]}, 2, False),
        "not a list of numbers",
    ),
    "true": (as_python3(BATCH | {"labels": [True, False]}, 4, False), "not a list of numbers"),
    "shape": (
        as_python2(BATCH | {"data": BATCH["data"][:, :3071]}),
        r"data is uint8 \[2, 3071\], but must be uint8 \[N, 3072\]",
    ),
    "dtype": (
        as_python3(BATCH | {"data": BATCH["data"].astype(np.float32)}, 2, False),
        r"data is float32 \[2, 3072\]",
    ),
    "no array": (as_python3(BATCH | {"data": [1, 2]}, 2, False), "data is not an array"),
    "huge": (
        pickle.dumps(BATCH | {"data": Huge()}, 4),
        r"an array of \(1000000000, 3072\) uint8 that has 3 bytes",
    ),
    "code": (
        b"cos\nsystem\n(S'touch ran'\ntR.",
        r"refused: it asks for os\.system, which images do not need; nothing was run\. Download",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("in_archive", [True, False])
def test_bad_batch_is_a_one_line_error(tmp_path, case, in_archive):
    content, rule = BAD[case]
    files = {"test_batch": content, "data_batch_1": b""}
    if in_archive:
        archived(tmp_path / CIFAR10.archive, CIFAR10.folder, files)
        where = tmp_path / CIFAR10.archive / CIFAR10.folder / "test_batch"
    else:
        unpacked(tmp_path / CIFAR10.folder, files)
        where = tmp_path / CIFAR10.folder / "test_batch"
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(where))}: .*{rule}") as caught:
        CIFAR10(dataroot=str(tmp_path), split="val")
    assert len(str(caught.value).splitlines()) == 1


def test_no_code_of_a_file_is_run(tmp_path):
    for protocol in range(6):
        folder = tmp_path / str(protocol) / CIFAR10.folder
        unpacked(folder, {"test_batch": pickle.dumps({"data": print, "labels": Runs}, protocol)})
        with pytest.raises(ConfigError, match="refused: it asks for"):
            CIFAR10(dataroot=str(folder.parent), split="val")
    assert RAN == []


@pytest.mark.parametrize("writer", ["python 2", "python 3, protocol 0, str", "python 3, fortran"])
def test_damaged_batch_is_read_or_a_one_line_error(tmp_path, writer):
    """Any byte may be wrong, most often one of the structure."""
    whole = WRITERS[writer](BATCH | {"data": np.zeros((2, 3072), np.uint8)})
    structure = [place for place, byte in enumerate(whole) if byte]
    rng = np.random.default_rng(0)
    folder = tmp_path / CIFAR10.folder
    unpacked(folder, {"test_batch": whole})
    outcomes = set()
    for _ in range(400):
        content = bytearray(whole)
        content[rng.choice(structure)] = rng.integers(256)
        (folder / "test_batch").write_bytes(content)
        try:
            dataset = CIFAR10(dataroot=str(tmp_path), split="val")
            assert dataset.pixels.shape == (len(dataset), 32, 32, 3)
            assert set(dataset.labels.tolist()) <= set(range(10))
            outcomes.add("read")
        except ConfigError as error:
            assert str(error).startswith(f"{folder / 'test_batch'}: ")
            assert len(str(error).splitlines()) == 1
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("part", [0, 0.2, 0.7, 0.99])
def test_truncated_archive_is_an_error(tmp_path, part):
    path = tmp_path / CIFAR10.archive
    archived(path, CIFAR10.folder, ten()[0])
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(
        ConfigError, match=rf"^{re.escape(str(path))}: .*download it again"
    ) as caught:
        CIFAR10(dataroot=str(tmp_path), split="train")
    assert len(str(caught.value).splitlines()) == 1


def test_archive_without_a_batch_is_an_error(tmp_path):
    files, _ = ten()
    del files["data_batch_3"]
    archived(tmp_path / CIFAR10.archive, CIFAR10.folder, files)
    with pytest.raises(
        ConfigError, match=r"has no cifar-10-batches-py/data_batch_3; download it again"
    ):
        CIFAR10(dataroot=str(tmp_path), split="train")
    assert len(CIFAR10(dataroot=str(tmp_path), split="val")) == 4


def test_folder_without_a_batch_is_an_error(tmp_path):
    unpacked(tmp_path / CIFAR10.folder, {"data_batch_1": b""})
    with pytest.raises(ConfigError, match=r"test_batch: cannot be read: No such file"):
        CIFAR10(dataroot=str(tmp_path), split="val")


def test_decompression_bomb_is_an_error(tmp_path, monkeypatch):
    """What decompresses to more than the archive can have is refused before it fills the memory."""
    monkeypatch.setattr(cifar_module, "_MAX_BYTES", 10_000)
    with gzip.open(tmp_path / CIFAR10.archive, "wb") as file:
        file.write(bytes(20_000))
    with pytest.raises(ConfigError, match="decompresses to more than 10,000 bytes"):
        CIFAR10(dataroot=str(tmp_path), split="val")
    unpacked(tmp_path / CIFAR10.folder, {"test_batch": bytes(20_000)})
    with pytest.raises(ConfigError, match="is larger than any batch"):
        CIFAR10(dataroot=str(tmp_path), split="val")


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_missing_data_is_an_error(tmp_path, kind):
    for call in (kind, kind.class_names):
        with pytest.raises(ConfigError) as caught:
            call(dataroot=str(tmp_path), split="train")
        address = f"https://www.cs.toronto.edu/~kriz/{kind.archive}"
        for word in (str(tmp_path), kind.folder, address, "download: true"):
            assert word in str(caught.value)


def test_wrong_split_or_label_mode_is_an_error(tmp_path):
    for kind in (CIFAR10, CIFAR100):
        with pytest.raises(ConfigError, match="split: must be one of train, val, test, not 'dev'"):
            kind(dataroot=str(tmp_path), split="dev", download=True)
    with pytest.raises(ConfigError, match="label_mode: must be one of fine, coarse, not 'all'"):
        CIFAR100(dataroot=str(tmp_path), split="train", label_mode="all")


def test_class_names_download_nothing(tmp_path):
    for kind, count in ((CIFAR10, 10), (CIFAR100, 100)):
        names = kind.class_names(dataroot=str(tmp_path), split="train", download=True)
        assert len(names) == count
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------------
# Downloads
# -------------------------------------------------------------------------------------------------
@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on loopback that has a small CIFAR-10, once."""
    files, contents = ten()
    archived(tmp_path / "made.tar.gz", CIFAR10.folder, files)
    body = (tmp_path / "made.tar.gz").read_bytes()
    with serving(tmp_path, monkeypatch) as server:
        server.answers = [lambda handler: handler.send(200, body)]
        server.contents = contents
        monkeypatch.setattr(CIFAR10, "url", f"{server.origin}/~kriz/")
        monkeypatch.setattr(CIFAR10, "sha256", hashlib.sha256(body).hexdigest())
        yield server


def test_download(server, tmp_path):
    root = tmp_path / "new" / "data"
    node = {"name": "CIFAR10", "dataroot": str(root), "split": "train", "download": True}
    for _ in range(2):  # the second time it is there
        contents = [server.contents[f"data_batch_{n}"] for n in range(1, 6)]
        assert_samples(DATASETS.build(node), contents, "labels")
    assert [request["path"] for request in server.requests] == [f"/~kriz/{CIFAR10.archive}"]
    assert len(CIFAR10(dataroot=str(root), split="val")) == 4


def test_download_does_not_overwrite_existing_files(server, tmp_path):
    mine = {"test_batch": as_python2(batch(7, TEN))}
    archived(tmp_path / CIFAR10.archive, CIFAR10.folder, mine)
    before = (tmp_path / CIFAR10.archive).read_bytes()
    assert len(CIFAR10(dataroot=str(tmp_path), split="val", download=True)) == 7
    assert (tmp_path / CIFAR10.archive).read_bytes() == before
    assert server.requests == []


def test_failed_download_says_which_file_to_put_where(tmp_path, server):
    server.answers = [status(404)] * 10
    root = tmp_path / "new"
    with pytest.raises(RunError) as caught:
        CIFAR10(dataroot=str(root), split="val", download=True)
    for word in ("404", f"{CIFAR10.url}{CIFAR10.archive}", str(root / CIFAR10.archive)):
        assert word in str(caught.value)
