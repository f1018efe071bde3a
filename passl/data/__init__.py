"""Pictures to batches. The registries are here; importing them does not import paddle."""

from __future__ import annotations

from passl.utils.registry import Registry

DATASETS = Registry(
    "dataset",
    {
        "Digits": "passl.data.digits:Digits",
        "ImageFolder": "passl.data.image_folder:ImageFolder",
    },
)
"""A dataset has `len()`, `dataset[index] -> (PIL image in RGB, label)`, `name(index)` for messages,
`classes`, the names of its labels, and a static method `class_names(...)` that takes the
constructor's arguments and finds them at once, without looking at any picture. It raises
ConfigError for what the user must correct and RunError for a picture that cannot be read.
"""

TRANSFORMS = Registry(
    "transform",
    {
        name: f"passl.data.transforms:{name}"
        for name in (
            "CenterCrop",
            "Normalize",
            "RandomHorizontalFlip",
            "RandomResizedCrop",
            "Resize",
        )
    },
)
"""A transform is called with a picture and a `numpy.random.Generator`, and draws from that
generator only. Pictures are PIL images until `Normalize`, which ends every list and makes the array
that the network takes.
"""
