"""A file's network is recognised from its weights alone, and which images belong to published
ones is known.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import passl
from passl.data import TRANSFORMS
from passl.deploy.convert import describe, variant_of
from passl.evaluation.preset import transforms_of
from passl.modeling.classifier import model_configs
from passl.porting.names import SOURCES
from passl.porting.weight_file import WeightFile, architecture_of
from passl.porting.zoo import OWN, entries
from passl.utils.config import get_config

SMALL_ENOUGH = ["convit_tiny", "convit_tiny_plus", "convit_small", "cvt_13_224", "cvt_21_224"]


@pytest.mark.parametrize("name", SMALL_ENOUGH)
def test_variant_from_the_weights_alone(name, tmp_path):
    state = {key: tensor.numpy() for key, tensor in passl.create_model(name).state_dict().items()}
    file = WeightFile(tmp_path / "x.safetensors", state, None, {}, {})
    architecture, head = architecture_of(file)
    assert variant_of(architecture) == name
    assert head["num_classes"] == 1000


def test_every_variant_is_recognised():
    for name, path in model_configs().items():
        architecture = get_config(path).model.architecture
        expected = name.replace("13_384", "13_224").replace("21_384", "21_224")  # one network each
        assert variant_of(architecture) == expected
    assert variant_of({"name": "ConViT", "embed_dim": 100, "depth": 12}) is None


def test_what_belongs_to_the_weights(tmp_path):
    mindcv = next(source for source in SOURCES if source.name == "mindcv")
    file = WeightFile(tmp_path / "x.ckpt", {}, mindcv, {}, {})
    architecture = get_config("convit/convit_base.yaml").model.architecture
    line = describe(file, architecture)
    assert line == "convit_base, weights of mindcv; act gelu_tanh; norm_eps 1e-07"


def test_presets_are_transforms():
    """MindCV's crop ratios and microsoft's squash, as sizes: 224 / 0.93 is 240, 224 / 0.875 is
    256.
    """
    resize = {entry.name: transforms_of(entry.preset)[0]["size"] for entry in entries()}
    assert resize["convit_tiny.mindcv_in1k"] == 256
    assert resize["convit_base.mindcv_in1k"] == 240
    assert any(size == [384, 384] for size in resize.values())
    for entry in entries():
        channels = len(entry.preset.mean)
        result = Image.new("RGB" if channels == 3 else "L", (400, 300))
        for node in transforms_of(entry.preset):
            result = TRANSFORMS.build(node)(result, np.random.default_rng(0))
        assert result.shape == (channels, entry.preset.size, entry.preset.size)


def test_defaults_of_the_zoo_have_the_numerics_of_their_source():
    by_name = {source.name: source for source in SOURCES}
    for entry in [entry for entry in entries() if entry.default and entry.source != OWN]:
        source = by_name[{"facebookresearch": "timm"}.get(entry.source, entry.source)]
        assert dict(entry.numerics) == dict(source.numerics)
