"""Everything that can be known to be wrong with a config before paddle is imported, all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from passl.data import DATASETS, TRANSFORMS
from passl.modeling import LOSSES
from passl.modeling.backbones import BACKBONES
from passl.modeling.heads import HEADS
from passl.optim import OPTIMIZER_SECTION, SCHEDULES
from passl.utils.config import COMMAND_LINE, Config, dotted
from passl.utils.errors import ConfigError
from passl.utils.schema import Choice, Many, Parameter, Problem, Section, problems_in, read_signature

_SAMPLER = Section(read_signature("passl.data.samplers:BatchSampler"))
_LOADER = Section(read_signature("passl.data.loader:Loader"), required=False)


def _data(required: bool = True) -> Section:
    dataset = Choice(DATASETS, {"transforms": Many(Choice(TRANSFORMS))})
    return Section({"dataset": dataset, "sampler": _SAMPLER, "loader": _LOADER}, required)


_MODEL = Section(
    {
        "name": Parameter("Literal['Model', 'CvTWrapper']", "Model"),  # CvTWrapper is what PASSL calls the same thing
        "architecture": Choice(BACKBONES),
        "head": Choice(HEADS),
        "pretrained": Parameter("str | bool", False),
    }
)
_EVALUATION = {
    "model": _MODEL,
    "device": Parameter("Literal['auto', 'cpu', 'gpu']", "auto"),
    "seed": Parameter("int", 0),
}
TRAINING = Section(
    {
        **_EVALUATION,
        "dataloader": Section({"train": _data(), "val": _data()}),
        "epochs": Parameter("int"),
        "output_dir": Parameter("str"),
        "loss": Choice(LOSSES),
        "lr_scheduler": Choice(SCHEDULES),
        "optimizer": OPTIMIZER_SECTION,
        "log_config": Section({"interval": Parameter("int")}),
    }
)
"""What a training config may have, and must."""


def check_config(cfg: Config, for_training: bool = True) -> None:
    """Check names, keys and types everywhere, and what must fit together.

    Args:
        for_training: whether the training data must be there; evaluation needs only the validation data.

    Raises:
        ConfigError: every problem, each with the file and line of the value, the rule, and the closest valid name.
    """
    problems = list(problems_in(TRAINING, cfg))
    if not problems:  # what does not have the right form cannot be checked for sense
        problems = [problem for rule in _RULES for problem in rule(cfg)]
        problems += _data_problems(cfg, ("train", "val") if for_training else ("val",))
    if problems:
        raise ConfigError(*(_line(cfg, *problem) for problem in problems))


def _line(cfg: Config, keys: Sequence[Any], rule: str) -> str:
    inside = [origin for place, origin in cfg.origins.items() if place[: len(keys)] == tuple(keys)]
    origin = cfg.origins.get(tuple(keys)) or (inside[0] if keys and inside else str(cfg.file))
    shown = "the command line (-o)" if origin == COMMAND_LINE else origin
    return f"{shown}: {dotted(tuple(keys))}: {rule}" if keys else f"{shown}: {rule}"


# ---------------------------------------------------------------------------------------------------------------------
# Rules between values
# ---------------------------------------------------------------------------------------------------------------------
def _numbers(cfg: Config) -> Iterator[Problem]:
    """Counts that cannot be zero, and rates that cannot be negative."""
    at_least_one = [("epochs",), ("log_config", "interval")]
    at_least_one += [("dataloader", part, "sampler", "batch_size") for part in ("train", "val")]
    for keys in at_least_one:
        if _at(cfg, keys) < 1:
            yield keys, f"must be at least 1, not {_at(cfg, keys)}"
    if cfg.optimizer.lr < 0:
        yield ("optimizer", "lr"), f"must not be negative, not {cfg.optimizer.lr}"
    if cfg.get("seed", 0) < 0:
        yield ("seed",), f"must not be negative, not {cfg.seed}"


def _head_fits_backbone(cfg: Config) -> Iterator[Problem]:
    width = BACKBONES.arguments(cfg.model.architecture).get("embed_dim")
    width = width[-1] if isinstance(width, Sequence) and width else width
    if isinstance(width, int) and cfg.model.head.in_channels != width:
        yield ("model", "head", "in_channels"), f"{cfg.model.head.in_channels} is not the backbone's width; set it to {width}"


def _warm_up_fits(cfg: Config) -> Iterator[Problem]:
    warmup = SCHEDULES.arguments(cfg.lr_scheduler).get("warmup_epochs", 0)
    if not 0 <= warmup <= cfg.epochs:
        yield ("lr_scheduler", "warmup_epochs"), f"{warmup} must lie between 0 and the {cfg.epochs} epochs of the run"


def _pictures_fit_network(cfg: Config) -> Iterator[Problem]:
    """Every list of transforms ends with an array, of a size that the patches divide."""
    architecture = BACKBONES.arguments(cfg.model.architecture)
    patch = architecture.get("patch_size")
    for part in ("train", "val"):
        keys = ("dataloader", part, "dataset", "transforms")
        transforms = _at(cfg, keys)
        if not transforms or transforms[-1].name != "Normalize" or any(t.name == "Normalize" for t in transforms[:-1]):
            yield keys, "must end with Normalize, which makes the network's input, and have it only there"
        sized = [(index, node.size) for index, node in enumerate(transforms) if "size" in node]
        if not isinstance(patch, int) or architecture.get("hybrid_backbone") or not sized:
            continue
        index, size = sized[-1]
        if any(side % patch or side < patch for side in ([size] if isinstance(size, int) else size)):
            yield (*keys, index, "size"), f"{size} does not divide into patches of {patch} pixels; use a multiple of {patch}"


_RULES: tuple[Callable[[Config], Iterator[Problem]], ...] = (_numbers, _head_fits_backbone, _warm_up_fits, _pictures_fit_network)


def _data_problems(cfg: Config, parts: Sequence[str]) -> list[Problem]:
    """The data is there, and has the classes that the head and the other part have."""
    problems: list[Problem] = []
    classes: dict[str, list[str]] = {}
    for part in parts:
        node = cfg.dataloader[part].dataset
        arguments = {key: value for key, value in node.items() if key not in ("name", "transforms")}
        try:
            classes[part] = DATASETS.get(node.name).class_names(**arguments)
        except ConfigError as error:
            problems.append((("dataloader", part, "dataset"), str(error)))
    head = cfg.model.head.num_classes
    for part, names in classes.items():
        if len(names) != head:
            rule = f"{head} is not the {len(names)} classes of dataloader.{part}; set it to {len(names)}"
            problems.append((("model", "head", "num_classes"), rule))
            break
    if len(classes) == 2 and classes["train"] != classes["val"]:
        odd = sorted(set(classes["train"]) ^ set(classes["val"]))
        rule = f"its classes are not those of dataloader.train, so labels would not agree; only one of them has {', '.join(odd[:5])}"
        problems.append((("dataloader", "val", "dataset"), rule))
    return problems


def _at(data: Any, keys: Sequence[Any]) -> Any:
    for key in keys:
        data = data[key]
    return data
