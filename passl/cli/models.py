"""List the published weights that can be named in place of a file, or the layers of one network
with their parameters and multiply-adds.
"""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from passl.cli.options import add_override_option, at_least, overrides

if TYPE_CHECKING:
    from passl.utils.config import Config

EXAMPLES = """\
passl models
passl models cvt --source microsoft
passl models convit_tiny --json
passl models convit_tiny --layers
passl models segmentation/digits_cvt --layers --depth 4
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="only names that contain every word; with --layers the name of a model, of weights or "
        "of a config, or a config file",
    )
    parser.add_argument(
        "--source", metavar="PROJECT", help="only weights of this project, such as timm"
    )
    parser.add_argument("--default", action="store_true", help="only what pretrained=True loads")
    parser.add_argument(
        "--layers",
        action="store_true",
        help="print parameters and multiply-adds of the model by layer, and their sums",
    )
    parser.add_argument(
        "--depth",
        type=at_least(1),
        metavar="N",
        help="with --layers: levels of the names, such as 3 for backbone.blocks.0.attn (default 3)",
    )
    parser.add_argument(
        "--size",
        type=at_least(1),
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="with --layers: of the image (default: that of the config's validation images)",
    )
    add_override_option(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object a line instead")


def main(args: argparse.Namespace) -> None:
    from passl.errors import ConfigError

    if args.layers:
        _print_layers(args)
    elif args.depth or args.size or args.override:
        raise ConfigError("--depth, --size and -o go with --layers")
    else:
        _print_weights(args)


def _print_weights(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from passl.errors import ConfigError
    from passl.porting.zoo import SOURCES, entries, table
    from passl.utils.config import closest

    if args.source is not None and args.source not in SOURCES:
        raise ConfigError(f"--source {args.source}: no such project{closest(args.source, SOURCES)}")
    found = [
        entry
        for entry in entries()
        if all(word in entry.name for word in args.words)
        and args.source in (None, entry.source)
        and (entry.default or not args.default)
    ]
    if not found:
        raise ConfigError("no published weights match; `passl models` lists all")
    if args.json:
        for entry in found:
            print(json.dumps(asdict(entry)))
    else:
        print(table(found))


def _print_layers(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from passl.errors import ConfigError

    if len(args.words) != 1 or args.source is not None or args.default:
        raise ConfigError("--layers needs the name of one model or config, and no --source")
    cfg = _config_of(args.words[0], overrides(args))
    arguments = _arguments(cfg)

    from passl.analysis.costs import cost_by_layer, table_of_layers
    from passl.modeling import Model

    size = args.size or _size_of(cfg, arguments)
    model = Model(cfg, classes=_classes_of(cfg))
    try:
        rows = cost_by_layer(model, size, arguments.get("in_chans", 3), args.depth or 3)
    except ValueError as error:
        raise ConfigError(f"images of {size[0]} x {size[1]}: {error}; choose --size") from None
    if args.json:
        for row in rows:
            print(json.dumps(asdict(row)))
    else:
        print(table_of_layers(rows, size))


def _config_of(name: str, changes: Sequence[str]) -> "Config":
    """The config of a model, of weights of the zoo, or of that name."""
    from passl.errors import ConfigError
    from passl.modeling.classifier import model_configs
    from passl.porting.zoo import entries, find, is_known
    from passl.utils.config import closest, get_config, shipped_names

    configs = model_configs()
    model = find(name).model if is_known(name) else name
    if model in configs:
        return get_config(configs[model], changes)
    shipped = shipped_names()
    if name not in shipped and not name.endswith((".yaml", ".yml")):
        known = [*configs, *(entry.name for entry in entries()), *shipped]
        raise ConfigError(f"there is no model, weights or config {name!r}{closest(name, known)}")
    return get_config(name, changes)


def _arguments(cfg: "Config") -> dict[str, Any]:
    """The arguments of the config's backbone, with the defaults."""
    from passl.errors import ConfigError
    from passl.modeling.backbones import BACKBONES

    try:
        architecture = cfg["model"]["architecture"]
    except (KeyError, TypeError):
        raise ConfigError("the config has no model.architecture") from None
    return BACKBONES.arguments(architecture)


def _size_of(cfg: "Config", arguments: dict[str, Any]) -> Sequence[int]:
    """Height and width of the images: the network's, or those that the transforms make in
    evaluation or training.
    """
    from passl.data.build import build_transforms
    from passl.data.transforms.sizes import fixed_size
    from passl.deploy.from_weights import trained_size

    size = arguments.get("img_size")
    if size is None:
        node = cfg.get("dataloader", {}).get("val", {}).get("dataset", {})
        size = fixed_size(build_transforms(node.get("transforms", ())), node.get("mode", "RGB"))
    if size is None:
        size = trained_size(cfg["model"], cfg)
    return [size, size] if isinstance(size, int) else size


def _classes_of(cfg: "Config") -> list[str] | None:
    """The classes of the data, if the config does not say how many there are."""
    from passl.data.build import class_names
    from passl.errors import ConfigError

    if cfg["model"].get("head", {}).get("num_classes") is not None:
        return None
    try:
        return class_names(cfg["dataloader"]["val"]["dataset"])
    except (ConfigError, KeyError) as error:
        raise ConfigError(
            f"the number of classes is not known ({error}); give it by -o model.head.num_classes=N"
        ) from None
