"""Two datasets have the same fingerprint if their samples are the same, wherever they lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from passl.data.datasets.digits import Digits
from passl.data.datasets.fingerprint import fingerprint, hashed_lists
from passl.data.datasets.image_folder import ImageFolder
from passl.data.datasets.subset import Subset


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes of two images each."""
    for name in ("ape/1", "ape/2", "bee/1", "bee/caf\udce9"):
        path = tmp_path / "here" / "data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return tmp_path / "here" / "data"


def of(folder: Path) -> dict:
    return fingerprint(ImageFolder(dataroot=str(folder)))


def listed(folder: Path) -> dict:
    """What a difference between ranks is looked for in."""
    made = hashed_lists(ImageFolder(dataroot=str(folder)))
    return {name: list(make()) for name, make in made.items()}


def test_moved_data_has_the_same_fingerprint(root, tmp_path):
    before = of(root)
    moved = tmp_path / "elsewhere"
    shutil.move(root, moved)
    assert of(moved) == before
    assert (before["samples"], before["classes"]) == (4, 2)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda root: (root / "ape/2.png").rename(root / "ape/3.png"), {"sample names"}),
        (lambda root: (root / "bee").rename(root / "cow"), {"class names", "sample names"}),
        (
            lambda root: (root / "ape/2.png").rename(root / "bee/2.png"),
            {"sample names", "labels"},
        ),
        (lambda root: (root / "ape/2.png").unlink(), {"samples", "sample names", "labels"}),
    ],
    ids=["renamed", "class", "moved", "removed"],
)
def test_changed_data_has_another_fingerprint(root, change, differs):
    before, lists = of(root), listed(root)
    change(root)
    now, others = of(root), listed(root)
    assert {name for name in before if now[name] != before[name]} == differs
    assert {name for name in lists if others[name] != lists[name]} == differs - {"samples"}


def test_subset_has_another_fingerprint():
    whole = Digits(split="val")
    found, part = fingerprint(whole), fingerprint(Subset(whole, fraction=0.5))
    assert found["classes"] == part["classes"]
    assert part["samples"] == 180
    assert found["sample names"] != part["sample names"]
    other = fingerprint(Subset(whole, fraction=0.5, fraction_seed=1))
    assert other["samples"] == 180
    assert other["sample names"] != part["sample names"]
