"""Pictures to batches. The registries are here; importing them does not import paddle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from passl.utils.registry import Registry
from passl.utils.schema import Parameter, read_signature

DATASETS = Registry(
    "dataset",
    {
        "CIFAR10": "passl.data.datasets.cifar:CIFAR10",
        "CIFAR100": "passl.data.datasets.cifar:CIFAR100",
        "Digits": "passl.data.datasets.digits:Digits",
        "ImageFolder": "passl.data.datasets.image_folder:ImageFolder",
        "ImageList": "passl.data.datasets.image_list:ImageList",
        "TarShards": "passl.data.datasets.tar_shards:TarShards",
    },
    {
        "ImageFolder": "passl.data.rules:image_files",
        "ImageList": "passl.data.rules:image_files",
        "TarShards": "passl.data.rules:tar_shards",
    },
)
"""A data set is an `ImageDataset`, whose docstring is the contract."""

DATASET_OPTIONS: dict[str, Parameter] = dict(read_signature("passl.data.datasets.subset:Subset"))
"""What the node of every data set may have beside the data set's own arguments."""


def dataset_arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a data set's constructor, and of its `class_names`: the node without its
    name, its transforms, and what all data sets have.
    """
    others = ("name", "transforms", *DATASET_OPTIONS)
    return {key: value for key, value in node.items() if key not in others}


def dataset_options(node: Mapping[str, Any]) -> dict[str, Any]:
    """What the node has of `DATASET_OPTIONS`: the keyword arguments of `Subset` and of
    `subset.check_options`.
    """
    return {key: value for key, value in node.items() if key in DATASET_OPTIONS}


TRANSFORMS = Registry(
    "transform",
    {
        **{
            name: f"passl.data.transforms.basic:{name}"
            for name in (
                "CenterCrop",
                "ColorJitter",
                "GaussianBlur",
                "Normalize",
                "RandomCrop",
                "RandomGrayscale",
                "RandomHorizontalFlip",
                "RandomResizedCrop",
                "Resize",
            )
        },
        "AutoAugment": "passl.data.transforms.auto_augment:AutoAugment",
        "RandAugment": "passl.data.transforms.auto_augment:RandAugment",
        "RandomErasing": "passl.data.transforms.random_erasing:RandomErasing",
        "ThreeAugment": "passl.data.transforms.auto_augment:ThreeAugment",
    },
)
"""A transform is called with a picture and a `numpy.random.Generator`, and draws from that
generator only. Pictures are PIL images until `Normalize`, which makes the array that the network
takes, float32 [channels, height, width]; after it come those whose class attribute `on_arrays` is
true. What it gives is new: what it is given is not changed. It is also called with a few made-up
pictures, to learn the sizes that it makes.
"""
