"""What the figures of `passl visualize` share: how a network, its images and the file to write are
named.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passl.cli.options import (
    FIGURES,
    add_allow_imports_option,
    add_config_options,
    add_network_options,
    as_path,
    at_least,
    check_overrides,
    load_network,
    out_problems,
    path_or_name,
)
from passl.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from passl.analysis.evaluated import Evaluated
    from passl.analysis.figures import Shown
    from passl.deploy.exported import Description
    from passl.modeling.classifier import Model

LAYERS = (
    "a ConViT's block, such as 3, or embed; a CvT's STAGE.BLOCK, such as 2.9, or STAGE.embed, or "
    "STAGE for its last block; negative numbers count from the end; full names are possible too, "
    "such as blocks.3. BLOCK.norm1, such as 3.norm1, is the input of the block's attention"
)
SHOWN = 8
"""Images of the validation data that are drawn by default."""


def add_out_options(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """--out and --force."""
    name = parser.prog.rpartition(" ")[2]
    parser.add_argument(
        "--out",
        type=as_path,
        metavar="FILE.png|FILE.svg",
        help="the file to write (default: "
        f"{default or f'{name}.png, in the folder of the run if MODEL is one'})",
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, which every figure of a network names first, and -c, -o, --size."""
    _add_model(parser)
    add_network_options(parser, "resize whole images to this instead of the evaluation's size")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        type=path_or_name,
        metavar="MODEL",
        help="a run's folder, whose best checkpoint is used; a checkpoint; a name of the model "
        "zoo; an https address; or a weight file of any kind, with -c if it does not determine its "
        "network",
    )


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """IMAGE ..., or samples of the validation data."""
    parser.add_argument(
        "images",
        nargs="*",
        type=path_or_name,
        metavar="IMAGE",
        help="images, folders of images, or @LIST, a text file with one per line; right behind "
        "MODEL, before the options (default: the "
        f"first {SHOWN} samples of the validation data of the run or of -c)",
    )
    parser.add_argument(
        "--samples",
        nargs="+",
        type=at_least(0),
        metavar="INDEX",
        help="these samples of the validation data, counted from 0",
    )


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """MODEL, and -c, -o and --allow-imports, for a figure of predictions for validation data."""
    _add_model(parser)
    add_config_options(parser, positional=False)
    add_allow_imports_option(parser)


def add_layer_option(parser: argparse.ArgumentParser, default: str) -> None:
    """--layer NAME, as `passl.analysis.layers.find_point` takes it."""
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help=f"{LAYERS} ({default})",
    )


def check_out(args: argparse.Namespace, suffixes: Sequence[str] = FIGURES) -> None:
    """Report what is wrong with --out before anything is computed."""
    problems = out_problems("--out", args.out, suffixes, args.force)
    if problems:
        raise ConfigError(*problems)


def name_model(args: argparse.Namespace) -> None:
    """Resolve a run's folder to its checkpoint, set --out to its default, and `args.title` to the
    name of the run, file or zoo entry.

    Raises:
        ConfigError: the folder has no checkpoint, or is an exported network.
    """
    from passl.engine.run_folder import BEST, LAST, checkpoint_of
    from passl.porting.resolve import zoo_entry

    folder = Path(args.weights)
    is_folder = "://" not in args.weights and zoo_entry(args.weights) is None and folder.is_dir()
    if args.out is None:
        args.out = (folder if is_folder else Path()) / f"{args.figure}.png"
    check_out(args)
    args.title = folder.resolve().name if is_folder else folder.name
    if not is_folder:
        return
    _refuse_exported(folder)
    checkpoint = checkpoint_of(folder)
    if checkpoint is None:
        raise ConfigError(
            f"{folder}: holds no checkpoint ({BEST}, {LAST}); name the output_dir of a training "
            "run, or a weight file"
        )
    args.weights = str(checkpoint)
    if args.override and args.config is None:
        args.config = str(folder / "config.yaml")  # whose values -o changes


def _refuse_exported(folder: Path) -> None:
    from passl.deploy.exported import DESCRIPTION, read_folder

    if (folder / DESCRIPTION).is_file():
        weights = read_folder(folder).weights
        raise ConfigError(
            f"{folder}: an exported network is a fixed graph from images to logits, which has no "
            f"layers to look into; name what it was exported from ({weights}), or its run"
        )


def load_model(args: argparse.Namespace) -> tuple[Model, Description]:
    """The network that MODEL, -c, -o and --size name, in evaluation mode, and its description."""
    from passl.logging import log_to_console

    log_to_console()
    name_model(args)
    return load_network(args, resize=True)


def load_images(args: argparse.Namespace, description: Description) -> list[Shown]:
    """The images that the options name, transformed as the network's evaluation does.

    Raises:
        ConfigError: there are none, or no such samples.
        RunError: one cannot be read.
    """
    from passl.analysis.figures import as_shown
    from passl.data.build import build_transforms
    from passl.porting.classes import readable

    if args.images and args.samples:
        raise ConfigError("images and --samples are both named; leave one out")
    transforms = build_transforms(description.transforms)
    classes = readable(description.classes)
    shown = []
    for name, image, label in _opened(args, description):
        text = name if label is None else classes[label]
        shown.append(as_shown(text, image, transforms, label))
    return shown


def _opened(args: argparse.Namespace, description: Description) -> Any:
    """Name, image and label (null if it is not known) of each."""
    if args.images:
        from passl.deploy.batch import find_images
        from passl.deploy.inputs import open_image

        for file in find_images(args.images):
            yield Path(file).name, open_image(file, description), None
        return
    dataset = _data(args, "val")
    for index in args.samples or range(min(SHOWN, len(dataset))):
        if index >= len(dataset):
            raise ConfigError(
                f"--samples {index}: the validation data has samples 0 to {len(dataset) - 1}"
            )
        image, label = dataset[index]
        is_class = dataset.task == "classification"
        yield dataset.name(index), image, label if is_class else None


def load_samples(
    args: argparse.Namespace, description: Description
) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """`--count` samples of the part `--split` of the data, evenly spaced, transformed as the
    network's evaluation does: their arrays and labels, and the names of the classes.

    Raises:
        ConfigError: there is no such data, or its samples do not have one class each.
        RunError: an image cannot be read.
    """
    import numpy as np

    from passl.data.build import build_transforms
    from passl.data.transforms.evaluation import transformed

    dataset = _data(args, args.split)
    if dataset.task != "classification":
        raise ConfigError(
            f"the data is for {dataset.task}, whose images do not have one class each; name a "
            "config with another dataset by -c"
        )
    transforms = build_transforms(description.transforms)
    count = min(args.count, len(dataset))
    arrays, labels = [], []
    for index in np.linspace(0, len(dataset) - 1, count).round().astype(int):
        image, label = dataset[int(index)]
        arrays.append(transformed(image, transforms))
        labels.append(label)
    return arrays, np.array(labels), dataset.classes


def _data(args: argparse.Namespace, part: str) -> Any:
    """The dataset of a part of the config's data."""
    from passl.data.build import build_dataset

    node: Any = config_of(args)
    for key in ("dataloader", part, "dataset"):
        node = node.get(key) if isinstance(node, Mapping) else None
    way = f"name a config with dataloader.{part} by -c"
    way = f"name images, or {way[5:]}" if "images" in args else way
    if not node:
        raise ConfigError(f"{args.weights} does not say what its {part} data is; {way}")
    try:
        return build_dataset(node)
    except ConfigError as error:
        raise ConfigError(*(f"dataloader.{part}: {one}; {way}" for one in error.problems)) from None


def config_of(args: argparse.Namespace) -> Mapping[str, Any]:
    """The config that -c names, or that the weights were trained with; empty if it is not known."""
    from passl.cli.options import read_config
    from passl.deploy.from_weights import network_of
    from passl.porting import locate, read_file

    if args.config is not None:
        return read_config(args)
    config, _ = network_of(read_file(locate(args.weights)), None, args.allow_imports)
    return config


def evaluated(args: argparse.Namespace) -> Evaluated:
    """The network that MODEL names and its predictions for the validation data of -c, or of the
    config that the weights were trained with.

    Raises:
        ConfigError: there is no such data.
    """
    from passl.analysis.evaluated import evaluate_config
    from passl.cli.eval import read_evaluation
    from passl.logging import log_to_console
    from passl.utils.config import Config

    log_to_console()
    name_model(args)
    check_overrides(args)
    if args.config is None:
        cfg = Config(config_of(args))
        if "val" not in cfg.get("dataloader", {}):
            raise ConfigError(f"{args.weights}: names no validation data; name a config by -c")
    else:
        cfg = read_evaluation(args)
    return evaluate_config(cfg, args.weights)


def save(args: argparse.Namespace, figure: Figure) -> None:
    """Write the figure to --out, and print the file's name."""
    from passl.io.figures import save_figure
    from passl.logging import printable

    save_figure(figure, args.out)
    print(printable(str(args.out)))
