"""The table of published weight files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import NoneType

import pytest

from passl.errors import ConfigError
from passl.io.files import sha256_of
from passl.porting import names, zoo
from passl.porting.zoo import OWN, PACKAGED, find, table
from passl.utils.config import shipped_configs, shipped_names

PUBLISHED = [entry for entry in zoo.entries() if entry.source != OWN]
OURS = [entry for entry in zoo.entries() if entry.source == OWN]

PLUS = ("convit_tiny_plus", "convit_small_plus", "convit_base_plus")


def variants() -> set[str]:
    return {path.stem for path in shipped_configs() if path.parent.name in ("convit", "cvt")}


def test_every_variant_has_one_default_with_an_address():
    assert len(variants()) == 11
    defaults = [entry for entry in PUBLISHED if entry.default]
    assert sorted(entry.model for entry in defaults) == sorted(variants())
    assert all(entry.url for entry in defaults)
    assert {find(name).source for name in PLUS} == {"mindcv"}


def test_zoo_is_complete():
    """The files that weights.md and recipes.md of the reference name, counted there."""
    count = {
        source: sum(entry.source == source for entry in PUBLISHED)
        for source in zoo.SOURCES
        if source != OWN
    }
    assert count == {
        "facebookresearch": 3,
        "timm": 3,
        "microsoft": 7,
        "huggingface": 7,
        "mindcv": 7,
        "passl": 5,
        "paddleclas": 8,
    }
    addresses = [entry.url for entry in PUBLISHED if entry.url]
    assert len(addresses) == len(set(addresses))


def test_published_numbers():
    """Copied by hand from the projects' tables, not from zoo.yaml."""
    scores = {
        "convit_tiny.fb_in1k": (73.116, 91.710),
        "convit_base.timm_in1k": (82.296, 95.936),
        "convit_tiny.mindcv_in1k": (73.66, 91.72),
        "convit_tiny.mindcv_910v2_in1k": (73.79, 91.70),
        "convit_base_plus.mindcv_in1k": (81.96, 95.04),
        "cvt_13_224.passl_in1k": (81.59, 95.67),
        "cvt_w24_384.passl_in22k_ft_in1k": (87.39, 98.37),
        "cvt_w24_384.ms_in22k_ft_in1k": (87.6, None),
        "cvt_21_384.ms_in22k_ft_in1k": (84.9, None),
    }
    assert {name: (find(name).top1, find(name).top5) for name in scores} == scores


def test_presets():
    mindcv = {
        "tiny": 0.875,
        "tiny_plus": 0.87,
        "small": 0.915,
        "small_plus": 0.93,
        "base": 0.93,
        "base_plus": 0.925,
    }
    for name, crop in mindcv.items():
        assert find(f"convit_{name}.mindcv_in1k").preset.crop == crop
    crops = {"passl": 1.0, "microsoft": "squash", "huggingface": "squash", "paddleclas": "squash"}
    for entry in PUBLISHED:
        assert entry.preset.interpolation == "bicubic"
        assert entry.preset.size == (384 if entry.model.endswith("384") else 224)
        if entry.model.endswith("384"):
            assert entry.preset.crop == crops[entry.source]
        elif entry.source != "mindcv":
            assert entry.preset.crop == 0.875


def test_hashes_of_file_names():
    """MindCV writes the first 8 digits into the name."""
    for entry in PUBLISHED:
        if entry.source == "mindcv":
            assert entry.file.removesuffix(".ckpt").split("-")[1] == entry.sha256


def test_numerics_are_those_of_the_rename_tables():
    ours = {source.name: source.numerics for source in names.SOURCES}
    for entry in PUBLISHED:
        assert entry.numerics == ours.get(entry.source, {}), entry.name
    assert find("convit_tiny.mindcv_in1k").numerics == {"act": "gelu_tanh", "norm_eps": 1e-7}


def test_nothing_is_verified_and_no_address_is_unofficial():
    assert not any(entry.verified for entry in PUBLISHED)
    for entry in PUBLISHED:
        assert "fffffgggg54" not in str(entry.url)
        if entry.source == "microsoft":
            assert entry.url is None
            assert "UNOFFICIAL" in entry.note


def test_find():
    assert find("convit_tiny").default
    assert find("convit_tiny").model == "convit_tiny"
    assert find("cvt_13_384.ms_in1k").file == "CvT-13-384x384-IN-1k.pth"
    with pytest.raises(ConfigError, match="'convit_tyni'; did you mean 'convit_tiny'"):
        find("convit_tyni")


def test_files_of_this_package():
    """Each has an entry, a model card and the bytes that the entry says."""
    files = {path.name for path in PACKAGED.glob("*.safetensors")}
    assert files == {entry.file for entry in OURS}
    for entry in OURS:
        path = PACKAGED / entry.file
        assert path.with_suffix(".md").is_file()
        assert (path.stat().st_size, sha256_of(path)) == (entry.size, entry.sha256)
        assert entry.size < 2_000_000
        assert entry.verified and entry.default and entry.config in shipped_names()  # noqa: PT018


def test_table():
    lines = table(PUBLISHED).splitlines()
    assert len(lines) == len(PUBLISHED) + 2
    assert lines[0].split() == [
        "name",
        "model",
        "source",
        "MB",
        "sha256",
        "top-1",
        "top-5",
        "licence",
        "verified",
    ]
    row = next(line for line in lines if line.startswith("convit_tiny_plus."))
    assert row.split() == [
        "convit_tiny_plus.mindcv_in1k*",
        "convit_tiny_plus",
        "mindcv",
        "-",
        "prefix",
        "77.00",
        "93.60",
        "Apache-2.0",
        "no",
    ]
    starts = {
        line.index(f" {entry.source}") for line, entry in zip(lines[1:], PUBLISHED, strict=False)
    }
    assert starts == {lines[0].index(" source")}


def test_types_of_the_values():
    """zoo.yaml is read without further checks, so they are here."""
    for entry in zoo.entries():
        kinds = {
            **dict.fromkeys(("file", "licence", "note", "source", "model"), str),
            **dict.fromkeys(("url", "sha256", "scores", "config"), (str, NoneType)),
            **dict.fromkeys(("top1", "top5"), (float, NoneType)),
            **dict.fromkeys(("verified", "default"), bool),
            "size": (int, NoneType),
        }
        for name, kind in kinds.items():
            assert isinstance(getattr(entry, name), kind), f"{entry.name}: {name}"
        preset = entry.preset
        assert type(preset.size) is int and preset.interpolation in ("bicubic", "bilinear")
        assert preset.crop == "squash" or 0 < preset.crop <= 1
        assert all(type(value) is float for value in (*preset.mean, *preset.std))
        assert len(preset.mean) == len(preset.std)
        assert len(preset.mean) in (1, 3)


def test_values_are_consistent():
    for entry in PUBLISHED:
        # The name becomes a folder of the cache, the file's name a file of it.
        assert re.fullmatch(rf"{entry.model}\.[a-z0-9_]+", entry.name)
        assert re.fullmatch(r"\w[\w.-]*", entry.file), entry.name
        assert entry.model in variants(), entry.name
        assert entry.source in zoo.SOURCES, entry.name
        assert entry.sha256 is None or re.fullmatch("[0-9a-f]{8,64}", entry.sha256), entry.name
        assert entry.url or (entry.note and not entry.default), entry.name
        if entry.url:
            assert entry.url.startswith("https://") and entry.url.endswith(f"/{entry.file}")
        published = [score for score in (entry.top1, entry.top5) if score is not None]
        assert bool(published) == (entry.scores is not None), entry.name
        assert all(0 < score <= 100 for score in published), entry.name


def test_zoo_needs_no_paddle():
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[3])!r})
from passl.porting import zoo
from passl.io import download
assert zoo.entries()
assert not {{"paddle", "numpy"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
