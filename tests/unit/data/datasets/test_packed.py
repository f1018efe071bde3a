"""Paths of many samples: kept as they are, and shared by forked workers."""

from __future__ import annotations

import gc
import io
import os
import pickle
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl.data.datasets.image_folder import ImageFolder
from passl.data.datasets.image_list import ImageList
from passl.data.datasets.packed import PackedPaths
from passl.data.datasets.subset import Subset
from passl.data.datasets.tar_shards import TarShards
from passl.data.loader import Loader
from passl.data.samplers import BatchSampler

NAMES = ["b.png", "Käse 日本.png", "", "\udcff.png", "a/b.png", "\ud800.png", "b.png"]
"""With a byte that is not UTF-8, and a lone surrogate that no file name has."""


# -------------------------------------------------------------------------------------------------
# The sequence
# -------------------------------------------------------------------------------------------------
def test_paths_are_stored_unchanged():
    paths = PackedPaths(paths=NAMES)
    assert len(paths) == len(NAMES)
    assert list(paths) == NAMES
    assert [paths[index] for index in range(-len(NAMES), 0)] == NAMES
    assert paths[np.int64(3)] == "\udcff.png"
    assert paths[1:6:2] == NAMES[1:6:2]
    assert list(pickle.loads(pickle.dumps(paths))) == NAMES  # noqa: S301
    for index in (len(NAMES), -len(NAMES) - 1):
        with pytest.raises(IndexError):
            paths[index]


def test_empty_sequence():
    paths = PackedPaths("data")
    assert len(paths) == 0
    assert list(paths) == []
    with pytest.raises(IndexError):
        paths[0]


@pytest.mark.parametrize("root", ["data", "data/", "/data", "\udcff"])
def test_root_is_joined_to_relative_paths(root):
    paths = PackedPaths(root, ["a.png"])
    paths.append("/b.png")
    assert list(paths) == [os.path.join(root, "a.png"), "/b.png"]


# -------------------------------------------------------------------------------------------------
# Datasets
# -------------------------------------------------------------------------------------------------
FILES = ["a.png", "b/Käse 日本.png", "c.png", "\udcff.png"]
"""In the order of the file system's bytes, as ImageFolder sorts them within a folder."""


@pytest.mark.parametrize("end", ["", "/", "/."])
def test_image_folder_keeps_file_names(tmp_path, end):
    for number, file in enumerate(FILES):
        path = tmp_path / "data" / "cat" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(path)
    root = f"{tmp_path}/data{end}"
    dataset = ImageFolder(dataroot=root)
    expected = [os.path.join(root, "cat", FILES[number]) for number in (0, 2, 3, 1)]
    assert list(dataset.paths) == expected
    assert [dataset.name(index) for index in range(4)] == expected
    assert [dataset.source(index) for index in range(4)] == expected
    assert [dataset[index][0].getpixel((0, 0))[0] for index in range(4)] == [0, 2, 3, 1]


def test_tar_shards_keep_member_names(tmp_path):
    image = io.BytesIO()
    Image.new("RGB", (2, 2)).save(image, "PNG")
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for file in FILES:
            for name, content in ((file, image.getvalue()), (f"{file[:-4]}.cls", b"0")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    (tmp_path / "classes.txt").write_text("cat")
    shard = f"{tmp_path}/a.tar"
    dataset = TarShards(shards=shard, class_file=f"{tmp_path}/classes.txt")
    assert list(dataset.members) == FILES
    assert [dataset.name(index) for index in range(4)] == [f"{shard}: {file}" for file in FILES]


def folder_of(root: Path, count: int) -> ImageFolder:
    for index in range(count):
        path = root / f"class {index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return ImageFolder(dataroot=str(root))


def list_of(root: Path, count: int) -> ImageList:
    root.mkdir()
    (root / "a.png").touch()
    lines = ["a.png 999", *(f"{index}.png {index % 1000}" for index in range(1, count))]
    (root / "list.txt").write_text("\n".join(lines))
    return ImageList(dataroot=str(root), list_file=f"{root}/list.txt")


def shard_of(root: Path, count: int) -> TarShards:
    root.mkdir()
    with tarfile.open(root / "a.tar", "w") as archive:
        for index in range(count):
            for name, content in ((f"{index}.png", b""), (f"{index}.cls", b"%d" % (index % 2))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    (root / "classes.txt").write_text("cat\ndog")
    return TarShards(shards=f"{root}/a.tar", class_file=f"{root}/classes.txt")


def objects(root: object) -> int:
    """Python objects that can be reached, beside code."""
    seen, waiting = {}, [root]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | types.ModuleType | types.FunctionType):
            continue
        seen[id(one)] = one
        waiting += gc.get_referents(one)
    return len(seen)


@pytest.mark.parametrize("make", [folder_of, list_of, shard_of])
def test_loader_has_no_python_object_per_sample(tmp_path, make):
    def loader(name: str, count: int) -> Loader:
        part = Subset(make(tmp_path / name, count), fraction=0.5)
        options = {"batch_size": 2, "shuffle": True, "balanced": True}
        sampler = BatchSampler(part, 0, 0, 1, True, **options)
        return Loader(part, [], sampler)

    few, many = objects(loader("few", 10)), objects(loader("many", 200))
    assert many < few + 20  # equal numbers may be one object, or two


# -------------------------------------------------------------------------------------------------
# Memory of a worker
# -------------------------------------------------------------------------------------------------
def private_bytes() -> int:
    """Memory of this process that it shares with no other one."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("Private_Dirty:"))
    return 1024 * int(line.split()[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12
def test_forked_process_shares_the_paths_that_it_reads(tmp_path):
    count = 100_000
    dataset = list_of(tmp_path / "data", count)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            gc.disable()  # it would write to every other object of this process
            dataset.name(0)
            before = private_bytes()
            for index in range(count):
                dataset.name(index)
            os.write(writing, str(private_bytes() - before).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        grown = int(answer.read())
    os.waitpid(child, 0)
    assert grown < 16 * count  # 20 MiB for ImageNet; a list of strings took 100 bytes for each
