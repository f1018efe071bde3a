"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), read from the Python archives of their authors."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from passl.data import DATASETS
from passl.data.datasets.base import ImageDataset
from passl.errors import CheckpointError, ConfigError
from passl.io.download import fetch_file
from passl.io.files import open_regular
from passl.io.limits import GROWTH, in_line
from passl.io.plain_arrays import Array, ArrayUnpickler

SIDE = 32
CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_COARSE_CLASSES = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
household_furniture insects large_carnivores large_man-made_outdoor_things
large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals non-insect_invertebrates
people reptiles small_mammals trees vehicles_1 vehicles_2
"""
_MAX_BYTES = 2**28
"""Limit for a batch, and for a decompressed archive, which has 186 million."""


class _Cifar(ImageDataset):
    """The common part of both.

    Attributes:
        archive: name of the published file.
        sha256: its hash.
        folder: the folder in it.
        batches: the files of each split.
    """

    image_size = (SIDE, SIDE)
    url = "https://www.cs.toronto.edu/~kriz/"
    archive: str
    sha256: str
    folder: str
    batches: Mapping[str, Sequence[str]]

    def __init__(self, dataroot: str, split: str, download: bool, key: str, classes: list[str]):
        self._check(dataroot, download)
        if self._find(dataroot) is None:
            path = Path(dataroot) / self.archive
            fetch_file(type(self).__name__, self.url + self.archive, path, sha256=self.sha256)
        self.split, self.classes = split, classes
        parts = [
            _parse_batch(file, content, key, len(classes))
            for file, content in self._read(dataroot, self.batches[split])
        ]
        # Rows of one channel after the other -> [N, 32, 32, 3].
        flat = np.concatenate([pixels for pixels, _ in parts])
        self.pixels = np.ascontiguousarray(flat.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
        self.labels = np.concatenate([labels for _, labels in parts])

    def load_image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def name(self, index: int) -> str:
        """Return the split and the number of the sample in it."""
        return f"{type(self).__name__} {self.split} {index}"

    @classmethod
    def _check(cls, dataroot: str, download: bool) -> None:
        """Raise ConfigError unless the data is there or can be downloaded."""
        if not download and cls._find(dataroot) is None:
            raise ConfigError(
                f"{dataroot}: has neither {cls.folder} nor {cls.archive}; put {cls.url}"
                f"{cls.archive} there, or set download: true"
            )

    @classmethod
    def _find(cls, dataroot: str) -> Path | None:
        """Return the folder of the batches, or the archive."""
        root = Path(dataroot)
        if (root / cls.folder).is_dir():
            return root / cls.folder
        if (root / cls.batches["train"][0]).is_file():
            return root
        return root / cls.archive if (root / cls.archive).is_file() else None

    def _read(self, dataroot: str, names: Sequence[str]) -> list[tuple[Path, bytes]]:
        place = self._find(dataroot)
        assert place is not None
        if place.is_dir():
            return [(place / name, _read_file(place / name)) for name in names]
        members = [f"{self.folder}/{name}" for name in names]
        with _open_archive(place) as archive:
            found = {os.path.normpath(member.name): member for member in archive if member.isfile()}
            missing = [name for name in members if name not in found]
            if missing:
                raise ConfigError(
                    f"{place}: has no {missing[0]}; download it again from {self.url}{self.archive}"
                )
            return [
                (place / name, archive.extractfile(found[name]).read())  # type: ignore[union-attr]
                for name in members
            ]


@DATASETS.register
class CIFAR10(_Cifar):
    """60,000 images of 32x32 pixels in 10 classes: 50,000 for training, 10,000 for testing.

    Args:
        dataroot: folder that contains `cifar-10-python.tar.gz`, or `cifar-10-batches-py` from it,
            or that is this folder.
        split: `train` or `test`; `val` is another name of `test`.
        download: download the archive into `dataroot` if neither is there. Nothing is overwritten.

    Raises:
        ConfigError: the data is missing or damaged.
        RunError: the download fails.

    Example:
        {name: CIFAR10, dataroot: data, split: train, download: true}
    """

    archive = "cifar-10-python.tar.gz"
    sha256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    folder = "cifar-10-batches-py"
    batches = {
        "train": [f"data_batch_{number}" for number in range(1, 6)],
        "val": ["test_batch"],
        "test": ["test_batch"],
    }

    def __init__(
        self, *, dataroot: str, split: Literal["train", "val", "test"], download: bool = False
    ):
        super().__init__(dataroot, split, download, "labels", CIFAR10_CLASSES.split())

    @classmethod
    def class_names(  # type: ignore[override]
        cls, *, dataroot: str, download: bool = False, **_: Any
    ) -> list[str]:
        """Return the ten classes, without a download."""
        cls._check(dataroot, download)
        return CIFAR10_CLASSES.split()


@DATASETS.register
class CIFAR100(_Cifar):
    """60,000 images of 32x32 pixels in 100 classes, or in 20 groups of them: 50,000 for training,
    10,000 for testing.

    Args:
        dataroot: folder that contains `cifar-100-python.tar.gz`, or `cifar-100-python` from it, or
            that is this folder.
        split: `train` or `test`; `val` is another name of `test`.
        download: download the archive into `dataroot` if neither is there. Nothing is overwritten.
        label_mode: `fine` for the 100 classes, `coarse` for the 20 groups.

    Raises:
        ConfigError: the data is missing or damaged.
        RunError: the download fails.

    Example:
        {name: CIFAR100, dataroot: data, split: test, label_mode: coarse}
    """

    archive = "cifar-100-python.tar.gz"
    sha256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
    folder = "cifar-100-python"
    batches = {"train": ["train"], "val": ["test"], "test": ["test"]}

    def __init__(
        self,
        *,
        dataroot: str,
        split: Literal["train", "val", "test"],
        download: bool = False,
        label_mode: Literal["fine", "coarse"] = "fine",
    ):
        classes = self.class_names(dataroot=dataroot, download=download, label_mode=label_mode)
        super().__init__(dataroot, split, download, f"{label_mode}_labels", classes)

    @classmethod
    def class_names(  # type: ignore[override]
        cls, *, dataroot: str, download: bool = False, label_mode: str = "fine", **_: Any
    ) -> list[str]:
        """Return the 100 classes or the 20 groups, without a download."""
        cls._check(dataroot, download)
        return (CIFAR100_CLASSES if label_mode == "fine" else CIFAR100_COARSE_CLASSES).split()


# --------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------
class _BatchUnpickler(ArrayUnpickler):
    purpose = "images"
    advice = "Download the file again"


def _parse_batch(
    file: Path, content: bytes, key: str, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels [N, 3072] and labels [N] of a batch."""
    try:
        batch = _BatchUnpickler(file, GROWTH * len(content)).load(content)
        # Python 3 reads Python 2's strings as bytes, and may have saved them as either.
        named = {_text(name): value for name, value in batch.items()}
        pixels, labels = _parse_pixels(named["data"]), _parse_labels(named[key], classes)
        if len(pixels) != len(labels):
            raise ValueError(f"it has {len(pixels)} images and {len(labels)} {key}")
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise ConfigError(
            f"{file}: damaged, or not a batch of images: {in_line(error)}; download it again"
        ) from None
    return pixels, labels


def _text(name: Any) -> Any:
    return name.decode("latin-1") if type(name) is bytes else name


def _parse_pixels(value: Any) -> np.ndarray:
    array = value.array if isinstance(value, Array) else None
    if array is None or array.dtype != np.uint8 or array.shape[1:] != (3 * SIDE * SIDE,):
        shown = "not an array" if array is None else f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"data is {shown}, but must be uint8 [N, {3 * SIDE * SIDE}]")
    return array


def _parse_labels(value: Any, classes: int) -> np.ndarray:
    if type(value) is not list or not all(type(label) is int for label in value):
        raise ValueError("its labels are not a list of numbers")
    wrong = [label for label in value if not 0 <= label < classes]
    if wrong:
        raise ValueError(f"label {str(wrong[0])[:20]} is not below {classes}")
    return np.asarray(value, dtype=np.int64)


def _read_file(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{path}: is larger than any batch; download it again")
    return content


def _open_archive(path: Path) -> tarfile.TarFile:
    """Decompress an archive in memory, so that no member can be larger than what is read."""
    try:
        with gzip.open(path) as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"it decompresses to more than {_MAX_BYTES:,} bytes")
        return tarfile.open(fileobj=io.BytesIO(content), mode="r:")
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise ConfigError(
            f"{path}: damaged or incomplete: {in_line(error)}; download it again"
        ) from None
