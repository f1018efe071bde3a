"""The rules of a config for segmentation: masks, their transforms, and the feature maps."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from passl.data import TRANSFORMS
from passl.data.build import build_dataset, class_names, task_of
from passl.data.transforms.masks import masks_problem
from passl.errors import ConfigError, RunError
from passl.modeling.backbones import BACKBONES
from passl.modeling.heads import HEADS
from passl.utils.config import Config
from passl.utils.schema import Problem

_READ = 32
"""Samples that are read; check-data reads all."""


def masks_fit(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """Transforms can be applied to masks, and some masks of the data are read."""
    for part in parts:
        section, keys = cfg.dataloader[part], ("dataloader", part, "dataset")
        if task_of(section.dataset) != "segmentation":
            continue
        for index, node in enumerate(section.dataset.transforms):
            try:
                problem = masks_problem(TRANSFORMS.build(node), part == "train")
            except ConfigError:  # another rule reports it
                continue
            if problem is not None:
                yield (*keys, "transforms", index), problem
        try:
            class_names(section.dataset)
        except ConfigError:  # another rule reports it
            continue
        try:
            sizes = _sizes(section.dataset)
        except ConfigError as error:
            yield from ((keys, problem) for problem in error.problems)
            continue
        except RunError as error:
            yield keys, f"{error}; check-data finds all such files"
            continue
        if part == "val" and section.sampler.batch_size > 1 and len(sizes) > 1:
            (a, b), (c, d) = sorted(sizes)[:: len(sizes) - 1]
            rule = f"masks have several sizes, such as {a} x {b} and {c} x {d} (height x width)"
            yield (
                ("dataloader", "val", "sampler", "batch_size"),
                f"{rule}, and each is scored at its own; set it to 1",
            )


def _sizes(node: Any) -> set[tuple[int, int]]:
    """The sizes of some masks, spread over the dataset.

    Raises:
        RunError: one cannot be read, or does not fit its image or the classes.
    """
    dataset = build_dataset(node)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, _READ).astype(int)).tolist()
    return {np.shape(dataset[index][1]) for index in chosen}  # type: ignore[misc]


def head_fits_maps(cfg: Config, parts: Sequence[str]) -> Iterator[Problem]:
    """The feature maps of our own networks make a pyramid; `Model` checks it for all."""
    head, architecture = cfg.model.head, cfg.model.architecture
    options = BACKBONES.arguments(architecture)
    if not getattr(HEADS.get(head.name), "takes_maps", False):
        return
    if architecture.name == "ConViT" and options["hybrid_backbone"] is None:
        channels = [options["embed_dim"]] * options["depth"]
        strides = [options["patch_size"]] * options["depth"]
    elif architecture.name == "CvT":
        channels, own = list(options["embed_dim"]), options["patch_stride"]
        each = [own] * len(channels) if isinstance(own, int) else own
        strides = list(itertools.accumulate(each, operator.mul))
    else:
        return
    indices = HEADS.arguments(head).get("out_indices")
    count = len(channels)
    for index in indices or ():
        if not -count <= index < count:
            rule = f"there is no feature map {index}; this network has 0 to {count - 1}"
            yield ("model", "head", "out_indices"), rule
            return
    chosen = range(count) if indices is None else indices
    maps = {"in_channels": [channels[i] for i in chosen], "strides": [strides[i] for i in chosen]}
    try:
        known = HEADS.options(head.name)
        own = {key: value for key, value in maps.items() if key in known}
        HEADS.check({**head, "num_classes": 1, **own})
    except ConfigError as error:
        yield from ((("model", "head"), problem) for problem in error.problems)
