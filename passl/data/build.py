"""Build datasets and transforms from their config nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from passl.data import DATASET_OPTIONS, DATASETS, TRANSFORMS, dataset_options
from passl.data.datasets.base import ImageDataset
from passl.data.datasets.subset import Subset
from passl.errors import ConfigError
from passl.utils.config import dotted
from passl.utils.schema import Section, problems_in


def build_dataset(node: Mapping[str, Any]) -> ImageDataset:
    """Build the dataset of a `dataset` node, without its transforms.

    Raises:
        ConfigError: the node is wrong, or the data is missing.
    """
    options = dataset_options(node)
    problems = [
        f"dataset: {dotted(keys)}: {rule}"
        for keys, rule in problems_in(Section(DATASET_OPTIONS), options)
    ]
    if problems:
        raise ConfigError(*problems)
    others = (*DATASET_OPTIONS, "transforms")
    dataset = DATASETS.build({key: value for key, value in node.items() if key not in others})
    return Subset(dataset, **options) if options else dataset


def build_transforms(nodes: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Build the transforms of a `transforms` list."""
    return [TRANSFORMS.build(node) for node in nodes]
