"""Kept indexes: a second start reads no data and has the same samples; none is trusted blindly."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from passl.data.datasets import image_folder, image_list, index, tar_members, tar_shards
from passl.data.datasets.fingerprint import fingerprint
from passl.data.datasets.image_folder import ImageFolder
from passl.data.datasets.image_list import ImageList
from passl.data.datasets.tar_shards import TarShards
from passl.errors import ConfigError

MODULES = {"folder": image_folder, "list": image_list, "tar": tar_shards}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PASSL_INDEX", "1")
    monkeypatch.setenv("PASSL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(index, "_FEWEST", 1)
    return tmp_path / "home" / "indexes"


def settled(folder: Path) -> None:
    """Data that has not changed for a minute."""
    for path in (folder, *folder.rglob("*")):
        if not path.name.endswith(".idx"):
            now = path.lstat().st_mtime
            os.utime(path, (now - 60, now - 60), follow_symlinks=False)


def shard(path: Path, samples: dict[str, int]) -> None:
    with tarfile.open(path, "w") as archive:
        for key, label in samples.items():
            for name, content in ((f"{key}.png", b"x" * 700), (f"{key}.cls", b"%d" % label)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write(kind: str, root: Path, more: int = 0) -> None:
    root.mkdir(exist_ok=True)
    (root / "classes.txt").write_text("ape\nbee\ncat\n")
    if kind == "folder":
        for name in (
            "ape/1",
            "ape/deep/caf\udce9",
            "bee/2",
            *(f"cat/{i}" for i in range(1 + more)),
        ):
            path = root / "data" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    elif kind == "list":
        (root / "a.png").touch()
        lines = ["a.png 0", "b c.png 2", "caf\udce9.png 1", *(f"{i}.png 2" for i in range(more))]
        (root / "list.txt").write_text("\n".join(lines), errors="surrogateescape")
    else:
        shard(root / "s0.tar", {"1": 0, "x/2": 2})
        shard(root / "s1.tar", {f"{i}": i % 3 for i in range(5 + more)})
    settled(root)


def build(kind: str, root: Path, class_file: str = "classes.txt"):
    classes = str(root / class_file)
    if kind == "folder":
        return ImageFolder(dataroot=str(root / "data"), class_file=classes)
    if kind == "list":
        return ImageList(dataroot=str(root), list_file=str(root / "list.txt"), class_file=classes)
    return TarShards(shards=str(root / "s*.tar"), class_file=classes, buffer_size=2)


def facts(dataset) -> tuple:
    """All that a run uses of a dataset."""
    names = [dataset.name(i) for i in range(len(dataset))]
    places = dataset.offset.tolist() if isinstance(dataset, TarShards) else []
    order = dataset.shuffled(np.random.default_rng(3)).tolist()
    return dataset.classes, names, dataset.labels.tolist(), places, order, fingerprint(dataset)


def kept(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.rglob("*.idx"))


@pytest.fixture(params=MODULES)
def kind(request) -> str:
    return request.param


def test_second_start_reads_the_index_alone(kind, tmp_path, monkeypatch):
    root = tmp_path / "data"
    write(kind, root)
    with monkeypatch.context() as off:
        off.setenv("PASSL_INDEX", "0")
        expected = facts(build(kind, root))
    assert kept(tmp_path) == []
    assert facts(build(kind, root)) == expected
    (file,) = kept(tmp_path)
    assert (file.parent == root) == (kind == "tar")
    with monkeypatch.context() as broken:
        broken.setattr(MODULES[kind], "_read", None)
        dataset = build(kind, root)
    assert facts(dataset) == expected
    assert not dataset.labels.flags.writeable or kind == "folder"  # of a file, but for new labels


def test_changed_data_is_read_again(kind, tmp_path, caplog):
    root = tmp_path / "data"
    write(kind, root)
    few = len(build(kind, root))
    write(kind, root, more=2)
    assert len(build(kind, root)) == few + 2
    assert len(kept(tmp_path)) == 1


def test_damaged_index_is_not_used(kind, tmp_path):
    root = tmp_path / "data"
    write(kind, root)
    expected = facts(build(kind, root))
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    flips = [0, 7, 8, 20, 8 + header // 2, *range(8 + header, len(whole), 97), len(whole) - 1]
    contents = [b"", b"{}", whole[:-1], whole[: 8 + header], whole + b"x"]
    for place in flips:
        changed = bytearray(whole)
        changed[place] ^= 0x41
        contents.append(bytes(changed))
    for content in contents:
        file.write_bytes(content)
        assert facts(build(kind, root)) == expected
    assert file.read_bytes() == whole  # made again


def craft(file: Path, array: str, place: int, value: int) -> None:
    """Change a number of an index, and its checksum."""
    content = bytearray(file.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    offset = begin + header[array]["data_offsets"][0] + 8 * place
    content[offset : offset + 8] = value.to_bytes(8, "little", signed=True)
    about = json.loads(header["__metadata__"]["index"])
    checksum = str(zlib.crc32(content[begin:]))
    old = str(about["checksum"])
    text = bytes(content[8:begin]).replace(old.encode(), checksum.encode())
    text = text.rstrip(b" ").ljust(begin - 8)[: begin - 8]
    file.write_bytes(content[:8] + text + content[begin:])


@pytest.mark.parametrize(
    ("kind", "array", "place", "value"),
    [
        ("tar", "offset", 6, 10**9),
        ("tar", "offset", 0, -512),
        ("tar", "size", 1, 1 << 62),
        ("tar", "begins", 1, 100),
        ("tar", "labels", 0, -1),
        ("list", "ends", 1, -3),
        ("list", "ends", 3, 1 << 40),
        ("folder", "labels", 2, 3),
    ],
)
def test_index_with_numbers_out_of_range_is_not_used(tmp_path, kind, array, place, value, caplog):
    root = tmp_path / "data"
    write(kind, root)
    expected = facts(build(kind, root))
    (file,) = kept(tmp_path)
    craft(file, array, place, value)
    caplog.set_level("INFO", "passl")
    assert facts(build(kind, root)) == expected
    assert "not used" in caplog.text
    assert "checksum" not in caplog.text


def test_recent_and_small_data_is_not_kept(tmp_path, monkeypatch, kind):
    root = tmp_path / "data"
    write(kind, root)
    for path in root.rglob("*"):
        os.utime(path)
    build(kind, root)
    settled(root)
    monkeypatch.setattr(index, "_FEWEST", 100)
    build(kind, root)
    assert kept(tmp_path) == []


def test_folder_that_cannot_be_written(tmp_path, monkeypatch, kind, cache):
    """The index is then in the cache folder, or nowhere."""
    root = tmp_path / "data"
    write(kind, root)
    places = index._places
    with monkeypatch.context() as full:
        full.setattr(index, "write_atomically", lambda *_: (_ for _ in ()).throw(OSError("full")))
        expected = facts(build(kind, root))
    assert kept(tmp_path) == []
    monkeypatch.setattr(
        index, "_places", lambda kind: [Path("/dev/null/x.idx"), *places(kind)][::2]
    )
    build(kind, root)
    if kind == "tar":
        assert [file.parent for file in kept(tmp_path)] == [cache]
    assert facts(build(kind, root)) == expected


@pytest.mark.parametrize(("kind", "where"), [("list", "list.txt:2: "), ("tar", "x/2.png: ")])
def test_index_with_fewer_classes_than_labels(tmp_path, kind, where):
    root = tmp_path / "data"
    write(kind, root)
    build(kind, root)
    (root / "two.txt").write_text("ape\nbee\n")
    messages = []
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"{where}label 2 is above the 2 classes") as caught:
            build(kind, root, "two.txt")
        messages.append(str(caught.value))
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        for file in kept(tmp_path):
            file.unlink()
    assert messages[0] == messages[1]  # of the index and of the data


def test_broken_links_are_reported_at_each_start(tmp_path, caplog):
    root = tmp_path / "data"
    write("folder", root)
    (root / "data" / "ape" / "gone.png").symlink_to("nowhere")
    settled(root)
    for _ in range(2):
        caplog.clear()
        build("folder", root)
        assert "1 broken links" in caplog.text
    assert len(kept(tmp_path)) == 1


def test_index_beside_shards_moves_with_them(tmp_path, monkeypatch):
    root = tmp_path / "data"
    write("tar", root)
    build("tar", root)
    shutil.rmtree(tmp_path / "home")
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    monkeypatch.setattr(tar_shards, "_read", None)
    assert build("tar", moved).name(0) == f"{moved}/s0.tar: 1.png"


def test_shards_are_read_by_several_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_members, "_READERS", 2)
    root = tmp_path / "data"
    root.mkdir()
    for number in range(6):
        shard(root / f"s{number}.tar", {f"{number}-{i}": i % 3 for i in range(number + 1)})
    (root / "classes.txt").write_text("ape\nbee\ncat\n")
    expected = facts(build("tar", root))
    monkeypatch.setattr(tar_members, "_FEW", 2)
    assert facts(build("tar", root)) == expected
    (root / "s3.tar").write_bytes((root / "s3.tar").read_bytes()[:1500])
    (root / "s5.tar").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"s3\.tar: .*download it again"):
        build("tar", root)


@pytest.mark.parametrize("drawn", [1, 5, 1000])
def test_shuffle_buffer_is_the_plain_algorithm(tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(tar_shards, "_DRAWN", drawn)
    root = tmp_path / "data"
    write("tar", root, more=40)
    dataset = build("tar", root)
    for size in (1, 2, 7, 100):
        dataset.buffer_size = size
        rng = np.random.default_rng(size)
        begins = dataset.names.begins
        order = np.concatenate([np.arange(begins[s], begins[s + 1]) for s in rng.permutation(2)])
        buffer, coming = order[:size].tolist(), order[size:].tolist()
        places = rng.integers(len(buffer), size=len(coming)).tolist()
        for position, place in enumerate(places):
            buffer[place], coming[position] = coming[position], buffer[place]
        expected = [*coming, *rng.permutation(buffer).tolist()]
        assert dataset.shuffled(np.random.default_rng(size)).tolist() == expected
