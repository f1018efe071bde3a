"""From weights of any kind to a model and its description: network, transforms and classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from passl.accelerate import accelerate
from passl.data import TRANSFORMS
from passl.data.build import build_transforms, class_names
from passl.data.datasets.images import CHANNELS, check_mode
from passl.data.transforms.sizes import channels_made, fixed_size
from passl.deploy.convert import variant_of
from passl.deploy.exported import Description
from passl.errors import CheckpointError, ConfigError
from passl.evaluation.preset import at_size
from passl.logging import get_logger
from passl.modeling.backbones import BACKBONES
from passl.modeling.classifier import Model, model_configs
from passl.porting import WeightFile, architecture_of, load_weights, locate, read_file
from passl.porting.classes import are_named, imagenet_classes, order_in
from passl.utils.config import Config, get_config
from passl.utils.imports import import_stored


def load(
    weights: str | Path,
    cfg: Mapping[str, Any] | None = None,
    transforms: Sequence[Mapping[str, Any]] | None = None,
    size: Sequence[int] | None = None,
    allow_imports: bool = False,
    resize: bool = False,
) -> tuple[Model, Description]:
    """Load a model in evaluation mode, and describe it.

    Args:
        weights: a file, an https address, or a name of the model zoo.
        cfg: the config of the network; null for what the weights say: a checkpoint has its run's
            config, other files determine their architecture.
        transforms: of the images; null for those of the config's validation data.
        size: height and width of the input, if the transforms do not fix it.
        allow_imports: whether modules that a checkpoint's config names may be imported, which runs
            their code.
        resize: whether images are resized to `size` if the transforms fix another one.

    Raises:
        ConfigError: the network or its transforms are not known, or the data of `cfg` has other
            classes than the weights.
        RunError: the weights cannot be loaded or belong to another network.
    """
    file = read_file(locate(weights))
    config, section = network_of(file, cfg, allow_imports)
    section["architecture"] = {**file.numerics, **section["architecture"]}
    dataset = dataset_of(config, "val")
    classes = file.classes or _classes_of_data(dataset)
    model = accelerate(Model({"model": section}, classes=classes))
    section["head"] = {**section["head"], **model.derived}
    load_weights(model, file)
    model.eval()
    mode, background = _mode(section, dataset)
    nodes, input_shape = _transforms(section, config, mode, transforms, size, resize)
    description = Description(
        model=section,
        transforms=nodes,
        input=input_shape,
        classes=_classes(file, dataset, model.num_classes, cfg is not None),
        numerics=file.numerics,
        parameters=sum(p.size for p in model.parameters() if not p.stop_gradient),
        weights=str(weights).rpartition("/")[2],
        exif_turn=bool(dataset.get("exif_turn")),
        mode=mode,
        background=background,
        min_side=dataset.get("min_side"),
        imports=_imports(config, nodes),
        task=getattr(model.head, "task", "classification"),
    )
    return model, description


def network_of(
    file: WeightFile, cfg: Mapping[str, Any] | None, allow_imports: bool
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The config, empty if an unpublished network has none, and its section `model`. Arguments as
    for `load`.
    """
    if cfg is not None:
        config = cfg.to_dict() if isinstance(cfg, Config) else dict(cfg)
        return config, _model_section(config)
    stored = _from_metadata(file, "config")
    if stored is not None:
        if stored.get("imports"):
            import_stored(stored["imports"], file.path, allow_imports)
        return stored, _model_section(stored)
    section = stored_model(file)
    return _shipped_config(section["architecture"]), section


def stored_model(file: WeightFile) -> dict[str, Any]:
    """The section `model` that weights say: a checkpoint has its run's, a converted file its
    architecture; that of other files is derived from the weights.

    Raises:
        CheckpointError: what the file says is damaged, or the weights are of no known network.
    """
    stored = _from_metadata(file, "config")
    if stored is not None:
        return _model_section(stored)
    architecture, head = architecture_of(file)
    return {"architecture": _from_metadata(file, "architecture") or architecture, "head": head}


def _from_metadata(file: WeightFile, key: str) -> dict[str, Any] | None:
    text = file.metadata.get(key)
    try:
        found = None if text is None else json.loads(text)
    except ValueError:
        found = text
    if found is not None and not isinstance(found, dict):
        raise CheckpointError(f"{file.path}: damaged: its {key} is not a mapping in JSON")
    return found


def _model_section(config: Mapping[str, Any]) -> dict[str, Any]:
    section = config.get("model")
    if not isinstance(section, Mapping) or not {"architecture", "head"} <= section.keys():
        raise ConfigError(
            "a config to build from needs a section `model` with `architecture` and `head`"
        )
    return {"architecture": dict(section["architecture"]), "head": dict(section["head"])}


def _shipped_config(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the published variant that has this architecture; empty if there is none."""
    variant = variant_of(architecture)
    if variant is None:
        return {}
    return get_config(model_configs()[variant]).to_dict()


def _imports(config: Mapping[str, Any], transforms: Sequence[Mapping[str, Any]]) -> list[str]:
    """The modules that the config names, if a transform is of one of them."""
    homes = [TRANSFORMS.get(node["name"]).__module__ for node in transforms]
    is_own = all(home.startswith("passl.") for home in homes)
    return [] if is_own else list(config.get("imports", ()))


def dataset_of(config: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """The dataset's node of the training or validation data; empty if there is none."""
    node: Any = config
    for key in ("dataloader", part, "dataset"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


# --------------------------------------------------------------------------------------------------
# Images
# --------------------------------------------------------------------------------------------------
def _mode(section: Mapping[str, Any], dataset: Mapping[str, Any]) -> tuple[str, list[int] | None]:
    """Mode and background of the validation data. The default is the mode with as many channels as
    the network takes.
    """
    in_chans = _in_chans(section)
    fitting = [mode for mode, channels in CHANNELS.items() if channels == in_chans]
    mode = dataset.get("mode") or (fitting or ["RGB"])[0]
    background = dataset.get("background")
    try:
        check_mode(mode, background)
    except ValueError as error:
        raise ConfigError(f"dataloader.val.dataset: {error}") from None
    return mode, None if background is None else list(background)


def _in_chans(section: Mapping[str, Any]) -> int:
    return BACKBONES.arguments(section["architecture"]).get("in_chans", 3)


def _transforms(
    section: Mapping[str, Any],
    config: Mapping[str, Any],
    mode: str,
    transforms: Sequence[Mapping[str, Any]] | None,
    size: Sequence[int] | None,
    resize: bool,
) -> tuple[list[dict[str, Any]], list[int]]:
    """The transforms, and channels, height and width of the input."""
    transforms = transforms or dataset_of(config, "val").get("transforms")
    if not transforms:
        raise ConfigError(
            "the weights do not say which transforms their images need; name a config by -c that "
            "has dataloader.val.dataset.transforms"
        )
    nodes = [dict(node) for node in transforms]
    built, in_chans = build_transforms(nodes), _in_chans(section)
    channels = channels_made(built, mode)
    if channels is not None and channels != in_chans:
        raise ConfigError(
            f"in_chans of the network is {in_chans}, but the number of channels that the "
            f"transforms make of images of mode {mode} is {channels}; set dataloader.val.dataset's "
            "mode and transforms to what it was trained with, by -c and -o"
        )
    fixed = fixed_size(built, mode)
    if fixed is None:
        height, width = size or trained_size(section, config)
        get_logger().info("images are resized to %d x %d pixels", width, height)
        nodes.insert(0, {"name": "Resize", "size": [height, width]})
        return nodes, [in_chans, height, width]
    if size is not None and list(size) != list(fixed):
        if resize:
            return at_size(nodes, size), [in_chans, *size]
        raise ConfigError(
            f"--size {size[0]} {size[1]}: the transforms make images of {fixed[0]} {fixed[1]}; "
            "change dataloader.val.dataset.transforms by -c and -o instead"
        )
    return nodes, [in_chans, *fixed]


def trained_size(section: Mapping[str, Any], config: Mapping[str, Any]) -> Sequence[int]:
    """Height and width that the network was trained or made for."""
    nodes = dataset_of(config, "train").get("transforms") or []
    sizes = [node["size"] for node in nodes if "size" in node]
    size = sizes[-1] if sizes else BACKBONES.arguments(section["architecture"]).get("img_size")
    if size is None:
        raise ConfigError(
            "no transform fixes the size of the images; set it by --size HEIGHT WIDTH"
        )
    return [size, size] if isinstance(size, int) else size


# --------------------------------------------------------------------------------------------------
# Classes
# --------------------------------------------------------------------------------------------------
def _classes(file: WeightFile, dataset: Mapping[str, Any], count: int, is_given: bool) -> list[str]:
    """The checkpoint's names, whose order is that of the weights; else those of the validation
    data; else ImageNet's for a thousand classes; else numbers.

    Args:
        is_given: whether the user named the config, which must then have the checkpoint's classes.
    """
    candidates = (file.classes, _classes_of_data(dataset))
    theirs, data = (names if names and len(names) == count else None for names in candidates)
    if is_given and theirs and data and are_named(theirs) and are_named(data):
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


def _classes_of_data(dataset: Mapping[str, Any]) -> list[str] | None:
    """The class names of the validation data; null if the data cannot be found."""
    try:
        return class_names(dataset)
    except (KeyError, TypeError, OSError, ConfigError):
        return None
