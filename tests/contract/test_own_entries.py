"""Entries that a user writes to the registries' docstrings, and to nothing else, work: they are
checked, trained, resumed, evaluated and exported as ours are.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from PIL import Image

from passl.analysis.first_look import first_look
from passl.data import DATASETS, TRANSFORMS
from passl.data.datasets.base import ImageDataset
from passl.deploy import Predictor
from passl.deploy.export import export
from passl.deploy.from_weights import load
from passl.engine.check import check_config
from passl.engine.train import train
from passl.errors import ConfigError
from passl.modeling import LOSSES, Model
from passl.modeling.backbones import BACKBONES
from passl.modeling.heads import HEADS
from passl.optim import CLIPS, OPTIMIZERS, SCHEDULES
from passl.utils.config import get_config
from passl.utils.yaml import to_yaml

REGISTRIES = (BACKBONES, HEADS, DATASETS, TRANSFORMS, LOSSES, OPTIMIZERS, CLIPS, SCHEDULES)


class Patches(nn.Layer):
    def __init__(self, *, embed_dim: int = 3):
        """What embed_dim is here, is the entry's own matter: half the width."""
        super().__init__()
        self.num_features, self.num_layers = 2 * embed_dim, 1
        self.feature_channels, self.feature_strides = [self.num_features], [4]
        self.recompute = False
        self.conv = nn.Conv2D(3, self.num_features, 4, 4)
        self.norm = nn.LayerNorm(self.num_features)

    def forward(self, images):
        return self.norm(self.forward_features(images)[-1].mean([2, 3]))

    def forward_features(self, images, out_indices=None):
        return [self.conv(images) for _ in (out_indices or [-1])]

    def no_weight_decay(self):
        return set()

    def layer_index(self, name):
        return 1 if name.startswith("norm") else 0


class TwoLinear(nn.Layer):
    def __init__(self, *, num_classes: int, in_channels: int, hidden: int = 4):
        super().__init__()
        self.first, self.second = nn.Linear(in_channels, hidden), nn.Linear(hidden, num_classes)

    def forward(self, features):
        return self.second(F.relu(self.first(features)))


class Stripes(ImageDataset):
    def __init__(self, *, count: int):
        self.classes = ["columns", "rows"]
        self.labels = np.arange(count, dtype=np.int64) % 2

    def load_image(self, index):
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[
            (slice(None, None, 2),) if self.labels[index] else (slice(None), slice(0, None, 2))
        ] = 255
        return Image.fromarray(pixels)

    def name(self, index):
        return f"stripes {index}"


class Roll:
    def __init__(self, *, most: int = 2):
        self.most = most

    def __call__(self, image, rng):
        return Image.fromarray(np.roll(np.asarray(image), int(rng.integers(self.most)), 0))


class Noise:
    on_arrays = True

    def __init__(self, *, std: float):
        self.std = std

    def __call__(self, array, rng):
        return array + rng.normal(0, self.std, array.shape).astype("float32")


class Squared:
    def __init__(self, *, weight: float = 1.0):
        self.weight = weight

    def __call__(self, logits, targets):
        assert logits.dtype == paddle.float32
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits.shape[-1])
        return self.weight * (logits - targets).square().sum(-1).mean()


def Plain(parameters, decays, clip, *, slow: float = 1.0):
    for parameter in parameters:
        parameter.optimize_attr["learning_rate"] *= slow if decays(parameter.name) else 1.0
    return paddle.optimizer.SGD(0.0, parameters=parameters, grad_clip=clip)


def half(model, *, norm: float = 0.5):
    return nn.ClipGradByGlobalNorm(norm)


class Saw:
    def __init__(self, lr, steps_per_epoch, epochs, *, low: float = 0.5):
        self.lr, self.low = lr, low

    def __call__(self, step):
        return self.lr if step % 2 == 0 else self.lr * self.low


@pytest.fixture
def own(monkeypatch, tmp_path):
    """A config of nothing but entries of a user's own; they are forgotten after the test."""
    for registry in REGISTRIES:
        registry.names()  # which imports our own entries, and so keeps them
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    entries = (Patches, TwoLinear, Stripes, Roll, Squared, Plain, half, Saw)
    for registry, entry in zip(REGISTRIES, entries, strict=True):
        registry.register(entry)
    TRANSFORMS.register(Noise)

    transforms = [{"name": "Roll"}, {"name": "Normalize"}, {"name": "Noise", "std": 0.1}]
    dataset = {"name": "Stripes", "count": 32, "transforms": transforms}
    config = {
        "epochs": 1,
        "output_dir": str(tmp_path / "run"),
        "model": {
            "architecture": {"name": "Patches"},
            "head": {"name": "TwoLinear"},
        },
        "dataloader": {
            "train": {
                "dataset": dataset,
                "sampler": {"batch_size": 8, "shuffle": True},
                "mixup": {"prob": 0.5},
            },
            "val": {"dataset": dataset, "sampler": {"batch_size": 8}},
        },
        "loss": {"name": "Squared"},
        "lr_scheduler": {"name": "Saw"},
        "optimizer": {"name": "Plain", "lr": 0.1, "grad_clip": {"name": "half"}},
        "log_config": {"interval": 1},
    }
    path = tmp_path / "own.yaml"
    path.write_text(to_yaml(config))
    return path


def test_a_network_of_ones_own(own):
    with pytest.raises(ConfigError, match="num_classes is missing"):
        Model(own)
    model = Model(own, classes=["a", "b"])
    assert model(paddle.zeros([2, 3, 16, 16])).shape == [2, 2]
    assert model.num_classes == 2


def test_from_the_check_to_a_prediction(own, tmp_path):
    more = ["optimizer.layer_decay=0.9", "accumulate=2", "recompute=true", "ema.decay=0.5"]
    cfg = get_config(own, [*more, "amp={level: O1, dtype: bfloat16}"])
    check_config(cfg)
    first_look(cfg, tmp_path / "look.png")
    assert train(cfg).step == 4
    assert train(get_config(own, ["epochs=2"]), "auto").step == 8
    stored = get_config(tmp_path / "run" / "config.yaml").model.head
    assert dict(stored) == {"name": "TwoLinear", "in_channels": 6, "num_classes": 2}
    model, description = load(tmp_path / "run" / "last.safetensors", size=(16, 16))
    assert description.classes == ["columns", "rows"]
    export(model, description, tmp_path / "exported")
    predicted = Predictor(tmp_path / "exported").predict([Stripes(count=2).load_image(0)])
    assert predicted.shape == (1, 2)


def test_a_width_that_does_not_fit(own):
    cfg = get_config(own, ["model.head.in_channels=5"])
    check_config(cfg)  # how wide a backbone of one's own is, is known when it is built
    with pytest.raises(ConfigError, match="in_channels 5 is not the backbone's width; set it to 6"):
        Model(cfg, classes=["a", "b"])


def test_null_is_a_value_but_for_derived_options(own):
    left_out = ["model.head.in_channels=null", "model.head.num_classes=null"]
    assert Model(get_config(own, left_out), classes=["a", "b"]).num_classes == 2
    with pytest.raises(ConfigError, match="hidden: must be a whole number, not null"):
        Model(get_config(own, ["model.head.hidden=null"]), classes=["a", "b"])


def test_wrong_options_are_found_by_the_check(own):
    wrong = ["model.head.hiden=3", "optimizer.slow=x", "dataloader.val.dataset.count=a lot"]
    with pytest.raises(ConfigError) as caught:
        check_config(get_config(own, wrong))
    assert len(caught.value.problems) == 3
    assert "did you mean 'hidden'" in str(caught.value)
