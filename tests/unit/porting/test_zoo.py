"""The table of published weight files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from passl.errors import ConfigError
from passl.porting import names, zoo
from passl.porting.zoo import entries, find, read_zoo, table
from passl.utils.config import shipped_configs

PLUS = ("convit_tiny_plus", "convit_small_plus", "convit_base_plus")
ZOO = zoo.FILE.read_text(encoding="utf-8")
SMALL = """
presets:
  p: {size: 224, crop: 0.875, interpolation: bicubic, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
weights:
  convit_tiny.x_in1k:
    model: convit_tiny
    source: timm
    url: https://example.org/a/w.pth
    file: w.pth
    licence: MIT
    preset: p
    default: true
"""


def variants() -> set[str]:
    return {path.stem for path in shipped_configs() if path.parent.name in ("convit", "cvt")}


def test_every_variant_has_one_default_with_an_address():
    assert len(variants()) == 11
    defaults = [entry for entry in entries() if entry.default]
    assert sorted(entry.model for entry in defaults) == sorted(variants())
    assert all(entry.url for entry in defaults)
    assert {find(name).source for name in PLUS} == {"mindcv"}


def test_the_zoo_is_complete():
    """The files that weights.md and recipes.md of the reference name, counted there."""
    count = {source: sum(entry.source == source for entry in entries()) for source in zoo.SOURCES}
    assert count == {
        "facebookresearch": 3,
        "timm": 3,
        "microsoft": 7,
        "huggingface": 7,
        "mindcv": 7,
        "passl": 5,
        "paddleclas": 8,
    }
    addresses = [entry.url for entry in entries() if entry.url]
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
    for entry in entries():
        assert entry.preset.interpolation == "bicubic"
        assert entry.preset.size == (384 if entry.model.endswith("384") else 224)
        if entry.model.endswith("384"):
            assert entry.preset.crop == crops[entry.source]
        elif entry.source != "mindcv":
            assert entry.preset.crop == 0.875


def test_hashes_of_file_names():
    """MindCV writes the first 8 digits into the name."""
    for entry in entries():
        if entry.source == "mindcv":
            assert entry.file.removesuffix(".ckpt").split("-")[1] == entry.sha256


def test_numerics_are_those_of_the_rename_tables():
    ours = {source.name: source.numerics for source in names.SOURCES}
    for entry in entries():
        assert entry.numerics == ours.get(entry.source, {}), entry.name
    assert find("convit_tiny.mindcv_in1k").numerics == {"act": "gelu_tanh", "norm_eps": 1e-7}


def test_nothing_is_verified_yet_and_the_unofficial_copy_is_no_address():
    assert not any(entry.verified for entry in entries())
    for entry in entries():
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


def test_the_list_is_the_callers():
    entries().clear()
    assert entries()


def test_table():
    lines = table().splitlines()
    assert len(lines) == len(entries()) + 2
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
        line.index(f" {entry.source}") for line, entry in zip(lines[1:], entries(), strict=False)
    }
    assert starts == {lines[0].index(" source")}


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("licence: MIT", "license: MIT", "unknown key 'license'; did you mean 'licence'"),
        ("    licence: MIT\n", "", "licence must be given"),
        ("default: true", "default: false", "exactly one entry is the default, not none"),
        ("model: convit_tiny", "model: convit_teeny", "is not the name of a config"),
        ("source: timm", "source: tim", "is not one of"),
        ("https://example", "http://example", "is not an https address or null"),
        ("file: w.pth", "file: v.pth", "the last part of the address is the file's name"),
        ("file: w.pth", "file: ../w.pth", "is not a file name without a folder"),
        ("url: https://example.org/a/w.pth", "url: null", "`note` says where the file is"),
        ("url: https://example.org/a/w.pth", "url: null", "a default has an address"),
        ("preset: p", "preset: q", "there is no preset 'q'"),
        ("default: true", "default: 1", "1 is not true or false"),
        ("default: true", "default: true\n    sha256: 12345678", "in quotes"),
        ("default: true", "default: true\n    size: 1.5", "is not a number of bytes or null"),
        ("default: true", "default: true\n    top1: 73.1", "a score has its source"),
        ("default: true", "default: true\n    top1: 731", "is not a percentage or null"),
        ("default: true", "default: true\n    default: false", "the key stands twice"),
        ("convit_tiny.x_in1k", "convit_base.x_in1k", "the name begins with the variant"),
        ("convit_tiny.x_in1k", "../convit_tiny", "a name is VARIANT.PUBLISHER_DATA"),
        ("crop: 0.875", "crop: 87.5", "is not a ratio up to 1 or squash"),
        ("mean: [0.5, 0.5, 0.5]", "mean: [0.5]", "is not three numbers"),
        ("weights:", "wieghts:", "the mappings presets and weights"),
    ],
)
def test_a_wrong_zoo_is_refused(tmp_path, old, new, rule):
    file = tmp_path / "zoo.yaml"
    file.write_text(SMALL)
    assert len(read_zoo(file)) == 1
    assert old in SMALL
    file.write_text(SMALL.replace(old, new))
    with pytest.raises(ConfigError) as error:
        read_zoo(file)
    assert rule in str(error.value)


def test_two_entries_of_one_name_are_refused(tmp_path):
    file = tmp_path / "zoo.yaml"
    file.write_text(ZOO + ZOO.partition("weights:\n")[2])
    with pytest.raises(ConfigError, match=r"convit_tiny\.fb_in1k: the key stands twice"):
        read_zoo(file)


def test_the_zoo_needs_no_paddle():
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
