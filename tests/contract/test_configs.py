"""Every config that is shipped loads, builds, and is what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import paddle.nn as nn
import pytest

import passl
from passl.engine.check import check_config
from passl.errors import ConfigError
from passl.modeling import Model
from passl.modeling.backbones import build_backbone
from passl.modeling.heads import build_head
from passl.porting.zoo import OWN, entries
from passl.utils.config import get_config, shipped_configs
from passl.utils.yaml import parse, to_yaml

CONFIGS = shipped_configs()
# Table 1.1 of each family, counted from the definitions; mindcv publishes the same for ConViT.
PARAMETERS = {
    "convit_tiny": 5_710_512,
    "convit_tiny_plus": 9_972_912,
    "convit_small": 27_777_322,
    "convit_small_plus": 48_979_882,
    "convit_base": 86_540_040,
    "convit_base_plus": 153_134_856,
    "cvt_13_224": 19_997_480,
    "cvt_13_384": 19_997_480,
    "cvt_21_224": 31_622_696,
    "cvt_21_384": 31_622_696,
    "cvt_w24_384": 277_196_392,
}
LARGE = 50_000_000
"""Networks of more parameters take too long to make; their parts are the same."""
PASSL = Path(__file__).parent / "passl"
DERIVED = [p for p in CONFIGS if p.parent.name in ("distilled", "finetune", "mindcv")]
SEGMENTATION = [p for p in CONFIGS if p.parent.name == "segmentation"]
OWN_NETWORKS = [p for p in CONFIGS if p not in [*DERIVED, *SEGMENTATION]]


class Snippet(nn.Layer):
    """The lines that people have in their code (the design's public face), kept as they are."""

    def __init__(self, cfg_file):
        super().__init__()
        cfg = get_config(cfg_file)
        self.backbone = build_backbone(cfg.model.architecture)
        self.head = build_head(cfg.model.head)

    def forward(self, x):
        return self.head(self.backbone(x))


def count(model: nn.Layer) -> int:
    return sum(int(np.prod(p.shape)) for p in model.parameters() if not p.stop_gradient)


def test_there_are_configs():
    assert {path.stem for path in CONFIGS} >= PARAMETERS.keys() | {"convit", "cvt"}


def test_names_are_unique():
    """What stands beside the published variants, in folders of its own, has names of its own."""
    stems = [path.stem for path in CONFIGS if path.parent.name not in ("digits", "fashion")]
    assert len(set(stems)) == len(stems)


@pytest.mark.parametrize(
    "path",
    [path for path in OWN_NETWORKS if PARAMETERS.get(path.stem, 0) < LARGE],
    ids=lambda path: path.stem,
)
def test_the_public_snippet_works(path):
    """At a small size; tests/unit/analysis/test_flops.py runs networks at theirs."""
    model = Snippet(path)
    channels = get_config(path).model.architecture.get("in_chans", 3)
    if path.stem in PARAMETERS:
        assert count(model) == PARAMETERS[path.stem]
    model.eval()
    with paddle.no_grad():
        logits = model(paddle.zeros([1, channels, 64, 64]))
    assert logits.shape == [1, get_config(path).model.head.num_classes]


@pytest.mark.parametrize("name", [name for name, count in PARAMETERS.items() if count >= LARGE])
def test_parameters_of_large_networks(name):
    """Their weights are not drawn, which takes seconds. (Local initialisation would need them.)"""
    (path,) = (path for path in OWN_NETWORKS if path.stem == name)
    local = {"convit": ["model.architecture.locality_strength=null"], "cvt": []}
    with paddle.LazyGuard():
        model = Model(get_config(path, local[path.parent.name]))
    assert count(model) == PARAMETERS[name]


@pytest.mark.parametrize("path", DERIVED, ids=lambda path: path.stem)
def test_other_recipes_use_published_networks(path):
    """But for the classes, the size that the position embedding is made for, and the numerics."""

    def shape(file: Path) -> tuple:
        model = get_config(file).to_dict()["model"]
        for key in ("img_size", "act", "norm_eps"):
            model["architecture"].pop(key, None)
        return model["architecture"], model["head"]["name"], model["head"]["in_channels"]

    assert shape(path) in [shape(file) for file in OWN_NETWORKS if file.stem in PARAMETERS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_valid_except_for_missing_data(path, tmp_path, monkeypatch):
    """All that the check can find without the data: that it is missing, and nothing else. CIFAR is
    downloaded when a run begins.
    """
    monkeypatch.chdir(tmp_path)  # where there is no data
    cfg = get_config(path)
    if cfg.dataloader.train.dataset.name not in ("ImageFolder", "MaskFolder"):
        check_config(cfg)
        return
    if cfg.dataloader.train.dataset.name == "MaskFolder":
        with pytest.raises(ConfigError, match="images/training: the folder cannot be listed"):
            check_config(cfg)
        return
    with pytest.raises(ConfigError) as caught:
        check_config(cfg)
    assert [problem.split(": ", 1)[1].split(":")[0] for problem in caught.value.problems] == [
        "dataloader.train.dataset.dataroot",
        "dataloader.val.dataset.dataroot",
    ]
    assert all("does not exist" in problem for problem in caught.value.problems)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_missing_cifar_without_download_is_an_error(name, tmp_path):
    path = next(path for path in CONFIGS if path.stem == f"convit_tiny_{name.lower()}")
    overrides = [f"dataloader.{part}.dataset.download=false" for part in ("train", "val")]
    overrides += [f"dataloader.{part}.dataset.dataroot={tmp_path}" for part in ("train", "val")]
    with pytest.raises(ConfigError) as caught:
        check_config(get_config(path, overrides))
    assert len(caught.value.problems) == 2
    assert all("download: true" in problem for problem in caught.value.problems)


@pytest.mark.parametrize("name", ["convit", "cvt"])
def test_networks_whose_weights_ship_are_small(name):
    """Below 2 MB in float16."""
    assert count(Model(f"configs/fashion/{name}.yaml")) < 1_000_000


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_resolved_config_reads_back(path, tmp_path):
    cfg = get_config(path)
    assert cfg.seed == 0
    assert cfg.device == "auto"
    assert parse(to_yaml(cfg.to_dict()), "resolved")[0] == cfg.to_dict()


@pytest.mark.parametrize("name", sorted(path.name for path in PASSL.glob("*.yaml")))
def test_model_sections_of_passl_build_unchanged(name):
    """The `model:` sections of PASSL v1.1's configs/cvt, as published there."""
    expected = PARAMETERS[name.removesuffix(".yaml")]
    with paddle.LazyGuard():  # the weights are not drawn
        assert count(Snippet(PASSL / name)) == expected
        assert count(Model(PASSL / name)) == expected


def test_all_five_of_passl_are_there():
    assert len(list(PASSL.glob("*.yaml"))) == 5


def test_list_models_and_create_model():
    own = {entry.model for entry in entries() if entry.source == OWN}
    assert set(passl.list_models()) == PARAMETERS.keys() | own
    model = passl.create_model("convit_tiny", pretrained=False, num_classes=10)
    assert model.head.num_classes == 10
    assert count(model) == PARAMETERS["convit_tiny"] - 990 * 193
    with pytest.raises(ConfigError, match="did you mean 'convit_tiny'"):
        passl.create_model("convit_tinny")


@pytest.mark.parametrize(("name", "width"), [("convit_tiny", 192), ("cvt_13_224", 384)])
def test_state_dict_keys_are_the_authors(name, width):
    """Names that people's weight files and code rely on; the golden tests hold all of them against
    the files.
    """
    keys = passl.create_model(name).state_dict().keys()
    anchors = {
        "convit_tiny": [
            "backbone.cls_token",
            "backbone.pos_embed",
            "backbone.blocks.9.attn.gating_param",
        ],
        "cvt_13_224": [
            "backbone.stage2.cls_token",
            "backbone.stage2.blocks.9.attn.conv_proj_q.bn._mean",
        ],
    }
    assert keys >= {*anchors[name], "head.fc_cls.weight", "head.fc_cls.bias"}


def test_create_model_from_a_mapping_does_not_change_it():
    cfg = {
        "model": {
            "architecture": {
                "name": "CvT",
                "embed_dim": [8, 8, 8],
                "depth": [1, 1, 1],
                "num_heads": [1, 1, 1],
            },
            "head": {"name": "ClsHead", "num_classes": 3, "in_channels": 8},
        }
    }
    before = json.dumps(cfg)
    Model(cfg)
    assert json.dumps(cfg) == before
