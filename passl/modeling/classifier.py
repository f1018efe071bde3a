"""The finished model: a backbone and a head from one config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddle import nn

from passl.modeling.backbones import build_backbone
from passl.modeling.heads import build_head
from passl.porting import load_weights
from passl.utils.config import Config, closest, get_config, shipped_configs
from passl.utils.errors import ConfigError


class Model(nn.Layer):
    """A backbone and a head, images to logits.

    Args:
        cfg: a config file, or a mapping with a `model` section: `{architecture: {name: ...}, head:
            {name: ...}}`.
        pretrained: a weight file to load, strictly; False for fresh weights.

    Raises:
        ConfigError: the section is incomplete or wrong, or head and backbone do not fit.
        CheckpointError: the weights are another network's.
    """

    def __init__(self, cfg: str | Path | Mapping[str, Any], pretrained: bool | str | Path = False):
        super().__init__()
        config = cfg if isinstance(cfg, Mapping) else get_config(cfg)
        section = config.get("model")
        if not isinstance(section, Mapping) or not {"architecture", "head"} <= section.keys():
            raise ConfigError(
                "a config for Model needs a section `model` with `architecture` and `head`"
            )
        self.backbone = build_backbone(section["architecture"])
        self.head = build_head(section["head"])
        if self.head.in_channels != self.backbone.num_features:
            raise ConfigError(
                f"model.head.in_channels {self.head.in_channels} is not the backbone's width; set "
                f"it to {self.backbone.num_features}"
            )
        if pretrained is True:
            raise ConfigError(
                "pretrained=True: no published weights are listed yet; give the path of a weight "
                "file"
            )
        if pretrained:
            load_weights(self, pretrained)

    def forward(self, images):
        """Images [B, 3, height, width] -> logits [B, num_classes]."""
        return self.head(self.backbone(images))

    def no_weight_decay(self) -> set[str]:
        """The backbone's, by the names they have here."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}


def list_models() -> list[str]:
    """The names that `create_model` knows: the published variants."""
    return [path.stem for path in shipped_configs() if path.parent.name in ("convit", "cvt")]


def create_model(
    name: str, pretrained: bool | str | Path = False, num_classes: int | None = None
) -> Model:
    """A published variant by name.

    Args:
        name: one of `list_models()`.
        pretrained: a weight file to load, strictly; False for fresh weights.
        num_classes: another number of classes than the published 1000.

    Raises:
        ConfigError: there is no such model.
    """
    if name not in list_models():
        raise ConfigError(f"there is no model {name!r}{closest(name, list_models())}")
    path = next(path for path in shipped_configs() if path.stem == name)
    cfg = get_config(path, [] if num_classes is None else [f"model.head.num_classes={num_classes}"])
    return Model(Config({"model": cfg.model}), pretrained)
