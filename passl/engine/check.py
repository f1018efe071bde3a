"""Everything that can be known to be wrong with a config before a run begins, all of it at once.

What one option may be is said where it is defined (see `passl.utils.schema`); here are the sections
of a config and the rules between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

from passl.data import DATASETS, TRANSFORMS
from passl.data.build import (
    DATASET_OPTIONS,
    build_dataset,
    class_names,
)
from passl.data.datasets.images import CHANNELS
from passl.data.datasets.subset import Subset, chosen_labels
from passl.data.loader import Loader
from passl.data.samplers import BatchSampler
from passl.data.transforms.mixup import Mixup, build_mixup
from passl.data.transforms.sizes import channels_made, sizes_made
from passl.distributed.liveness import Timeouts
from passl.engine.average import WeightAverage
from passl.engine.checkpoint import Saver
from passl.engine.freezing import Freezing
from passl.engine.precision import Precision
from passl.errors import ConfigError, RunError
from passl.modeling import LOSSES
from passl.modeling.backbones import BACKBONES
from passl.modeling.class_weights import BALANCED
from passl.modeling.heads import HEADS
from passl.modeling.losses import Distilled
from passl.optim import SCHEDULES
from passl.optim.optimizers import OPTIMIZER_SECTION
from passl.utils.config import COMMAND_LINE, Config, dotted, get_config, shown_origin
from passl.utils.schema import (
    Choice,
    Many,
    Option,
    Problem,
    Section,
    options_of,
    problems_in,
    section_of,
)
from passl.utils.types import NonNegativeInt, PositiveInt
from passl.utils.yaml import Keys

_DATA = {
    "dataset": Choice(
        DATASETS,
        {**DATASET_OPTIONS, "transforms": Many(Choice(TRANSFORMS))},
        check=Subset.check_options,
    ),
    "sampler": section_of(BatchSampler, required=True),
    "loader": section_of(Loader),
}
TRAINING = Section(
    {
        "imports": Option(Sequence[str], ()),
        "model": Section(
            {
                # CvTWrapper is what PASSL calls the same thing.
                "name": Option(Literal["Model", "CvTWrapper"], "Model"),
                "architecture": Choice(BACKBONES),
                "head": Choice(HEADS, derived=HEADS.required),
                "pretrained": Option(str | bool | None, False),
                "fit": Option(Sequence[Literal["classes", "resolution", "channels"]], ()),
            }
        ),
        "dataloader": Section(
            {"train": Section({**_DATA, "mixup": section_of(Mixup)}), "val": Section(_DATA)}
        ),
        "loss": Choice(LOSSES),
        "distillation": Section(
            {"teacher": Option(str), "weights": Option(str), **options_of(Distilled)},
            required=False,
        ),
        "optimizer": OPTIMIZER_SECTION,
        "lr_scheduler": Choice(SCHEDULES),
        "epochs": Option(PositiveInt),
        "eval_interval": Option(PositiveInt, 1),
        "accumulate": Option(PositiveInt, 1),
        "recompute": Option(bool, False),
        "amp": section_of(Precision),
        "ema": section_of(WeightAverage),
        "freeze": section_of(Freezing),
        "on_nonfinite": Option(Literal["stop", "skip"], "stop"),
        "max_nonfinite": Option(PositiveInt, 10),
        "device": Option(Literal["auto", "cpu", "gpu"], "auto"),
        "seed": Option(NonNegativeInt, 0),
        "deterministic": Option(bool, False),
        "sync_bn": Option(bool, False),
        "sharding": Section({"stage": Option(Literal[1])}, required=False),
        "timeouts": section_of(Timeouts),
        "rank_check_interval": Option(PositiveInt, 100),
        "output_dir": Option(str),
        "checkpoint": section_of(Saver),
        "log_config": Section({"interval": Option(PositiveInt)}),
    }
)
"""What a training config may have, and must."""


# What other projects give to a backbone, and where it is here.
_ELSEWHERE = {
    (
        "model",
        "architecture",
        "num_classes",
    ): "a backbone knows no classes; set model.head.num_classes",
    ("model", "architecture", "act_layer"): "the activation is called act here",
}


def check_config(cfg: Config, for_training: bool = True) -> None:
    """Check names, keys and types everywhere, and what must fit together.

    Args:
        for_training: whether the training data must be there; evaluation needs only the validation
            data.

    Raises:
        ConfigError: every problem, each with the file and line of the value, the rule, and the
            closest valid name.
    """
    problems = list(problems_in(TRAINING, cfg))
    wrong = [keys for keys, _ in problems]
    parts = ("train", "val") if for_training else ("val",)
    for sections, rule in _RULES:
        # A rule needs the right form of what it looks at, and of nothing else: so all is said at
        # once.
        if not any(
            keys[: len(section)] == section[: len(keys)] for keys in wrong for section in sections
        ):
            problems += rule(cfg, parts)
    if problems:
        raise ConfigError(*(_line(cfg, *problem) for problem in problems))


def datasets(cfg: Config, parts: Sequence[str]) -> dict[str, Any]:
    """The data set nodes of these parts. The rest of the config is not looked at.

    Raises:
        ConfigError: what is wrong with them.
    """
    problems: list[Problem] = []
    nodes: dict[str, Any] = {}
    for part in parts:
        keys = ("dataloader", part, "dataset")
        try:
            nodes[part] = _at(cfg, keys)
        except (KeyError, TypeError):
            problems.append(((), f"{dotted(keys)} is missing"))
            continue
        transforms = {"transforms": Option(Any, ())}  # no matter here
        choice = Choice(DATASETS, {**DATASET_OPTIONS, **transforms}, check=Subset.check_options)
        problems += [(place, rule) for place, rule in problems_in(choice, nodes[part], keys)]
    if problems:
        raise ConfigError(*(_line(cfg, *problem) for problem in problems))
    return nodes


def _line(cfg: Config, keys: Sequence[Any], rule: str) -> str:
    rule = _ELSEWHERE.get(tuple(keys), rule)
    shown = shown_origin(_origin(cfg, tuple(keys), rule) if keys else str(cfg.file))
    return f"{shown}: {dotted(tuple(keys))}: {rule}" if keys else f"{shown}: {rule}"


def _origin(cfg: Config, keys: Keys, rule: str) -> str:
    """Where what is wrong stands: of a node's values one that the rule names, and of several the
    one that was changed last.
    """
    inside = [(place, o) for place, o in cfg.origins.items() if place[: len(keys)] == keys]
    named = set(re.findall(r"\w+", rule))

    def likely(item: tuple[Keys, str]) -> tuple[bool, bool, bool]:
        place, origin = item
        is_named = not named.isdisjoint(map(str, place[len(keys) :]))
        return is_named, origin == COMMAND_LINE, origin.startswith(f"{cfg.file}:")

    return max(inside, key=likely)[1] if inside else str(cfg.file)


# --------------------------------------------------------------------------------------------------
# Rules between values
# --------------------------------------------------------------------------------------------------
def _head_fits_backbone(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """Of our own networks. What others make of their arguments is known when they are built."""
    name, options = cfg.model.architecture.name, BACKBONES.arguments(cfg.model.architecture)
    if name not in ("ConViT", "CvT"):
        return
    width = options["embed_dim"] if name == "ConViT" else options["embed_dim"][-1]
    given = cfg.model.head.get("in_channels")
    if given not in (None, width):
        rule = f"{given} is not the backbone's width; set it to {width}, or leave it out"
        yield ("model", "head", "in_channels"), rule


def _patches_fit(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """Patches divide the image, where a ConViT is made of them."""
    options, sizes = BACKBONES.arguments(cfg.model.architecture), []
    if cfg.model.architecture.name != "ConViT" or options["hybrid_backbone"]:
        return
    patch = options["patch_size"]
    for part in parts:
        keys = ("dataloader", part, "dataset", "transforms")
        sized = [index for index, node in enumerate(_at(cfg, keys)) if "size" in node]
        sizes += [((*keys, i, "size"), _at(cfg, (*keys, i, "size"))) for i in sized[-1:]]
    for place, size in sizes:
        if any(side % patch for side in ([size] if isinstance(size, int) else size)):
            rule = (
                f"{size} does not divide into patches of {patch} pixels; use a multiple of {patch}"
            )
            yield place, rule


def _schedule_fits(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """The schedule's times lie within the run."""
    try:
        SCHEDULES.build(cfg.lr_scheduler, 1.0, 1, cfg.epochs)
    except ConfigError as error:
        yield ("lr_scheduler",), str(error)


def _mixup_fits(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """Mixup can be built, and has two pictures to mix."""
    if "train" not in parts or "mixup" not in cfg.dataloader.train:
        return
    keys = ("dataloader", "train", "mixup")
    section, sampler = cfg.dataloader.train.mixup, cfg.dataloader.train.sampler
    try:
        build_mixup(section, cfg.model.head.get("num_classes") or 2)
    except ValueError as error:
        yield keys, str(error)
    if section.get("mode") == "pair" and (sampler.batch_size % 2 or not sampler.get("drop_last")):
        rule = (
            "mode pair needs batches of an even size: an even dataloader.train.sampler.batch_size, "
            f"not {sampler.batch_size}, and drop_last: true"
        )
        yield keys, rule


def _training_fits(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """What would else be found out only when the run begins."""
    if "train" not in parts:
        return
    batch, accumulate = cfg.dataloader.train.sampler.batch_size, cfg.get("accumulate", 1)
    if accumulate > batch > 0:
        rule = f"{accumulate} parts are more than the {batch} samples of a batch; use fewer"
        yield ("accumulate",), rule
    if "distillation" in cfg:
        try:
            teacher = get_config(cfg.distillation.teacher)
            classes, own = _num_classes(teacher), _num_classes(cfg)
            channels, own_channels = _in_chans(teacher), _in_chans(cfg)
        except (ConfigError, AttributeError, KeyError) as error:
            yield ("distillation", "teacher"), str(error)
        else:
            if None not in (classes, own) and classes != own:
                rule = f"its head has {classes} classes, but the student's {own}"
                yield ("distillation", "teacher"), rule
            if None not in (channels, own_channels) and channels != own_channels:
                rule = f"it takes {_counted(channels)}, but the student {_counted(own_channels)}"
                yield ("distillation", "teacher"), f"{rule}; both see the same images"


def _classes_balance(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """What makes up for classes of different sizes goes with the rest."""
    for part in parts:
        sampler, keys = cfg.dataloader[part].sampler, ("dataloader", part, "sampler")
        if sampler.get("balanced") and part == "val":
            yield (*keys, "balanced"), "is for training; an evaluation takes each sample once"
    weights, classes = cfg.loss.get("class_weights"), _num_classes(cfg)
    listed = isinstance(weights, Sequence) and weights != BALANCED
    if listed and classes is not None and len(weights) != classes:
        rule = (
            f"{len(weights)} numbers are not one for each of the {classes} classes of the head; "
            "give as many, in the order of the labels, or balanced"
        )
        yield ("loss", "class_weights"), rule


def _transforms_fit(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """Every list of transforms can be built, ends with an array, and makes images of one size."""
    for part in parts:
        section, keys = cfg.dataloader[part], ("dataloader", part, "dataset", "transforms")
        transforms: list[Any] = []
        problems = list(_problems_in_transforms(section.dataset.transforms, transforms))
        if not problems and section.sampler.batch_size > 1:  # networks take one image of any size
            problems = list(_problems_in_sizes(section.dataset, transforms))
        yield from (((*keys, *place), rule) for place, rule in problems)


def _problems_in_transforms(nodes: Sequence[Any], built: list[Any]) -> Iterator[Problem]:
    """Of a list of transforms; those that can be built are added to `built`."""
    names = [node.name for node in nodes]
    if names.count("Normalize") != 1:
        yield (), "must have Normalize once, which makes the network's input"
        return
    border = names.index("Normalize")
    for index, node in enumerate(nodes):
        try:
            transform = TRANSFORMS.build(node)
        except ConfigError as error:
            yield (index,), str(error)
            continue
        built.append(transform)
        # A user's transform that does not say what it works on works on pictures.
        on_arrays = getattr(transform, "on_arrays", False)
        if index != border and on_arrays != (index > border):
            works_on, side = ("arrays", "behind") if on_arrays else ("pictures", "before")
            yield (index,), f"{node.name} works on {works_on}; it must stand {side} Normalize"


def _problems_in_sizes(node: Any, transforms: Sequence[Any]) -> Iterator[Problem]:
    """Images that cannot be one batch. Samples are read only where the data decides."""
    known = getattr(DATASETS.get(node.name), "image_size", None)
    mode = node.get("mode", "RGB")
    try:
        made = sizes_made(transforms, known, mode, partial(build_dataset, node))
    except ConfigError:  # the data is not there, or has no channels for Normalize: others say that
        return
    except RunError as error:
        yield (), str(error)
        return
    if len(made) > 1:
        sizes = [f"{h} x {w} of {made[h, w]}" for h, w in sorted(made)]
        yield (
            (),
            f"make images of several sizes, such as {sizes[0]} and {sizes[-1]} (height x width), "
            "which cannot be one batch; let them end in one size, by RandomResizedCrop or by "
            "Resize and CenterCrop",
        )


def _channels_fit(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """Normalize and the network take the channels that the images have."""
    in_chans = _in_chans(cfg)
    for part in parts:
        node, keys = cfg.dataloader[part].dataset, ("dataloader", part, "dataset")
        mode = node.get("mode", "RGB")
        built: list[Any] = []
        if list(_problems_in_transforms(node.transforms, built)):  # _transforms_fit says them
            continue
        try:
            channels = channels_made(built, mode)
        except ConfigError as error:
            yield (*keys, "transforms"), f"for images of mode {mode}: {error}"
            continue
        if None in (channels, in_chans) or channels == in_chans:
            continue
        fitting = [other for other, count in CHANNELS.items() if count == in_chans]
        way = [f"{dotted((*keys, 'mode'))} to {fitting[0]}"] if fitting else []
        yield (
            ("model", "architecture", "in_chans"),
            f"the network takes {_counted(in_chans)}, but images of {dotted(keys)} (mode {mode}) "
            f"have {_counted(channels)}; set {' or '.join([f'it to {channels}', *way])}",
        )


def _num_classes(cfg: Config) -> int | None:
    """The number of classes of the head, or else of the data; None where the data is not there."""
    try:
        return cfg.model.head.get("num_classes") or len(class_names(cfg.dataloader.val.dataset))
    except ConfigError:
        return None


def _in_chans(cfg: Config) -> Any:
    """The backbone's input channels; null for a backbone that has no such option."""
    return BACKBONES.arguments(cfg.model.architecture).get("in_chans")


def _counted(channels: Any) -> str:
    return f"{channels} channel{'' if channels == 1 else 's'}"


def _data_fits(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """The data is there, and has the classes that the head and the other part have."""
    classes: dict[str, list[str]] = {}
    for part in parts:
        node = cfg.dataloader[part].dataset
        try:
            classes[part] = class_names(node)
            chosen_labels(node.get("labels"), classes[part])
        except ValueError as error:  # ConfigError is one too
            place = ("dataloader", part, "dataset", *(["dataroot"] if "dataroot" in node else []))
            yield place, str(error)
    head = cfg.model.head.get("num_classes")
    odd = next(((part, len(names)) for part, names in classes.items() if len(names) != head), None)
    if odd and head is not None:
        rule = (
            f"{head} is not the {odd[1]} classes of dataloader.{odd[0]}; set it to {odd[1]}, or "
            "leave it out"
        )
        if cfg.model.get("pretrained") and "classes" not in cfg.model.get("fit", ()):
            rule += ", and model.fit: [classes] if model.pretrained has another number of classes"
        yield ("model", "head", "num_classes"), rule
    if len(classes) == 2 and classes["train"] != classes["val"]:
        single = sorted(set(classes["train"]) ^ set(classes["val"]))
        rule = (
            "its classes are not those of dataloader.train, so labels would not agree; only "
            f"one of them has {', '.join(single[:5])}"
        )
        yield ("dataloader", "val", "dataset"), rule


_RULES: tuple[
    tuple[tuple[tuple[str, ...], ...], Callable[[Config, Sequence[str]], Iterator[Problem]]], ...
] = (
    ((("model",),), _head_fits_backbone),
    ((("lr_scheduler",), ("epochs",)), _schedule_fits),
    ((("dataloader", "train"), ("model", "head")), _mixup_fits),
    (
        (
            ("dataloader", "train"),
            ("accumulate",),
            ("distillation",),
        ),
        _training_fits,
    ),
    ((("model", "architecture"), ("dataloader",)), _patches_fit),
    ((("loss",), ("model", "head"), ("dataloader",)), _classes_balance),
    ((("dataloader",),), _transforms_fit),
    ((("model", "architecture"), ("dataloader",)), _channels_fit),
    ((("model", "head"), ("dataloader",)), _data_fits),
)
"""Which sections a rule looks at, and the rule."""


def _at(data: Any, keys: Sequence[Any]) -> Any:
    for key in keys:
        data = data[key]
    return data
