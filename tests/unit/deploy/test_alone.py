"""An exported folder in an environment with NumPy, Pillow and an engine only."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from passl.data import TRANSFORMS
from passl.data.transforms.evaluation import FUNCTIONS, transformed
from passl.deploy.exported import Description, write_description
from passl.deploy.preprocess import Preprocessing

NODES = [
    {"name": "Resize", "size": 20, "interpolation": "bilinear"},
    {"name": "CenterCrop", "size": [16, 12]},
    {"name": "Normalize"},
]
ALONE = """
import sys, types

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {"numpy", "PIL", "passl", *sys.stdlib_module_names}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())

class Session:
    def __init__(self, *_, **__): pass
    def get_inputs(self): return [types.SimpleNamespace(name="images")]
    def run(self, _, given): return [given["images"].mean((2, 3))]

options = lambda: types.SimpleNamespace(add_session_config_entry=lambda *_: None)
sys.modules["onnxruntime"] = types.SimpleNamespace(SessionOptions=options, InferenceSession=Session)

from passl.deploy import Predictor

predictor = Predictor(sys.argv[1], engine="onnxruntime", threads=1)
sys.stdout.write(predictor.prepare(sys.argv[2]).tobytes().hex() + " ")
sys.stdout.write(predictor.top([sys.argv[2]], k=1)[0][0].name)
"""


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (31, 47, 3), np.uint8)
    pixels[..., 1] |= 192  # mostly green
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_without_other_packages(tmp_path, root, image):
    """Preprocessing is bit-equal to that of the registered transforms."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model.onnx").touch()
    classes = ["red", "green", "blue"]
    write_description(
        folder, Description({}, NODES, [3, 16, 12], classes, {}, 1, "drawn", exif_turn=False)
    )
    command = [sys.executable, "-c", ALONE, str(folder), str(image)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    prepared, name = done.stdout.split()
    expected = transformed(Image.open(image), [TRANSFORMS.build(node) for node in NODES])
    assert bytes.fromhex(prepared) == expected.tobytes()
    assert name == "green"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_options_of_the_transforms(name):
    parameters = list(inspect.signature(FUNCTIONS[name]).parameters.values())[1:]
    options = TRANSFORMS.options(name)
    own = {p.name: p.default for p in parameters}
    assert own == {key: option.default for key, option in options.items()}


def test_another_transform_is_built_by_the_registry(image):
    nodes = [*NODES[:2], {"name": "RandomGrayscale", "p": 0.0}, NODES[2]]
    made = Preprocessing(nodes)(Image.open(image))
    assert made.shape == (3, 16, 12)
    np.testing.assert_array_equal(
        made, transformed(Image.open(image), [TRANSFORMS.build(node) for node in nodes])
    )
