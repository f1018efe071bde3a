"""Weights that are part of the package, with a zoo of one small network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import passl
from passl.data.build import build_dataset
from passl.deploy.from_weights import load, stored_model
from passl.errors import CheckpointError
from passl.io.files import sha256_of
from passl.modeling import Model
from passl.porting import resolve, zoo
from passl.porting.load import set_weights
from passl.porting.weight_file import OURS, pack_classes, read_file
from passl.utils.config import get_config

CONFIG = "digits/cvt"
CLASSES = [f"digit {label}" for label in range(10)]
ENTRY = """
presets:
  digits:
    size: 32
    crop: 1.0
    interpolation: bicubic
    mean: [0.5, 0.5, 0.5]
    std: [0.5, 0.5, 0.5]
weights:
  small_cvt.digits:
    model: small_cvt
    config: digits/cvt
    source: own
    url: null
    file: small_cvt.safetensors
    sha256: {sha256}
    licence: Apache-2.0
    preset: digits
    verified: true
    default: true
"""


@pytest.fixture
def trained(tmp_path) -> Path:
    """The weights of a run, in the format of a checkpoint."""
    paddle.seed(0)
    config = get_config(CONFIG).to_dict()
    state = Model(config).state_dict()
    arrays = {name: np.array(tensor.numpy()) for name, tensor in state.items()}
    path = tmp_path / "last.safetensors"
    metadata = {OURS: passl.__version__, "config": json.dumps(config)}
    save_file(arrays | pack_classes(CLASSES), path, metadata)
    return path


@pytest.fixture
def packaged(trained, tmp_path, monkeypatch, call) -> Path:
    """The same weights as a file of the package: halved by `passl convert`, listed in the zoo. No
    download and no cache can be used.
    """
    folder = tmp_path / "weights"
    folder.mkdir()
    path = folder / "small_cvt.safetensors"
    code, _, err = call("convert", trained, path, "--float16")
    assert (code, err) == (0, "")
    listed = tmp_path / "zoo.yaml"
    listed.write_text(ENTRY.format(sha256=sha256_of(path)))
    monkeypatch.setattr(zoo, "FILE", listed)
    monkeypatch.setattr(resolve, "PACKAGED", folder)
    monkeypatch.setenv("PASSL_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setattr(resolve, "fetch_file", None)
    zoo.entries.cache_clear()
    yield path
    zoo.entries.cache_clear()


def test_float16_is_half_the_size_and_the_nearest_numbers(trained, packaged):
    assert packaged.stat().st_size < 0.52 * trained.stat().st_size
    with safe_open(trained, framework="np") as exact, safe_open(packaged, framework="np") as half:
        weights = [name for name in exact.keys() if not name.startswith("names/")]  # noqa: SIM118
        assert set(half.keys()) == set(exact.keys())
        for name in weights:
            rounded = exact.get_tensor(name).astype(np.float16)
            np.testing.assert_array_equal(half.get_tensor(name), rounded)


def test_create_model_from_packaged_weights(packaged, trained):
    assert "small_cvt" in passl.list_models()
    model = passl.create_model("small_cvt", pretrained=True)
    theirs = passl.create_model("small_cvt", pretrained=trained)
    for name, tensor in theirs.state_dict().items():
        expected = tensor.numpy().astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), expected)
    # The config says the same by `pretrained: true`, and other arguments fit the weights.
    again = Model(get_config(CONFIG), pretrained=True)
    np.testing.assert_array_equal(
        again.head.fc_cls.weight.numpy(), model.head.fc_cls.weight.numpy()
    )
    assert passl.create_model("small_cvt", pretrained=True, num_classes=3).head.num_classes == 3


def test_description_of_packaged_weights(packaged):
    """Classes come from the file, transforms from the zoo's preset or the shipped config."""
    model, description = load("small_cvt")
    # Nor do the weights tell the number of heads.
    assert [s.blocks[0].attn.num_heads for s in model.backbone.stages] == [1, 2, 4]
    assert description.classes == CLASSES
    assert description.input == [3, 32, 32]
    assert (description.mode, description.weights) == ("RGB", "small_cvt")


def test_predict_by_name(packaged, call, tmp_path, monkeypatch):
    """`passl predict IMAGE --model NAME` needs no exported folder, and equals --weights FILE."""
    image = tmp_path / "digit.png"
    build_dataset({"name": "Digits", "split": "val"}).load_image(0).save(image)
    code, out, err = call("predict", image, "--model", "small_cvt", "--top-k", "2")
    assert (code, err) == (0, "")
    assert out.count("digit ") == 2
    assert call("predict", image, "--weights", packaged, "--top-k", "2")[1] == out
    # A drawing changes nothing of the text, and is not overwritten.
    drawing = tmp_path / "drawn.png"
    arguments = ("predict", image, "--model", "small_cvt", "--top-k", "2", "--draw", drawing)
    assert call(*arguments)[:2] == (0, out)
    assert drawing.read_bytes().startswith(b"\x89PNG")
    assert call(*arguments)[0] == 2
    assert call(*arguments[:-1], tmp_path / "drawn.jpg")[0] == 2
    # A folder of that name is what it meant before there were names.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small_cvt").mkdir()
    code, _, err = call("predict", image, "--model", "small_cvt")
    assert (code, "not an exported folder" in err) == (2, True)


def test_unknown_model_of_predict(call, tmp_path):
    code, _, err = call("predict", tmp_path / "a.png", "--model", tmp_path / "exportd")
    assert code == 2
    for word in ("exportd", "`passl models`", "`passl export`"):
        assert word in err


@pytest.mark.parametrize("change", ["damaged", "missing"])
def test_damaged_package_is_an_error(packaged, change):
    content = packaged.read_bytes()
    packaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    if change == "missing":
        packaged.unlink()
    with pytest.raises(CheckpointError) as caught:
        passl.create_model("small_cvt", pretrained=True)
    assert str(caught.value).startswith(f"{packaged}: ")
    assert "install passl again" in str(caught.value)


@pytest.mark.parametrize(
    "architecture",
    [
        {"name": "CvT", "embed_dim": [8, 16, 16], "depth": 1, "num_heads": 2},
        {"name": "ConViT", "embed_dim": 18, "depth": 2, "num_heads": 9, "local_up_to_layer": 1},
    ],
    ids=lambda node: node["name"],
)
def test_conversion_of_a_checkpoint_keeps_its_network(architecture, tmp_path, call):
    """Its config has what weights do not tell, and may leave out what has a default."""
    config = {
        "model": {"architecture": architecture, "head": {"name": "ClsHead", "num_classes": 3}}
    }
    model = Model(config)
    arrays = {name: np.array(tensor.numpy()) for name, tensor in model.state_dict().items()}
    path, out = tmp_path / "best.safetensors", tmp_path / "out.safetensors"
    save_file(arrays, path, {OURS: passl.__version__, "config": json.dumps(config)})
    code, _, err = call("convert", path, out)
    assert (code, err) == (0, "")
    section = stored_model(read_file(out))
    assert architecture.items() <= section["architecture"].items()
    again = Model({"model": section})
    set_weights(again, read_file(out).weights, str(out))


def test_float16_is_for_safetensors_of_this_package(trained, tmp_path, call):
    for arguments in (("w.pdparams",), ("w.safetensors", "--to", "microsoft")):
        out = tmp_path / arguments[0]
        code, _, err = call("convert", trained, out, *arguments[1:], "--float16")
        assert (code, "--float16" in err, out.exists()) == (2, True, False)


def test_weight_beyond_float16_is_an_error(trained, tmp_path, call):
    with safe_open(trained, framework="np") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    arrays["head.fc_cls.bias"] = np.full(10, 70_000, np.float32)
    large = tmp_path / "large.safetensors"
    save_file(arrays, large, metadata)
    out = tmp_path / "half.safetensors"
    code, _, err = call("convert", large, out, "--float16")
    assert (code, "head.fc_cls.bias" in err, out.exists()) == (1, True, False)
