"""passl pack: shards that read as the images they were made of, whole or not there."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl.data.build import build_dataset, build_transforms
from passl.data.datasets import tar_shards
from passl.data.datasets.image_folder import ImageFolder
from passl.data.datasets.tar_shards import TarShards
from passl.data.pack import MANIFEST, Packing, dataset_node, pack, verify
from passl.data.transforms.evaluation import transformed
from passl.errors import ConfigError, RunError

SIZES = [(90, 60), (60, 90), (64, 64), (33, 41), (20, 20), (70, 33), (50, 120)]
EVALUATION = [
    {"name": "Resize", "size": 32},
    {"name": "CenterCrop", "size": 28},
    {"name": "Normalize"},
]


@pytest.fixture
def images(tmp_path) -> Path:
    """Seven images of three classes: JPEG, grey PNG and PNG with opacity, larger and smaller."""
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        mode = ("RGB", "L", "RGBA")[number % 3]
        shape = (height, width, *{"RGB": (3,), "L": (), "RGBA": (4,)}[mode])
        image = Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode)
        path = (
            tmp_path / "images" / f"c{number % 3}" / f"{number}.{'jpg' if mode == 'RGB' else 'png'}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"quality": 95} if mode == "RGB" else {}
        exif = Image.Exif()
        exif[0x0112], exif[0x010F] = 6, "maker"  # turned by 90 degrees
        image.save(path, exif=exif, **options)
    return tmp_path / "images"


def packed(images: Path, out: Path, workers: int = 0, **options):
    options = {"short_side": 32, "samples": 3, **options}
    return pack(ImageFolder(dataroot=str(images)), out, "train", Packing(**options), workers)


def members(out: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as archive:
            found |= {m.name: archive.extractfile(m).read() for m in archive}
    return found


def original(dataset: TarShards, index: int) -> int:
    """The index that a packed sample had."""
    return int(dataset.members[index].partition(".")[0])


def test_raw_evaluation_equals_that_of_the_original_bit_for_bit(images, tmp_path):
    manifest = packed(images, tmp_path / "out", format="raw")
    before, after = (
        ImageFolder(dataroot=str(images)),
        build_dataset(dataset_node(tmp_path / "out", manifest)),
    )
    assert after.classes == before.classes
    assert len(after) == len(before) == 7
    transforms = build_transforms(EVALUATION)
    for index in range(7):
        image, label = after[index]
        expected, own = before[original(after, index)]
        assert label == own
        assert min(image.size) <= 32
        np.testing.assert_array_equal(
            transformed(image, transforms), transformed(expected, transforms)
        )
    order = [original(after, index) for index in range(7)]
    assert sorted(order) == list(range(7)) != order  # shuffled


def test_jpeg_is_that_of_pillow(images, tmp_path):
    manifest = packed(images, tmp_path / "out", quality=80, shuffled=False, metadata=True)
    found, before = members(tmp_path / "out"), ImageFolder(dataroot=str(images))
    for index in range(7):
        image, label = before[index]
        if min(image.size) > 32:
            scale = 32 / min(image.size)
            image = image.resize([int(side * scale + 1e-9) for side in image.size], Image.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
        assert found[f"{index:09d}.jpg"] == file.getvalue()
        assert found[f"{index:09d}.cls"] == str(label).encode()
        about = json.loads(found[f"{index:09d}.json"])
        assert (about["name"], about["class"]) == (before.name(index), before.classes[label])
        assert [about["width"], about["height"]] == list(before.load_image(index).size)
    assert manifest["classes"] == {"c0": 3, "c1": 2, "c2": 2}
    assert [shard["samples"] for shard in manifest["shards"]] == [3, 3, 1]


def test_copies_and_exif(images, tmp_path):
    packed(images, tmp_path / "copy", format="copy", short_side=None, shuffled=False)
    before = ImageFolder(dataroot=str(images))
    contents = [Path(before.name(index)).read_bytes() for index in range(7)]
    assert [c for name, c in members(tmp_path / "copy").items() if "cls" not in name] == contents
    for turns, orientation in ((False, 6), (True, None)):
        out = tmp_path / f"exif {turns}"
        dataset = ImageFolder(dataroot=str(images), exif_turn=turns)
        pack(dataset, out, "x", Packing(exif=True, shuffled=False), 0)
        with Image.open(io.BytesIO(members(out)["000000000.jpg"])) as image:
            assert image.size == ((60, 90) if turns else (90, 60))
            assert image.getexif().get(0x0112) == orientation
            assert image.getexif()[0x010F] == "maker"


def test_first_start_reads_no_header(images, tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_INDEX", "1")
    monkeypatch.setenv("PASSL_HOME", str(tmp_path / "home"))
    for kind in ("jpeg", "raw"):
        manifest = packed(images, tmp_path / kind, format=kind)
        with monkeypatch.context() as broken:
            broken.setattr(tar_shards, "_read", None)
            assert len(build_dataset(dataset_node(tmp_path / kind, manifest))) == 7


def test_interrupted_call_is_continued(images, tmp_path):
    expected = packed(images, tmp_path / "whole", workers=2, shuffled=False)
    bad = images / "c1" / "4.png"
    whole = bad.read_bytes()
    bad.write_bytes(b"no image")
    out = tmp_path / "out"
    with pytest.raises(RunError, match=r"4\.png: cannot be read as an image"):
        packed(images, out, shuffled=False)
    assert [path.name for path in out.glob("*.tar")] == ["train-000000.tar"]
    assert not (out / MANIFEST).exists()
    written = (out / "train-000000.tar").stat().st_mtime_ns
    bad.write_bytes(whole)
    assert packed(images, out, shuffled=False)["shards"] == expected["shards"]
    assert (out / "train-000000.tar").stat().st_mtime_ns == written
    assert members(out) == members(tmp_path / "whole")


def test_damaged_shard_is_found_and_repaired(images, tmp_path):
    out = tmp_path / "out"
    manifest = packed(images, out)
    assert verify(out) == []
    shard = out / "train-000001.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    (out / "train-000002.tar").unlink()
    (out / "members.idx").write_bytes(b"")
    (damaged, missing, index) = verify(out)
    assert "members.idx: differs" in index
    assert "train-000001.tar: differs" in damaged
    assert "train-000002.tar: is missing" in missing
    assert packed(images, out) == manifest
    assert verify(out) == []
    with pytest.raises(ConfigError, match="is it a folder of passl pack"):
        verify(images)


def test_bad_images_are_left_out(images, tmp_path):
    (images / "c1" / "4.png").write_bytes(b"no image")
    manifest = packed(images, tmp_path / "out", skip_bad=True)
    assert manifest["samples"] == 6
    assert manifest["classes"] == {"c0": 3, "c1": 1, "c2": 2}
    (skipped,) = manifest["skipped"]
    assert skipped["name"].endswith("c1/4.png")
    assert "cannot be read" in skipped["error"]
    assert len(build_dataset(dataset_node(tmp_path / "out", manifest))) == 6


def test_other_folders_are_not_overwritten(images, tmp_path):
    out = tmp_path / "out"
    packed(images, out)
    before = members(out)
    with pytest.raises(ConfigError, match=r"other options or data \(packing\)"):
        packed(images, out, quality=50)
    (images / "c0" / "0.jpg").unlink()
    with pytest.raises(ConfigError, match=r"other options or data \(data\)"):
        packed(images, out)
    with pytest.raises(ConfigError, match="is not a folder of passl pack"):
        packed(images, images)
    assert members(out) == before


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"format": "copy"}, "short_side 32 does not go with it"),
        ({"format": "raw", "exif": True}, "format raw has no EXIF"),
    ],
)
def test_options_that_do_not_go_together(images, tmp_path, options, rule):
    with pytest.raises(ConfigError, match=rule):
        packed(images, tmp_path / "out", **options)


@pytest.mark.parametrize("names", [["0 a", "1 b"], ["n00000001 a", "n00000002 b"], ["a ", "b"]])
def test_class_names_that_a_class_file_would_change(images, tmp_path, names):
    dataset = ImageFolder(dataroot=str(images))
    dataset.classes = [*names, "c"]
    if names[0] != "a ":
        dataset.classes = [*names, f"{names[-1][:-3]}{int(names[-1][-3]) + 1} c"]
    with pytest.raises(ConfigError, match="cannot be lines of a class file"):
        pack(dataset, tmp_path / "out", "x", Packing(), 0)
