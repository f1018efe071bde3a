"""From weights of any kind to a model and what is known of it: its pictures and its classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from passl.accelerate import accelerate
from passl.data.build import build_transforms, class_names
from passl.data.datasets.images import CHANNELS, check_mode
from passl.data.transforms.sizes import channels_made, fixed_size
from passl.deploy.convert import variant_of
from passl.deploy.engines import Engine, one_at_a_time
from passl.deploy.exported import Description
from passl.errors import CheckpointError, ConfigError
from passl.logging import get_logger
from passl.modeling.backbones import BACKBONES
from passl.modeling.classifier import Model
from passl.porting import WeightFile, architecture_of, load_weights, locate, read_file
from passl.porting.classes import are_named, imagenet_classes, order_in
from passl.utils.config import Config, get_config

_CONFIG, _ARCHITECTURE = "config", "architecture"
"""Keys of a file's metadata: a checkpoint has the first, a converted file the other."""


def load(
    weights: str | Path,
    cfg: Mapping[str, Any] | None = None,
    transforms: Sequence[Mapping[str, Any]] | None = None,
    size: Sequence[int] | None = None,
) -> tuple[Model, Description]:
    """A model with its weights, in evaluation mode, and its description.

    Args:
        weights: a file, an https address, or a name of the model zoo.
        cfg: the config of the network; null for what the weights tell: a checkpoint its run's
            config, other files their architecture.
        transforms: the pictures; null for those of the config's validation data.
        size: height and width of the input, for a list of transforms that does not fix it.

    Raises:
        ConfigError: the network or its pictures are not known so far, or the data of `cfg` has
            other classes than the weights.
        RunError: the weights cannot be had, or are another network's.
    """
    file = read_file(locate(weights))
    config = _config(file) if cfg is None else _plain(cfg)
    section = _model_section(file) if config is None else _given_section(config)
    if config is None:
        config = _shipped_config(section["architecture"])
    section["architecture"] = {**file.numerics, **section["architecture"]}
    model = accelerate(Model({"model": section}, classes=file.classes or _classes_of_data(config)))
    derived = {"in_channels": model.backbone.num_features, "num_classes": model.num_classes}
    section["head"] = {**section["head"], **derived}
    load_weights(model, file)
    model.eval()
    mode, background = _mode(section, config)
    transforms, input_ = _pictures(section, config, mode, transforms, size)
    description = Description(
        model=section,
        transforms=transforms,
        input=input_,
        classes=_classes(file, config, model.num_classes, cfg is not None),
        numerics=file.numerics,
        parameters=sum(p.size for p in model.parameters() if not p.stop_gradient),
        weights=str(weights).rpartition("/")[2],
        exif_turn=bool(_at(config, "dataloader", "val", "dataset", "exif_turn")),
        mode=mode,
        background=background,
        min_side=_at(config, "dataloader", "val", "dataset", "min_side"),
    )
    return model, description


def as_engine(layer: nn.Layer) -> Engine:
    """A layer in evaluation mode, run as it is, as an engine."""

    def run(images: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            return layer(paddle.to_tensor(images)).numpy()

    return one_at_a_time(run)


# --------------------------------------------------------------------------------------------------
# The network
# --------------------------------------------------------------------------------------------------
def _plain(cfg: Mapping[str, Any]) -> dict[str, Any]:
    return cfg.to_dict() if isinstance(cfg, Config) else dict(cfg)


def _config(file: WeightFile) -> dict[str, Any] | None:
    """The config that a checkpoint of a run carries."""
    return _told(file, _CONFIG)


def _told(file: WeightFile, key: str) -> Any:
    text = file.metadata.get(key)
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        raise CheckpointError(f"{file.path}: damaged: its {key} is not JSON") from None


def _given_section(config: Mapping[str, Any]) -> dict[str, Any]:
    section = config.get("model")
    if not isinstance(section, Mapping) or not {"architecture", "head"} <= section.keys():
        raise ConfigError(
            "a config to build from needs a section `model` with `architecture` and `head`"
        )
    return {"architecture": dict(section["architecture"]), "head": dict(section["head"])}


def _model_section(file: WeightFile) -> dict[str, Any]:
    architecture, head = architecture_of(file)
    told = _told(file, _ARCHITECTURE)
    return {"architecture": architecture if told is None else told, "head": head}


def _shipped_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the published variant that weights turn out to be; nothing for another."""
    variant = variant_of(architecture)
    if variant is None:
        return {}
    folder = "convit" if variant.startswith("convit") else "cvt"
    return get_config(f"{folder}/{variant}.yaml").to_dict()


# --------------------------------------------------------------------------------------------------
# Its pictures
# --------------------------------------------------------------------------------------------------
def _mode(
    section: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[str, Sequence[int] | None]:
    """Mode and background of the config's validation data. Where it says no mode, the one that has
    as many channels as the network takes.
    """
    in_chans = _in_chans(section)
    fitting = [mode for mode, channels in CHANNELS.items() if channels == in_chans]
    mode = _at(config, "dataloader", "val", "dataset", "mode") or (fitting or ["RGB"])[0]
    background = _at(config, "dataloader", "val", "dataset", "background")
    try:
        check_mode(mode, background)
    except ValueError as error:
        raise ConfigError(f"dataloader.val.dataset: {error}") from None
    return mode, None if background is None else list(background)


def _in_chans(section: Mapping[str, Any]) -> int:
    return BACKBONES.arguments(section["architecture"]).get("in_chans", 3)


def _pictures(
    section: Mapping[str, Any],
    config: Mapping[str, Any],
    mode: str,
    transforms: Sequence[Mapping[str, Any]] | None,
    size: Sequence[int] | None,
) -> tuple[list[dict[str, Any]], list[int]]:
    """The transforms, and the input's channels, height and width."""
    if transforms is None:
        transforms = _transforms_of(config, "val")
    if not transforms:
        raise ConfigError(
            "the weights do not tell which pictures they are for; name a config by -c, whose "
            "dataloader.val.dataset.transforms does"
        )
    nodes = [dict(node) for node in transforms]
    arguments = BACKBONES.arguments(section["architecture"])
    built, in_chans = build_transforms(nodes), _in_chans(section)
    channels = channels_made(built, mode)
    if channels is not None and channels != in_chans:
        raise ConfigError(
            f"in_chans of the network is {in_chans}, but the number of channels that the "
            f"transforms make of images of mode {mode} is {channels}; set dataloader.val.dataset's "
            "mode and transforms to what it was trained with, by -c and -o"
        )
    found_size = fixed_size(built, mode)
    fixed = None if found_size is None else list(found_size)
    if fixed is None:
        trained = [n["size"] for n in _transforms_of(config, "train") if "size" in n]
        found = size or (trained[-1] if trained else arguments.get("img_size"))
        if found is None:
            raise ConfigError(
                "no transform says how large the pictures are; say it by --size HEIGHT WIDTH"
            )
        fixed = [found, found] if isinstance(found, int) else list(found)
        get_logger().info("pictures are resized to %d x %d pixels", fixed[1], fixed[0])
        nodes.insert(0, {"name": "Resize", "size": fixed})
    elif size is not None and list(size) != fixed:
        raise ConfigError(
            f"--size {size[0]} {size[1]}: the transforms make pictures of {fixed[0]} {fixed[1]}; "
            "change dataloader.val.dataset.transforms by -c and -o instead"
        )
    return nodes, [in_chans, *fixed]


def _transforms_of(config: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    return list(_at(config, "dataloader", part, "dataset", "transforms") or [])


def _at(config: Mapping[str, Any], *keys: str) -> Any:
    """The value at that place, or null."""
    node: Any = config
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


# --------------------------------------------------------------------------------------------------
# Its classes
# --------------------------------------------------------------------------------------------------
def _classes(file: WeightFile, config: Mapping[str, Any], count: int, is_asked: bool) -> list[str]:
    """The checkpoint's names, whose order is that of the weights; else those of the config's data,
    ImageNet's for a thousand; else numbers.

    Args:
        is_asked: whether somebody gave the config for these weights, so that both must know the
            same classes.
    """
    candidates = (file.classes, _classes_of_data(config))
    theirs, data = (names if names and len(names) == count else None for names in candidates)
    if is_asked and are_named(theirs) and are_named(data):
        try:
            order_in(theirs, data)
        except ValueError as error:
            raise ConfigError(
                f"{file.path}: its classes are not those of the config's data: {error}. Leave -c "
                "out, since a checkpoint knows its network, or name a config with its classes"
            ) from None
    known = [names for names in (theirs, data) if names is not None]
    if known:
        return next((names for names in known if are_named(names)), known[0])
    if count == len(imagenet_classes()):
        return list(imagenet_classes())
    get_logger().warning("the names of the %d classes are not known; they are numbered", count)
    return [str(label) for label in range(count)]


def _classes_of_data(config: Mapping[str, Any]) -> list[str] | None:
    """What the config's validation data calls its classes; null where the data is not here."""
    try:
        return class_names(config["dataloader"]["val"]["dataset"])
    except (KeyError, TypeError, OSError, ConfigError):
        return None
