"""Names of classes: in words, compared, and the classifier that is put into their order."""

from __future__ import annotations

import json
import re

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from passl.deploy.convert import plan_conversion, write_converted
from passl.errors import CheckpointError, ConfigError
from passl.modeling import Model
from passl.modeling.heads import HEADS
from passl.porting import load_weights, read_file
from passl.porting.classes import are_named, imagenet_classes, order_in, readable
from passl.porting.weight_file import OURS, pack_classes

ABC = ["ape", "bee", "cow"]
CAB = ["cow", "ape", "bee"]


def test_imagenet_classes():
    classes = imagenet_classes()
    assert len(classes) == 1000
    assert all(re.fullmatch(r"n[0-9]{8}", synset) for synset in classes)
    assert list(classes) == sorted(classes)  # the order of ILSVRC 2012's labels
    words = list(classes.values())
    assert all(word == word.strip() and word for word in words)
    known = {
        0: "tench",
        207: "golden retriever",
        281: "tabby",
        388: "giant panda",
        805: "soccer ball",
    }
    for label, name in {**known, 805: "soccer ball", 999: "toilet tissue"}.items():
        assert words[label].split(",")[0] == name
    assert (words[134], words[517]) == ("crane", "crane")  # bird and machine


def test_readable():
    names = ["n02099601", "cat", "n00000000"]
    assert readable(names) == ["golden retriever", "cat", "n00000000"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, False),
        ([], False),
        (["0", "1", "2"], False),
        (["0", "1", "10", "2"], True),  # folders of these names, sorted
        (["1", "0"], True),
        (["zero", "one"], True),
    ],
)
def test_numbers_in_order_are_not_names(names, expected):
    assert are_named(names) == expected


SYNSETS = list(imagenet_classes())
WORDS = list(imagenet_classes().values())


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        (ABC, ABC, None),
        (ABC, CAB, [2, 0, 1]),
        (SYNSETS, WORDS, None),
        (WORDS, SYNSETS, None),
        (SYNSETS, [name.partition(",")[0].upper() for name in WORDS], None),
        (SYNSETS, [name.partition(",")[0].replace(" ", "_") for name in WORDS], None),
        (SYNSETS[:100], WORDS[99::-1], list(range(99, -1, -1))),
        (WORDS[:100], SYNSETS[99::-1], list(range(99, -1, -1))),
        (SYNSETS, SYNSETS[::-1], list(range(999, -1, -1))),
    ],
)
def test_the_same_classes(theirs, ours, expected):
    assert order_in(theirs, ours) == expected


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (ABC, ["ape", "bee", "dog"], "only the weights know cow; only the data has dog"),
        (ABC, ["Ape", "bee", "cow"], "only the weights know ape; only the data has Ape"),
        (SYNSETS, ["ape", *WORDS[1:]], "only the weights know n01440764"),
        (SYNSETS, WORDS[::-1], "n01440764"),  # which of the two cranes is which?
        ([f"a{n}" for n in range(9)], [f"b{n}" for n in range(9)], "a4 and 4 more; only"),
    ],
)
def test_other_classes(theirs, ours, message):
    with pytest.raises(ValueError, match=message):
        order_in(theirs, ours)


# --------------------------------------------------------------------------------------------------
# Weights into a model
# --------------------------------------------------------------------------------------------------
def config(**head) -> dict:
    architecture = {"name": "CvT", "embed_dim": [8, 12, 16], "depth": [1, 1, 1]}
    architecture["num_heads"] = [1, 2, 4]
    section = {"name": "ClsHead", "num_classes": 3, "in_channels": 16, **head}
    return {"model": {"architecture": architecture, "head": section}}


@pytest.fixture
def write(tmp_path):
    """write(model, classes) -> the file of its weights, which names the classes; of version 0.1
    with `old=True`.
    """

    def call(model, classes=None, old=False):
        arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        metadata = {OURS: "0"} | ({"classes": json.dumps(classes)} if old else {})
        if classes is not None and not old:
            arrays |= pack_classes(classes)
        save_file(arrays, tmp_path / "w.safetensors", metadata)
        return tmp_path / "w.safetensors"

    return call


def outputs(model) -> np.ndarray:
    model.eval()
    rng = np.random.default_rng(0)
    return model(paddle.to_tensor(rng.normal(size=(2, 3, 32, 32)).astype("float32"))).numpy()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("fit", [(), ("classes",)])
@pytest.mark.parametrize("head", [{}, {"act": "gelu"}])
def test_classifier_is_put_into_the_order_of_the_data(write, old, fit, head):
    model = Model(config(**head))
    path = write(model, ABC, old)
    found = outputs(Model(config(**head), path, fit, CAB))
    np.testing.assert_array_equal(found, outputs(model)[:, [2, 0, 1]])
    again = Model(config(**head), classes=CAB)
    load_weights(again, path, fit)
    np.testing.assert_array_equal(outputs(again), found)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(None, ABC), (ABC, None), (["0", "1", "2"], ABC), (ABC, ["0", "1", "2"]), (ABC, ABC)],
)
def test_classes_without_names_are_not_compared(write, theirs, ours):
    model = Model(config())
    found = Model(config(), write(model, theirs), classes=ours)
    np.testing.assert_array_equal(outputs(found), outputs(model))


def test_other_classes_are_refused(write):
    path = write(Model(config()), ABC)
    model = Model(config(), classes=["ape", "bee", "dog"])
    before = outputs(model)
    with pytest.raises(ConfigError, match=r"only the data has dog.*class_file.*fit: \[classes\]"):
        load_weights(model, path)
    np.testing.assert_array_equal(outputs(model), before)


def test_classifier_of_other_classes_can_be_left_out(write):
    """Of as many; the rest of the network is the file's."""
    trained, model = Model(config()), Model(config(), classes=["ape", "bee", "dog"])
    fresh = {name: t.numpy() for name, t in model.state_dict().items()}
    load_weights(model, write(trained, ABC), ["classes"])
    for name, tensor in model.state_dict().items():
        expected = fresh[name] if name.startswith("head.") else trained.state_dict()[name].numpy()
        np.testing.assert_array_equal(tensor.numpy(), expected, name)


def test_unknown_head_is_not_reordered(write, monkeypatch):
    class Scaled(HEADS.get("ClsHead")):
        def __init__(self, *, num_classes: int, in_channels: int):
            super().__init__(num_classes=num_classes, in_channels=in_channels)
            self.scale = self.create_parameter([num_classes])

    monkeypatch.setitem(HEADS._registered, "Scaled", Scaled)
    path = write(Model(config(name="Scaled")), ABC)
    with pytest.raises(ConfigError, match="another order.*head.scale.*class_file"):
        Model(config(name="Scaled"), path, classes=CAB)


def test_very_many_class_names(write):
    """More than the header of a file may hold."""
    names = [f"class {number} of a very long list, größe" for number in range(250_000)]
    assert read_file(write(Model(config()), names)).classes == names


@pytest.mark.parametrize(
    "damage",
    [
        np.frombuffer(b'["a", 1]', np.uint8),
        np.frombuffer(b'{"a": "b"}', np.uint8),
        np.frombuffer(b'["a"', np.uint8),
        np.frombuffer(b"\xff\xfe\xff", np.uint8),
        np.frombuffer(b"[" * 100_000, np.uint8),
        np.zeros(3, np.float32),
    ],
)
def test_damaged_class_names(tmp_path, damage):
    model = Model(config())
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    path = tmp_path / "w.safetensors"
    save_file(arrays | {"names/classes": damage}, path, {OURS: "0"})
    with pytest.raises(CheckpointError, match="w.safetensors: damaged.*class names"):
        read_file(path)


def test_class_names_that_are_not_utf8(write):
    """Of folders whose names are not UTF-8."""
    names = ["a", "b\udcff", "c"]
    assert read_file(write(Model(config()), names)).classes == names


def test_converted_checkpoint_keeps_its_class_names(write, tmp_path):
    file = read_file(write(Model(config()), ABC))
    section = config()["model"]
    plan = plan_conversion(file, section["architecture"], section["head"])
    write_converted(file, plan, section["architecture"], tmp_path / "converted.safetensors")
    assert read_file(tmp_path / "converted.safetensors").classes == ABC
