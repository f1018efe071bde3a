"""Build datasets and transforms from their config nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from passl.data import DATASETS, TRANSFORMS
from passl.data.datasets.base import ImageDataset
from passl.data.datasets.subset import Subset
from passl.utils.schema import Option, options_of

DATASET_OPTIONS: Mapping[str, Option] = options_of(Subset)
"""Options that the node of every dataset can have besides those of the dataset."""


def dataset_arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a dataset's constructor and of its `class_names`: the node without
    its name, its transforms and `DATASET_OPTIONS`.
    """
    others = ("name", "transforms", *DATASET_OPTIONS)
    return {key: value for key, value in node.items() if key not in others}


def build_dataset(node: Mapping[str, Any]) -> ImageDataset:
    """Build the dataset of a `dataset` node, without its transforms.

    Raises:
        ConfigError: the node is wrong, or the data is missing.
    """
    options = {key: value for key, value in node.items() if key in DATASET_OPTIONS}
    own = {key: value for key, value in node.items() if key not in (*options, "transforms")}
    dataset = DATASETS.build(own)
    return Subset(dataset, **options) if options else dataset


def class_names(node: Mapping[str, Any]) -> list[str]:
    """Return the class names of the dataset of a `dataset` node, in the order of their labels. No
    samples are read.

    Raises:
        ConfigError: the data is missing.
    """
    return DATASETS.get(node["name"]).class_names(**dataset_arguments(node))  # type: ignore[attr-defined]


def task_of(node: Mapping[str, Any]) -> str:
    """Return the task of the dataset of a `dataset` node, see `ImageDataset`."""
    return DATASETS.get(node["name"]).task  # type: ignore[attr-defined]


def build_transforms(nodes: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Build the transforms of a `transforms` list."""
    return [TRANSFORMS.build(node) for node in nodes]
