"""The finished model: a backbone and a head from one config.

Shapes in names: B images of a batch, K classes, Y rows and X columns of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paddle import nn

from passl.errors import ConfigError
from passl.logging import get_logger
from passl.modeling.backbones import BACKBONES, build_backbone
from passl.modeling.heads import HEADS, build_head
from passl.modeling.layers import padded, resized, resolve_indices
from passl.porting import WeightFile, fetch_default, load_weights, locate, read_file
from passl.porting.zoo import entries
from passl.utils.config import CONFIG_ROOT, Config, closest, get_config, shipped_configs


class Model(nn.Layer):
    """A backbone and a head, images to logits.

    Args:
        cfg: a config file, or a mapping with a `model` section: `{architecture: {name: ...}, head:
            {name: ...}}`. The head's `in_channels` (and `strides`) may be left out: they are the
            backbone's. So may its `num_classes`, where `classes` are given.
        pretrained: weights to load: a file, an https address, a name of the model zoo, or a
            `WeightFile`; True for the zoo's weights of the variant that the config is named after;
            False for random weights. Numerics that the weights want (an activation, an epsilon) are
            set unless the config sets them.
        fit: differences that the weights may have; see `passl.porting.load_weights`.
        classes: class names in the order of the labels, to compare with those of the weights; null
            if they are unknown.

    Attributes:
        out_indices: the feature maps that the head takes; null for a head that takes none.
        derived: the head's options that may be left out of the config.

    Raises:
        ConfigError: the section is incomplete or wrong, head and backbone do not fit, or the
            weights are for other classes.
        RunError: the weights cannot be found or read, or are another network's.
    """

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any],
        pretrained: bool | str | Path | WeightFile = False,
        fit: Sequence[str] = (),
        classes: Sequence[str] | None = None,
    ):
        super().__init__()
        self.classes = None if classes is None else list(classes)
        config = cfg if isinstance(cfg, Mapping) else get_config(cfg)
        section = config.get("model")
        if not isinstance(section, Mapping) or not {"architecture", "head"} <= section.keys():
            raise ConfigError(
                "a config for Model needs a section `model` with `architecture` and `head`"
            )
        architecture = dict(section["architecture"])
        file = None
        self.numerics: dict[str, Any] = {}  # that the weights want; checkpoints store them
        if pretrained:
            file = _read(pretrained, config)
            architecture = _with_numerics(architecture, file)
            self.numerics = {key: architecture[key] for key in file.numerics}
        self.backbone = build_backbone(architecture)
        inputs, self.out_indices = _inputs_of(section["head"], self.backbone)
        head = _completed(section["head"], inputs)
        if head.get("num_classes") is None and classes is not None:
            head["num_classes"] = len(classes)
        if head.get("num_classes") is None:
            raise ConfigError(
                "model.head.num_classes is missing; only training and evaluation can derive it, "
                "from the dataset"
            )
        self.head = build_head(head)
        self.num_classes: int = head["num_classes"]
        self.derived = {**inputs, "num_classes": self.num_classes}
        if file is not None:
            load_weights(self, file, fit)

    def forward(self, images):
        """Images [B, 3, height, width] -> logits [B, num_classes], or for a head that takes maps
        [B, num_classes, height, width].
        """
        if self.out_indices is None:
            return self.head(self.backbone(images))
        height, width = images.shape[2:]
        images = padded(images, self.backbone.feature_strides[-1])
        maps = self.backbone.forward_features(images, self.out_indices)
        return resized(self.head(maps), images.shape[2:])[:, :, :height, :width]

    def no_weight_decay(self) -> set[str]:
        """The backbone's, with the names of this model."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}


class FeatureMaps(nn.Layer):
    """A backbone that returns feature maps, for dense tasks.

    Args:
        backbone: as the registry builds it.
        out_indices: of its feature maps; negative ones from the end; null for all.

    Attributes:
        feature_channels: channels of each map.
        feature_strides: pixels of the image between two neighbours of each map.

    Raises:
        ConfigError: there is no such map.
    """

    def __init__(self, backbone: nn.Layer, out_indices: Sequence[int] | None = None):
        super().__init__()
        count = len(backbone.feature_channels)
        indices = range(count) if out_indices is None else out_indices
        self.backbone = backbone
        self.out_indices = resolve_indices(indices, count, "feature map")
        self.feature_channels = [backbone.feature_channels[i] for i in self.out_indices]
        self.feature_strides = [backbone.feature_strides[i] for i in self.out_indices]

    def forward(self, images):
        """Images [B, in_chans, height, width] -> a list of maps [B, channels, height / stride,
        width / stride].
        """
        return self.backbone.forward_features(images, self.out_indices)


def list_models() -> list[str]:
    """The names that `create_model` knows: the published variants, and the networks whose trained
    weights are part of this package.
    """
    return list(model_configs())


def model_configs() -> dict[str, Path]:
    """The config file of each model, by the model's name."""
    own = {entry.model: f"{entry.config}.yaml" for entry in entries() if entry.config is not None}
    variants = [path for path in shipped_configs() if path.parent.name in ("convit", "cvt")]
    found = {path.stem: path for path in variants}
    return found | {name: CONFIG_ROOT / config for name, config in own.items()}


_OWN_OPTIONS = ("pretrained", "num_classes", "img_size", "in_chans", "features_only", "out_indices")


def create_model(
    name: str,
    pretrained: bool | str | Path = False,
    num_classes: int | None = None,
    img_size: int | Sequence[int] | None = None,
    in_chans: int | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **overrides: Any,
) -> Model | FeatureMaps:
    """A model by name. Loaded weights are fitted to the other arguments.

    Args:
        name: one of `list_models()`.
        pretrained: as for `Model`.
        num_classes: another number of classes than the config's, which is 1000 as published.
        img_size: another size, or [height, width], that ConViT's position embedding is made for.
        in_chans: another number of channels than the config's, which is 3 as published.
        features_only: return a `FeatureMaps`, without the head.
        out_indices: the maps that it returns; null for all.
        overrides: any other option of the backbone, such as `drop_path_rate=0.2`.

    Raises:
        ConfigError: there is no such model, option or feature map.
        RunError: the weights cannot be found or read, or are another network's.
    """
    configs = model_configs()
    if name not in configs:
        raise ConfigError(f"there is no model {name!r}{closest(name, configs)}")
    cfg = get_config(configs[name])
    model = Config({"model": cfg.model}).to_dict()["model"]
    fit = []
    if num_classes is not None:
        model["head"]["num_classes"] = num_classes
    if num_classes is not None or features_only:  # maps need no classifier
        fit.append("classes")
    if in_chans is not None:
        model["architecture"]["in_chans"] = in_chans
        fit.append("channels")
    if img_size is not None and model["architecture"]["name"] == "ConViT":  # CvT takes any size
        model["architecture"]["img_size"] = img_size
        fit.append("resolution")
    if out_indices is not None and not features_only:
        raise ConfigError("out_indices needs features_only=True")
    known = [*BACKBONES.options(model["architecture"]["name"]), *_OWN_OPTIONS]
    unknown = [key for key in overrides if key not in known]
    if unknown:
        raise ConfigError(f"create_model: unknown option {unknown[0]}{closest(unknown[0], known)}")
    model["architecture"].update(overrides)
    model["head"].pop("in_channels", None)  # which follows from the backbone
    weights = fetch_default(name) if pretrained is True else pretrained
    whole = Model({"model": model}, weights, fit)
    return FeatureMaps(whole.backbone, out_indices) if features_only else whole


def _inputs_of(
    node: Mapping[str, Any], backbone: nn.Layer
) -> tuple[dict[str, Any], list[int] | None]:
    """The head's options that describe its input, and the feature maps that it takes; null for the
    pooled features.
    """
    name = str(node.get("name"))  # `build_head` reports an unknown one
    if name not in HEADS or not getattr(HEADS.get(name), "takes_maps", False):
        return {"in_channels": backbone.num_features}, None
    maps = FeatureMaps(backbone, node.get("out_indices"))
    inputs: dict[str, Any] = {"in_channels": maps.feature_channels}
    if "strides" in HEADS.options(name):
        inputs["strides"] = maps.feature_strides
    return inputs, maps.out_indices


def _completed(node: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The head's node with what is left out of it."""
    head = dict(node)
    for key, wanted in inputs.items():
        given = head.get(key)
        if given is not None and (list(given) if isinstance(wanted, list) else given) != wanted:
            what = "width" if key == "in_channels" else key
            raise ConfigError(
                f"model.head.{key} {given} is not the backbone's {what}; set it to {wanted}, or "
                "leave it out"
            )
        head[key] = wanted
    return head


def _read(pretrained: bool | str | Path | WeightFile, config: Mapping[str, Any]) -> WeightFile:
    if isinstance(pretrained, WeightFile):
        return pretrained
    default = isinstance(pretrained, bool)
    return read_file(fetch_default(_variant(config)) if default else locate(pretrained))


def _variant(config: Mapping[str, Any]) -> str:
    """The model whose config this is. A copy of a published variant's may be in any folder."""
    file = getattr(config, "file", None)
    names = {path.resolve(): name for name, path in model_configs().items()}
    if file is not None and file.resolve() in names:
        return names[file.resolve()]
    if file is None or file.stem not in names.values():
        raise ConfigError(
            "pretrained: true needs a config of a published variant, such as "
            "configs/convit/convit_tiny.yaml; else name a weight file or an entry of the model zoo"
        )
    return file.stem


def _with_numerics(architecture: dict[str, Any], file: WeightFile) -> dict[str, Any]:
    """The architecture with the numerics that the weights want, unless the config sets them; then
    loading warns.
    """
    for key, value in file.numerics.items():
        if key not in architecture:
            architecture[key] = value
            get_logger().info("%s: set %s %s, which these weights want", file.path, key, value)
    return architecture
