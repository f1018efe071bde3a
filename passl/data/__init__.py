"""Images to batches, and the registries of datasets and transforms."""

from passl.utils.registry import Registry

DATASETS = Registry(
    "dataset",
    [
        f"passl.data.datasets.{module}"
        for module in (
            *("cifar", "digit_scenes", "digits", "image_folder", "image_list", "mask_folder"),
            *("mnist", "multilabel", "tar_shards"),
        )
    ],
)
"""A dataset is an `ImageDataset`, whose docstring is the contract."""

TRANSFORMS = Registry(
    "transform",
    [
        f"passl.data.transforms.{module}"
        for module in (
            *("auto_augment", "color", "corruption", "geometry", "normalize"),
            "random_erasing",
        )
    ],
)
"""A transform is called with an image and a `numpy.random.Generator`, and draws random numbers from
that generator only. Images are PIL images until `Normalize` makes the array that the network takes,
float32 [channels, height, width]; transforms after it have the class attribute `on_arrays = True`.
The result is a new object: the argument is not changed. To learn the sizes of results, transforms
are also called with a few synthetic images. `passl.data.transforms.masks` says what a transform has
for segmentation.
"""
