"""MNIST and Fashion-MNIST, read from the IDX files of their authors."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from passl.data import DATASETS
from passl.data.datasets.base import ImageDataset
from passl.errors import ConfigError
from passl.io.download import fetch_file, problem_of

SIDE = 28
FASHION_CLASSES = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag"
Split = Literal["train", "val", "test", "train_part", "holdout"]
_HEADERS = {"images-idx3": 16, "labels-idx1": 8}
"""Bytes before the values: a type, and the length of each dimension."""


class _Idx(ImageDataset):
    """The common part of both.

    Attributes:
        url: folder of the published files.
        files: SHA-256 of each file. The first is the authors', which a download must have; a file
            that is there may have any of them.
        folders: where a file may be if it is not in `dataroot`.
        part: number of samples in `train_part`; `holdout` has the rest.
    """

    image_size = (SIDE, SIDE)
    url: str
    files: Mapping[str, Sequence[str]]
    folders: Sequence[str] = ()
    part = 55_000

    def __init__(self, dataroot: str, split: Split, download: bool):
        self.classes = self.class_names(dataroot=dataroot, split=split, download=download)
        images, labels = (
            np.frombuffer(self._read(name, dataroot, download), np.uint8, offset=header)
            for name, header in zip(self._names(split), _HEADERS.values(), strict=True)
        )
        parts = {"train_part": slice(self.part), "holdout": slice(self.part, None)}
        chosen = parts.get(split, slice(None))
        self.pixels = images.reshape(-1, SIDE, SIDE)[chosen]
        self.labels = labels[chosen].astype(np.int64)
        self._first = chosen.start or 0
        self._file = "test" if split in ("val", "test") else "train"

    def load_image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def name(self, index: int) -> str:
        """Return `train` or `test` and the number of the sample in that file."""
        return f"{type(self).__name__} {self._file} {self._first + index}"

    @classmethod
    def class_names(  # type: ignore[override]
        cls, *, dataroot: str, split: Split, download: bool = False, **_: Any
    ) -> list[str]:
        """Return the ten classes, without a download.

        Raises:
            ConfigError: a file is missing and may not be downloaded.
        """
        missing = [name for name in cls._names(split) if cls._find(name, dataroot) is None]
        if missing and not download:
            others = "".join(f", nor has {folder}" for folder in cls.folders)
            raise ConfigError(
                f"{dataroot}: has no {' and no '.join(missing)}{others}; put them there from "
                f"{cls.url}, or set download: true"
            )
        return cls._classes()

    @staticmethod
    def _classes() -> list[str]:
        raise NotImplementedError

    @staticmethod
    def _names(split: Split) -> list[str]:
        """Return the file of the images and that of the labels."""
        prefix = "t10k" if split in ("val", "test") else "train"
        return [f"{prefix}-{kind}-ubyte.gz" for kind in _HEADERS]

    @classmethod
    def _find(cls, name: str, dataroot: str) -> Path | None:
        paths = (Path(folder) / name for folder in (dataroot, *cls.folders))
        return next((path for path in paths if path.is_file()), None)

    def _read(self, name: str, dataroot: str, download: bool) -> bytes:
        """Return the content of a file, whose hash is one of the published ones."""
        published, path = self.files[name], self._find(name, dataroot)
        problems = [path and problem_of(path, sha256) for sha256 in published]
        if path is None or (all(problems) and download):
            path = Path(dataroot) / name
            fetch_file(f"{type(self).__name__} {name}", self.url + name, path, sha256=published[0])
        elif all(problems):
            raise ConfigError(
                f"{path}: not the published file: {problems[0]}; remove it and set download: true, "
                f"or replace it by {self.url}{name}"
            )
        with gzip.open(path) as file:
            return file.read()


@DATASETS.register
class MNIST(_Idx):
    """70,000 handwritten digits of 28x28 grey pixels: 60,000 for training, 10,000 for testing.

    Args:
        dataroot: folder of the four files, `train-images-idx3-ubyte.gz`,
            `train-labels-idx1-ubyte.gz`, `t10k-images-idx3-ubyte.gz` and
            `t10k-labels-idx1-ubyte.gz`.
        split: `train` or `test`; `val` is another name of `test`. To tune without the test images,
            `train_part` is the first 55,000 training images and `holdout` the other 5,000.
        download: download the files of the split into `dataroot` if they are not there. A file that
            is not the published one is renamed to FILE.rejected.

    Raises:
        ConfigError: a file is missing, or is not the published one.
        RunError: the download fails.

    Example:
        {name: MNIST, dataroot: data/mnist, split: train, download: true, mode: L}
    """

    url = "https://storage.googleapis.com/cvdf-datasets/mnist/"
    files = {
        "train-images-idx3-ubyte.gz": (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        "train-labels-idx1-ubyte.gz": (
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        "t10k-images-idx3-ubyte.gz": (
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    }

    def __init__(self, *, dataroot: str, split: Split, download: bool = False):
        super().__init__(dataroot, split, download)

    @staticmethod
    def _classes() -> list[str]:
        return [str(digit) for digit in range(10)]


@DATASETS.register
class FashionMNIST(_Idx):
    """70,000 photos of articles of clothing, 28x28 grey pixels, in 10 classes: 60,000 for training,
    10,000 for testing (Xiao et al., arXiv 1708.07747; MIT licence).

    Args:
        dataroot: folder of the four files, `train-images-idx3-ubyte.gz`,
            `train-labels-idx1-ubyte.gz`, `t10k-images-idx3-ubyte.gz` and
            `t10k-labels-idx1-ubyte.gz`. Files that are not there are read from the folder of
            Debian's package `dataset-fashion-mnist`, if it is installed.
        split: `train` or `test`; `val` is another name of `test`. To tune without the test images,
            `train_part` is the first 55,000 training images and `holdout` the other 5,000.
        download: download the files of the split into `dataroot` if they are in neither folder. A
            file that is not the published one is renamed to FILE.rejected.

    Raises:
        ConfigError: a file is missing, or is not the published one.
        RunError: the download fails.

    Example:
        {name: FashionMNIST, dataroot: data/fashion-mnist, split: train, download: true, mode: L}
    """

    url = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
    folders = ("/usr/share/datasets/fashion-mnist",)
    # The authors publish MD5: 8d4fb7e6c68d591d4c3dfef9ec88bf0d, 25c81989df183df01b3e8a0aad5dffbe,
    # bef4ecab320f06d8554ea6380940ec79, bb300cfdad3c16e7a12a480ee83cd310; the first SHA-256 of each
    # is that of the same file. The second is Debian's, without name and time in its gzip header.
    files = {
        "train-images-idx3-ubyte.gz": (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        ),
        "train-labels-idx1-ubyte.gz": (
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        ),
        "t10k-images-idx3-ubyte.gz": (
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        ),
    }

    def __init__(self, *, dataroot: str, split: Split, download: bool = False):
        super().__init__(dataroot, split, download)

    @staticmethod
    def _classes() -> list[str]:
        return [*FASHION_CLASSES.split(), "Ankle boot"]
