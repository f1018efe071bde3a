"""The sections of a config and the rules between them. All errors are reported together.

The type and range of an option are defined with the option (see `passl.utils.schema`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

from passl.data import DATASETS, TRANSFORMS
from passl.data.build import DATASET_OPTIONS, build_dataset, class_names
from passl.data.datasets.images import CHANNELS
from passl.data.datasets.subset import Subset, chosen_labels
from passl.data.loader import Loader
from passl.data.samplers import BatchSampler
from passl.data.transforms.mixup import Mixup
from passl.data.transforms.sizes import channels_made, sizes_made
from passl.distributed.liveness import Timeouts
from passl.engine.attention_log import AttentionLog
from passl.engine.average import WeightAverage
from passl.engine.freezing import Freezing
from passl.engine.mask_rules import head_fits_maps, masks_fit
from passl.engine.precision import Precision
from passl.engine.saver import Saver
from passl.engine.task_rules import tasks_agree
from passl.errors import ConfigError, RunError, shortened
from passl.evaluation import METRICS
from passl.evaluation.attention import has_attention, no_attention
from passl.io.remote import is_url
from passl.modeling import LOSSES
from passl.modeling.backbones import BACKBONES
from passl.modeling.backbones.convit import ConViT
from passl.modeling.heads import HEADS
from passl.modeling.losses import Distilled
from passl.optim import SCHEDULES
from passl.optim.optimizers import OPTIMIZER_SECTION
from passl.utils.config import COMMAND_LINE, Config, dotted, get_config
from passl.utils.schema import Choice, Many, Option, Problem, Section, options_of, section_of
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
                "head": Choice(HEADS, derived=(*HEADS.required, "strides")),
                "pretrained": Option(str | bool | None, False),
                "fit": Option(Sequence[Literal["classes", "resolution", "channels", "head"]], ()),
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
        "metrics": Many(Choice(METRICS), required=False),
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
        "log_config": Section(
            {
                "interval": Option(PositiveInt),
                "images": Option(NonNegativeInt, 8),
                "histograms": Option(bool, False),
                "attention": section_of(AttentionLog),
            }
        ),
    }
)
"""What a training config may have, and must."""


_ELSEWHERE = {
    "model.architecture.num_classes": "a backbone knows no classes; set model.head.num_classes",
    "model.architecture.act_layer": "the activation is called act here",
}
"""Options of other projects' backbones, and where they are here."""

_Rule = Callable[[Config, Sequence[str]], Iterator[Problem]]
"""Takes the config and the parts of the data that must be there, "train" and "val"."""
_RULES: list[tuple[list[Keys], _Rule]] = []
"""The rules between sections, each with the sections that it reads."""


def _reads(*sections: str) -> Callable[[_Rule], _Rule]:
    def add(rule: _Rule) -> _Rule:
        _RULES.append(([tuple(section.split(".")) for section in sections], rule))
        return rule

    return add


def check_config(cfg: Config, for_training: bool = True) -> None:
    """Check all names, keys, types and ranges, and the rules between sections.

    Args:
        for_training: whether the training data must be there; evaluation needs only the validation
            data.

    Raises:
        ConfigError: every problem, each with the file and line of the value, the rule, and the
            closest valid name.
    """
    problems = list(TRAINING.problems(cfg))
    wrong = [keys for keys, _ in problems]
    for sections, rule in _RULES:
        # A rule applies if all that it reads is right, so errors elsewhere do not hide its own.
        if not any(k[: len(s)] == s[: len(k)] for k in wrong for s in sections):
            problems += rule(cfg, ("train", "val") if for_training else ("val",))
    _raise(cfg, problems)


def datasets(cfg: Config, parts: Sequence[str]) -> dict[str, Any]:
    """The dataset nodes of these parts. The rest of the config is not checked.

    Raises:
        ConfigError: what is wrong with them.
    """
    options = {**DATASET_OPTIONS, "transforms": Option(Any, ())}
    choice = Choice(DATASETS, options, check=Subset.check_options)
    problems: list[Problem] = []
    nodes: dict[str, Any] = {}
    for part in parts:
        keys = ("dataloader", part, "dataset")
        try:
            nodes[part] = cfg["dataloader"][part]["dataset"]
            problems += choice.problems(nodes[part], keys)
        except (KeyError, TypeError):
            problems.append(((), f"{dotted(keys)} is missing"))
    _raise(cfg, problems)
    return nodes


def _raise(cfg: Config, problems: Sequence[Problem]) -> None:
    lines = []
    for keys, rule in problems:
        place = dotted(keys)
        rule = _ELSEWHERE.get(place, rule)
        shown = _origin(cfg, keys, rule) if keys else cfg.file
        lines.append(f"{shown}: {place}: {rule}" if keys else f"{shown}: {rule}")
    if lines:
        raise ConfigError(*lines)


def _origin(cfg: Config, keys: Keys, rule: str) -> str:
    """Where a problem stands: of the values in a section, prefer one that the rule names, then one
    of the command line or of the config's own file to one of a base.
    """
    inside = [(place, o) for place, o in cfg.origins.items() if place[: len(keys)] == keys]
    named = set(re.findall(r"\w+", rule))

    def likely(item: tuple[Keys, str]) -> tuple[bool, bool, bool]:
        place, origin = item
        is_named = not named.isdisjoint(map(str, place[len(keys) :]))
        return is_named, origin == COMMAND_LINE, origin.startswith(f"{cfg.file}:")

    return max(inside, key=likely)[1] if inside else str(cfg.file)


# --------------------------------------------------------------------------------------------------
# Rules between sections
# --------------------------------------------------------------------------------------------------
_reads("model.head", "loss", "metrics", "dataloader", "distillation")(tasks_agree)
_reads("dataloader")(masks_fit)
_reads("model")(head_fits_maps)


@_reads("output_dir")
def _folder_is_local(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    if is_url(cfg.output_dir):
        rule = "is an address; name a folder on a disk, and set checkpoint.url to the address"
        yield ("output_dir",), f"{cfg.output_dir} {rule}"


@_reads("lr_scheduler", "epochs")
def _schedule_fits(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    try:
        SCHEDULES.build(cfg.lr_scheduler, 1.0, 1, cfg.epochs)
    except ConfigError as error:
        yield ("lr_scheduler",), str(error)


@_reads("dataloader.train", "accumulate")
def _batches_divide(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    train, accumulate = cfg.dataloader.train, cfg.get("accumulate", 1)
    batch, is_pair = train.sampler.batch_size, train.get("mixup", {}).get("mode") == "pair"
    if "train" not in parts:
        return
    if accumulate > batch:
        rule = f"{accumulate} parts are more than the {batch} samples of a batch; use fewer"
        yield ("accumulate",), rule
    if is_pair and (batch % 2 or not train.sampler.get("drop_last")):
        rule = (
            "mode pair needs batches of an even size: an even dataloader.train.sampler.batch_size, "
            f"not {batch}, and drop_last: true"
        )
        yield ("dataloader", "train", "mixup"), rule


@_reads("distillation", "model.architecture")
def _teacher_fits(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    if "distillation" not in cfg or "train" not in parts:
        return
    keys = ("distillation", "teacher")
    try:
        channels, own = _in_chans(get_config(cfg.distillation.teacher)), _in_chans(cfg)
    except (ConfigError, AttributeError, KeyError) as error:
        yield keys, str(error)
        return
    if None not in (channels, own) and channels != own:
        rule = f"it takes {_counted(channels)}, but the student {_counted(own)}"
        yield keys, f"{rule}; both see the same images"


@_reads("model.architecture", "dataloader")
def _patches_fit(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """Patches divide the images of a ConViT without another backbone in front."""
    options = BACKBONES.arguments(cfg.model.architecture)
    if cfg.model.architecture.name != "ConViT" or options["hybrid_backbone"]:
        return
    patch = options["patch_size"]
    for part in parts:
        keys = ("dataloader", part, "dataset", "transforms")
        sized = [
            (i, node.size)
            for i, node in enumerate(cfg.dataloader[part].dataset.transforms)
            if "size" in node
        ]
        for index, size in sized[-1:]:
            if any(side % patch for side in ([size] if isinstance(size, int) else size)):
                rule = f"{size} does not divide into patches of {patch} pixels"
                yield (*keys, index, "size"), f"{rule}; use a multiple of {patch}"


@_reads("model.architecture", "log_config")
def _attention_is_there(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    options, name = cfg.log_config.get("attention"), cfg.model.architecture.name
    if options is None:
        return
    backbone: Any = BACKBONES.get(name)
    if not has_attention(backbone):
        yield ("log_config", "attention"), f"{no_attention(name)}; or leave this out"
    elif options.get("mode") == "fb" and not issubclass(backbone, ConViT):
        rule = f"fb is for ConViT; the code that it reproduces does not know {name}; use paper"
        yield ("log_config", "attention", "mode"), rule


@_reads("loss", "model.head", "dataloader")
def _weights_fit(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """Class weights and balanced sampling."""
    if cfg.dataloader.val.sampler.get("balanced"):
        keys = ("dataloader", "val", "sampler", "balanced")
        yield keys, "is for training; an evaluation takes each sample once"
    weights, classes = cfg.loss.get("class_weights"), _num_classes(cfg)
    listed = isinstance(weights, Sequence) and weights != "balanced"
    if listed and classes is not None and len(weights) != classes:
        rule = (
            f"{len(weights)} numbers are not one for each of the {classes} classes of the head; "
            "give as many, in the order of the labels, or balanced"
        )
        yield ("loss", "class_weights"), rule


@_reads("dataloader")
def _transforms_fit(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """Every list of transforms can be built, ends with an array, and makes images of one size."""
    for part in parts:
        section, keys = cfg.dataloader[part], ("dataloader", part, "dataset", "transforms")
        transforms, problems = _built_transforms(section.dataset.transforms)
        if not problems and section.sampler.batch_size > 1:  # networks take one image of any size
            problems = list(_problems_in_sizes(section.dataset, transforms))
        yield from (((*keys, *place), rule) for place, rule in problems)


def _built_transforms(nodes: Sequence[Any]) -> tuple[list[Any], list[Problem]]:
    """The transforms, and what is wrong with them."""
    names = [node.name for node in nodes]
    if names.count("Normalize") != 1:
        return [], [((), "must have Normalize once, which makes the network's input")]
    border = names.index("Normalize")
    built: list[Any] = []
    problems: list[Problem] = []
    for index, node in enumerate(nodes):
        try:
            built.append(TRANSFORMS.build(node))
        except ConfigError as error:
            problems.append(((index,), str(error)))
            continue
        on_arrays = getattr(built[-1], "on_arrays", False)  # a user's transform need not say
        if index != border and on_arrays != (index > border):
            takes, side = ("arrays", "after") if on_arrays else ("images", "before")
            rule = f"{node.name} works on {takes}; it must stand {side} Normalize"
            problems.append(((index,), rule))
    return built, problems


def _problems_in_sizes(node: Any, transforms: Sequence[Any]) -> Iterator[Problem]:
    """Images that cannot be one batch. Samples are read only if the transforms keep their size."""
    known = getattr(DATASETS.get(node.name), "image_size", None)
    mode = node.get("mode", "RGB")
    try:
        made = sizes_made(transforms, known, mode, partial(build_dataset, node))
    except ConfigError:  # another rule reports data that is missing, or channels that do not fit
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
            "Resize and CenterCrop, or set sampler.batch_size to 1",
        )


@_reads("model.architecture", "dataloader")
def _channels_fit(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """Normalize and the network take the channels that the images have."""
    in_chans = _in_chans(cfg)
    for part in parts:
        node, keys = cfg.dataloader[part].dataset, ("dataloader", part, "dataset")
        mode = node.get("mode", "RGB")
        transforms, problems = _built_transforms(node.transforms)
        if problems:
            continue
        try:
            channels = channels_made(transforms, mode)
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


_FILES = ("list_file", "csv_file", "class_file", "labels")
"""Options of datasets that name a text file."""


@_reads("model.head", "dataloader")
def _data_fits(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """The data is there, and has the classes of the head and of the other part."""
    classes: dict[str, list[str]] = {}
    for part in parts:
        node = cfg.dataloader[part].dataset
        try:
            classes[part] = class_names(node)
            chosen_labels(node.get("labels"), classes[part])
        except ValueError as error:  # ConfigError is one too
            for rule in getattr(error, "problems", (str(error),)):
                # A message about a file starts with its name.
                named = [key for key in _FILES if rule.startswith(f"{node.get(key)}:")]
                named += ["labels"] if rule.startswith("labels:") else []
                named += ["dataroot"] if "dataroot" in node else []
                yield ("dataloader", part, "dataset", *named[:1]), rule.removeprefix("labels: ")
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
            f"one of them has {shortened(single)}"
        )
        yield ("dataloader", "val", "dataset"), rule


def _num_classes(cfg: Config) -> int | None:
    """The number of classes of the head, or else of the data; None if the data is not there."""
    try:
        return cfg.model.head.get("num_classes") or len(class_names(cfg.dataloader.val.dataset))
    except ConfigError:
        return None


def _in_chans(cfg: Config) -> Any:
    """The backbone's input channels; None for a backbone that has no such option."""
    return BACKBONES.arguments(cfg.model.architecture).get("in_chans")


def _counted(channels: Any) -> str:
    return f"{channels} channel{'' if channels == 1 else 's'}"
