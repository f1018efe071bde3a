from __future__ import annotations

import json

import pytest

from passl.deploy.exported import DESCRIPTION, Description, read_folder, write_description
from passl.errors import CheckpointError, ConfigError

DESCRIBED = Description(
    model={"architecture": {"name": "CvT"}, "head": {"name": "ClsHead"}},
    transforms=[{"name": "Resize", "size": [8, 8]}, {"name": "Normalize"}],
    input=[3, 8, 8],
    classes=["cat", "écureuil"],
    numerics={"norm_eps": 1e-7},
    parameters=12,
    weights="best.safetensors",
    exif_turn=False,
)


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.json").write_text("graph")
    (out / "model.pdiparams").write_bytes(b"weights")
    write_description(out, DESCRIBED)
    return out


def change(folder, **values) -> None:
    path = folder / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values))


def test_what_is_written_is_read(folder):
    assert read_folder(folder, ["model.json"]) == DESCRIBED


def test_mode_and_background_are_kept(folder):
    changes = {"mode": "L", "input": [1, 8, 8], "background": [255, 0, 9], "min_side": 9}
    grey = Description(**{**vars(DESCRIBED), **changes})
    (folder / DESCRIPTION).unlink()
    write_description(folder, grey)
    assert read_folder(folder) == grey


def test_hashes_are_sha256(folder):
    files = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["files"]
    # printf weights | sha256sum
    assert files["model.pdiparams"] == (
        "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    )


@pytest.mark.parametrize("name", ["model.json", "model.pdiparams"])
def test_a_changed_file(folder, name):
    (folder / name).write_bytes(b"other")
    with pytest.raises(CheckpointError, match=rf"{name}: not the file that was exported.*again"):
        read_folder(folder)


def test_a_missing_file(folder):
    (folder / "model.json").unlink()
    with pytest.raises(CheckpointError, match=r"model\.json: missing; export again"):
        read_folder(folder)


def test_another_format(folder):
    change(folder, format=2, passl="9.9")
    with pytest.raises(ConfigError, match=r"format 2, of passl 9\.9; this passl .* reads format 1"):
        read_folder(folder)


def test_no_exported_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"not an exported folder.*tools/export\.py"):
        read_folder(tmp_path)


def test_without_onnx(folder):
    with pytest.raises(ConfigError, match=r"has no model\.onnx; export again with --onnx"):
        read_folder(folder, ["model.onnx"])


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"passl": "0.1"}'])
def test_a_damaged_description(folder, text):
    (folder / DESCRIPTION).write_text(text)
    with pytest.raises(CheckpointError, match=r"passl\.json: damaged"):
        read_folder(folder)


@pytest.mark.parametrize(
    "wrong",
    [
        {"files": {"../model.json": "0"}},
        {"files": None},
        {"input": [3, 8]},
        {"task": "detection"},
        {"thresholds": [0.5]},
        {"thresholds": [0.5, 1.5]},
        {"input": [3, 8, -8]},
        {"input": [3, 8, True]},
        {"classes": [1, 2]},
        {"transforms": {"name": "Resize"}},
        {"exif_turn": "no"},
        {"mode": "HSV"},
        {"mode": ["L"]},
        {"min_side": 0},
    ],
)
def test_a_wrong_value(folder, wrong):
    change(folder, **wrong)
    (key,) = wrong
    with pytest.raises(CheckpointError, match=rf"damaged: {key} is missing or wrong"):
        read_folder(folder)


@pytest.mark.parametrize("background", [3, [0, 0], [0, 0, 256], "red", [0, 0, True]])
def test_a_wrong_background(folder, background):
    change(folder, background=background)
    with pytest.raises(CheckpointError, match="damaged: (mode|background) is missing or wrong"):
        read_folder(folder)


def test_a_folder_of_passl_0_1(folder):
    """It knows no mode: its images are RGB, and nothing lies behind them."""
    path = folder / DESCRIPTION
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["mode"], data["background"]
    path.write_text(json.dumps(data | {"passl": "0.1.0"}))
    assert read_folder(folder) == DESCRIBED


def test_an_unknown_transform(folder):
    change(folder, transforms=[{"name": "Resise", "size": 8}])
    with pytest.raises(ConfigError, match=r"no transform 'Resise'.*'Resize'"):
        read_folder(folder)


@pytest.mark.parametrize(
    "wrong",
    [
        [{"name": "Resize", "size": -8}, {"name": "Normalize"}],
        [{"name": "Resize", "size": "8"}, {"name": "Normalize"}],
        [{"name": "Resize", "size": [8, 8], "filter": "bicubic"}, {"name": "Normalize"}],
        [{"name": "Resize", "size": [8, 9]}, {"name": "Normalize"}],
        [{"name": "Resize", "size": [8, 8]}],
        [{"name": "Resize", "size": [8, 8]}, {"name": "Normalize", "std": [0, 0, 0]}],
        [{"name": "Resize", "size": [8, 8]}, {"name": "Normalize", "mean": [0.5]}],
    ],
)
def test_transforms_that_do_not_make_the_input(folder, wrong):
    change(folder, transforms=wrong)
    with pytest.raises(CheckpointError, match="damaged: transforms: .*export again"):
        read_folder(folder)


def test_a_file_that_is_not_used_may_be_left_out(folder):
    (folder / "model.json").unlink()
    assert read_folder(folder, ["model.pdiparams"]) == DESCRIBED
