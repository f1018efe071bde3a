"""Images to batches. The registries are here; importing them does not import paddle."""

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
"""A dataset is an `ImageDataset`, whose docstring is the contract."""

DATASET_OPTIONS: dict[str, Parameter] = dict(read_signature("passl.data.datasets.subset:Subset"))
"""What the node of every dataset may have beside the dataset's own arguments."""


def dataset_arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a dataset's constructor, and of its `class_names`: the node without its
    name, its transforms, and what all datasets have.
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
        "AutoAugment": "passl.data.transforms.auto_augment:AutoAugment",
        "CenterCrop": "passl.data.transforms.geometry:CenterCrop",
        "ColorJitter": "passl.data.transforms.color:ColorJitter",
        "GaussianBlur": "passl.data.transforms.color:GaussianBlur",
        "Normalize": "passl.data.transforms.normalize:Normalize",
        "RandAugment": "passl.data.transforms.auto_augment:RandAugment",
        "RandomCrop": "passl.data.transforms.geometry:RandomCrop",
        "RandomErasing": "passl.data.transforms.random_erasing:RandomErasing",
        "RandomGrayscale": "passl.data.transforms.color:RandomGrayscale",
        "RandomHorizontalFlip": "passl.data.transforms.geometry:RandomHorizontalFlip",
        "RandomResizedCrop": "passl.data.transforms.geometry:RandomResizedCrop",
        "Resize": "passl.data.transforms.geometry:Resize",
        "ThreeAugment": "passl.data.transforms.auto_augment:ThreeAugment",
    },
)
"""A transform is called with an image and a `numpy.random.Generator`, and draws from that
generator only. Images are PIL images until `Normalize`, which makes the array that the network
takes, float32 [channels, height, width]; after it come those whose class attribute `on_arrays` is
true. What it gives is new: what it is given is not changed. It is also called with a few made-up
images, to learn the sizes that it makes.
"""
