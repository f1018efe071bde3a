from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.numpy import save_file

from passl.accelerate import accelerate
from passl.deploy.engines import as_engine
from passl.deploy.from_weights import load
from passl.errors import CheckpointError, ConfigError
from passl.modeling import Model
from passl.porting.weight_file import OURS
from tests.numerics import Rounded

NORMALIZE = {"name": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
CROP = {"name": "CenterCrop", "size": [32, 48]}
MODEL = {
    "architecture": {
        "name": "CvT",
        "embed_dim": [8, 12, 16],
        "depth": [1, 1, 1],
        "num_heads": [1, 2, 4],
    },
    "head": {"name": "ClsHead", "num_classes": 3, "in_channels": 16},
}


def config(*transforms: dict, train: tuple = (), **dataset) -> dict:
    val = {"name": "ImageFolder", "dataroot": "nowhere", **dataset, "transforms": list(transforms)}
    train_set = {"name": "ImageFolder", "dataroot": "nowhere", "transforms": list(train)}
    return {
        "model": MODEL,
        "dataloader": {"train": {"dataset": train_set}, "val": {"dataset": val}},
    }


def of_channels(in_chans: int) -> dict:
    return {**MODEL, "architecture": {**MODEL["architecture"], "in_chans": in_chans}}


@pytest.fixture
def weights(tmp_path):
    """Write the weights of the model with what the file shall tell."""

    def write(in_chans: int = 3, **told):
        paddle.seed(0)
        model = Model({"model": of_channels(in_chans)})
        arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        path = tmp_path / "w.safetensors"
        metadata = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in told.items()
        }
        save_file(arrays, path, {OURS: "0", **metadata})
        return path

    return write


def test_the_config_says_images_and_size(weights):
    model, described = load(weights(), config(CROP, NORMALIZE, exif_turn=True, min_side=64))
    assert described.transforms == [CROP, NORMALIZE]
    assert described.input == [3, 32, 48]
    assert described.exif_turn
    assert described.min_side == 64
    assert described.weights == "w.safetensors"
    assert described.parameters == sum(
        int(np.prod(p.shape)) for n, p in model.named_parameters() if "._" not in n
    )
    assert not model.training


def test_a_checkpoint_says_all_of_it(weights):
    path = weights(config=config(CROP, NORMALIZE), classes=["ape", "bee", "cow"])
    _, described = load(path)
    assert (described.input, described.classes) == ([3, 32, 48], ["ape", "bee", "cow"])
    _, other = load(path, config(NORMALIZE), size=(64, 64))  # what is given goes first
    assert other.input == [3, 64, 64]


@pytest.mark.parametrize(
    ("given", "size", "fixed"),
    [
        (
            config(NORMALIZE, train=({"name": "RandomResizedCrop", "size": 64}, NORMALIZE)),
            None,
            [64, 64],
        ),
        (config(NORMALIZE), (32, 64), [32, 64]),
        (config({"name": "Resize", "size": 40}, NORMALIZE), (32, 64), [32, 64]),
    ],
)
def test_a_size_that_the_transforms_do_not_fix(weights, given, size, fixed):
    _, described = load(weights(), given, size=size)
    assert described.transforms[0] == {"name": "Resize", "size": fixed}
    assert described.input[1:] == fixed


@pytest.mark.parametrize(
    ("given", "size", "message"),
    [
        (config(NORMALIZE), None, "set it by --size"),
        (config(CROP, NORMALIZE), (64, 64), "--size 64 64: the transforms make .* 32 48"),
        (config(CROP), None, "add Normalize"),
        (config(), None, "name a config by -c"),
        ({"model": MODEL}, None, "name a config by -c"),
        ({"dataloader": {}}, None, "needs a section `model`"),
    ],
)
def test_images_that_are_not_known(weights, given, size, message):
    with pytest.raises(ConfigError, match=message):
        load(weights(), given, size=size)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_the_mode_of_the_images(weights, mode, channels):
    given = config(CROP, {"name": "Normalize"}) | {"model": of_channels(channels)}
    path = weights(channels)
    assert load(path, given)[1].mode == mode  # as many channels as the network takes
    given["dataloader"]["val"]["dataset"] |= {"mode": mode, "background": None}
    described = load(path, given)[1]
    assert (described.mode, described.background) == (mode, None)
    assert described.input == [channels, 32, 48]


def test_the_background_of_the_images(weights):
    given = config(CROP, NORMALIZE, background=[255, 0, 9])
    assert load(weights(), given)[1].background == [255, 0, 9]


@pytest.mark.parametrize(
    ("channels", "dataset", "message"),
    [
        (
            1,
            {"mode": "RGB"},
            "in_chans of the network is 1, .* mode RGB is 3; set dataloader.val.dataset's mode",
        ),
        (3, {"mode": "L"}, "mean .* is for 3 channels"),
        (1, {}, "mean .* is for 3 channels"),
        (5, {}, "in_chans of the network is 5"),
        (3, {"mode": "HSV"}, "dataloader.val.dataset: mode 'HSV' is none of L, RGB, RGBA"),
        (4, {"background": [0, 0, 0]}, "dataloader.val.dataset: background: images of mode RGBA"),
    ],
)
def test_modes_that_do_not_fit(weights, channels, dataset, message):
    given = config(CROP, NORMALIZE, **dataset) | {"model": of_channels(channels)}
    with pytest.raises(ConfigError, match=message):
        load(weights(channels), given)


def test_classes_without_names_are_numbered(weights, caplog):
    _, described = load(weights(classes=["too", "few"]), config(CROP, NORMALIZE))
    assert described.classes == ["0", "1", "2"]
    assert "the names of the 3 classes are not known" in caplog.text


@pytest.fixture
def folders(tmp_path):
    """folders("ape", ...) -> a dataset with these classes."""

    def make(*names: str) -> dict:
        for name in names:
            (tmp_path / "data" / name).mkdir(parents=True)
            (tmp_path / "data" / name / "a.png").touch()  # is not opened
        (tmp_path / "names").write_text("".join(f"{name}\n" for name in names))
        return {"dataroot": str(tmp_path / "data"), "class_file": str(tmp_path / "names")}

    return make


def test_classes_of_a_checkpoint_beside_a_config(weights, folders):
    """The order is that of the weights; other classes are refused, if somebody names the config."""
    path = weights(classes=["ape", "bee", "cow"])
    given = config(CROP, NORMALIZE, **folders("cow", "ape", "bee"))
    assert load(path, given)[1].classes == ["ape", "bee", "cow"]
    told = weights(classes=["ape", "bee", "dog"], config=given)
    with pytest.raises(ConfigError, match=r"only the weights know dog; only the data has cow.*-c"):
        load(told, given)
    assert load(told)[1].classes == ["ape", "bee", "dog"]


def test_class_names_are_preferred_to_numbers(weights, folders):
    given = config(CROP, NORMALIZE, **folders("ape", "bee", "cow"))
    assert load(weights(classes=["0", "1", "2"]), given)[1].classes == ["ape", "bee", "cow"]
    given = config(CROP, NORMALIZE)
    assert load(weights(classes=["0", "1", "2"]), given)[1].classes == ["0", "1", "2"]


def test_classes_of_the_data(weights, tmp_path):
    for name in ("ape", "bee", "cow"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "a.png").touch()  # is not opened
    given = config(CROP, NORMALIZE, dataroot=str(tmp_path / "val"))
    assert load(weights(), given)[1].classes == ["ape", "bee", "cow"]


def test_a_damaged_config(weights):
    with pytest.raises(CheckpointError, match="damaged: its config is not a mapping"):
        load(weights(config="{"))


def test_an_engine_computes_what_the_layer_does():
    layer = paddle.nn.Linear(2, 2)
    images = np.array([[1.0, 2.0]], np.float32)
    expected = Rounded(images) @ layer.weight.numpy() + layer.bias.numpy()
    expected.check(as_engine(layer)(images))


def test_engines_of_layers_in_threads():
    """All layers with convolutions of one geometry share the graphs of `accelerate`."""
    paddle.seed(0)
    layers = [accelerate(nn.Sequential(nn.Conv2D(4, 4, 3, groups=4))) for _ in range(2)]
    images = np.random.default_rng(0).standard_normal((2, 4, 16, 16)).astype("float32")
    engines = [as_engine(layer) for layer in layers]
    expected = [engine(images) for engine in engines]

    def check(index: int) -> None:
        for _ in range(100):
            np.testing.assert_array_equal(engines[index](images), expected[index])

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(check, index) for index in (0, 1, 0, 1)]:
            done.result()
