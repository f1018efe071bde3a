"""The rules of a config that follow from the task of its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from passl.data.build import task_of
from passl.evaluation import METRICS
from passl.modeling import LOSSES
from passl.modeling.heads import HEADS
from passl.utils.config import Config
from passl.utils.registry import Registry
from passl.utils.schema import Problem
from passl.utils.yaml import Keys

_TASKS_WITH = {
    "distillation": ("classification",),
    "loss.class_weights": ("classification", "segmentation"),
    "loss.label_smoothing": ("classification",),
    "dataloader.train.sampler.balanced": ("classification",),
    "dataloader.train.mixup": ("classification", "multilabel"),
    "dataloader.train.dataset.labels": ("classification",),
    "dataloader.val.dataset.labels": ("classification",),
}
"""Options that not every task has."""


def tasks_agree(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """Head, loss, metrics and options are for the task of the data."""
    task = task_of(cfg.dataloader.val.dataset)
    if "train" in parts and task_of(cfg.dataloader.train.dataset) != task:
        name, other = cfg.dataloader.val.dataset.name, task_of(cfg.dataloader.train.dataset)
        rule = f"{name} is for {task}, but dataloader.train for {other}; choose one task"
        yield ("dataloader", "val", "dataset", "name"), rule
        return
    nodes: list[tuple[Keys, Registry]] = [(("model", "head"), HEADS), (("loss",), LOSSES)]
    nodes += [(("metrics", index), METRICS) for index in range(len(cfg.get("metrics") or ()))]
    for keys, registry in nodes:
        name = _at(cfg, keys)["name"]
        if task not in _tasks(registry, name):
            fitting = [other for other in registry.names() if task in _tasks(registry, other)]
            way = f"choose {' or '.join(fitting)}" if fitting else "leave it out"
            rule = (
                f"{name} is for {' and '.join(_tasks(registry, name))}, but the data is for {task}"
            )
            yield (*keys, "name"), f"{rule}; {way}"
    for option, tasks in _TASKS_WITH.items():
        keys = tuple(option.split("."))
        if _at(cfg, keys) and task not in tasks:
            yield keys, f"is for {' and '.join(tasks)}, but the data is for {task}; leave it out"


def _tasks(registry: Registry, name: str) -> Sequence[str]:
    entry = registry.get(name)
    return getattr(entry, "tasks", (getattr(entry, "task", "classification"),))


def _at(cfg: Any, keys: Keys) -> Any:
    """A value of the config; null if it is not there."""
    for key in keys:
        cfg = cfg[key] if isinstance(key, int) else cfg.get(key)
        if cfg is None:
            return None
    return cfg
