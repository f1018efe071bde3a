"""Images to batches, and the registries of datasets and transforms."""

from passl.utils.registry import Registry

DATASETS = Registry(
    "dataset",
    [
        f"passl.data.datasets.{module}"
        for module in ("cifar", "digits", "image_folder", "image_list", "tar_shards")
    ],
)
"""A dataset is an `ImageDataset`, whose docstring is the contract."""

TRANSFORMS = Registry(
    "transform",
    [
        f"passl.data.transforms.{module}"
        for module in ("auto_augment", "color", "geometry", "normalize", "random_erasing")
    ],
)
"""A transform is called with an image and a `numpy.random.Generator`, and draws from that
generator only. Images are PIL images until `Normalize`, which makes the array that the network
takes, float32 [channels, height, width]; after it come those whose class attribute `on_arrays` is
true. What it gives is new: what it is given is not changed. It is also called with a few made-up
images, to learn the sizes that it makes.
"""
