"""From a dataset to arrays: samples by key, and batches of them."""

from __future__ import annotations

import copy
import json
import random
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from passl.data.datasets.base import ImageDataset
from passl.data.samplers import Key
from passl.errors import ConfigError, RunError
from passl.logging import printable


@dataclass(frozen=True)
class Sample:
    """The sample of a key.

    Args:
        image: float32 [channels, height, width]; None if the sample is left out.
        label: its label, in the form of the dataset's `task`.
        index: its index in the dataset.
        bad: index and error of each sample that could not be read before this one.
    """

    image: np.ndarray | None
    label: int | np.ndarray
    index: int
    bad: tuple[tuple[int, str], ...] = ()


class Samples:
    """The transformed samples of a dataset. The random numbers of each depend on its key alone.

    Args:
        dataset: the images.
        transforms: applied in order.
        seed: of the run.
        draws: how many other samples may be drawn instead of one that cannot be read; None leaves
            it out.
        in_training: whether masks are transformed like their images. In evaluation they stay as
            they are, since scores are for the size of the data.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        transforms: Sequence[Any],
        seed: int,
        draws: int | None = 0,
        in_training: bool = False,
    ):
        self.dataset, self.transforms, self.seed, self.draws = dataset, transforms, seed, draws
        self.moves_masks = in_training and dataset.task == "segmentation"

    def __len__(self) -> int:
        return len(self.dataset)

    def with_transforms(self, transforms: Sequence[Any], seed: int) -> Samples:
        """Return the same samples, transformed otherwise."""
        other = copy.copy(self)
        other.transforms, other.seed = transforms, seed
        return other

    def __getitem__(self, key: Key) -> Sample | Exception:
        """Return the sample of a key. Errors are returned, not raised: see `collate`."""
        epoch, position, index = key
        rng = np.random.default_rng((self.seed, epoch, position))
        # A user's transform may use the global generators instead.
        random.seed(int(rng.integers(2**63)))
        np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
        bad: list[tuple[int, str]] = []
        try:
            while True:
                try:
                    stored, label = self.dataset[index]
                    break
                except RunError as error:
                    if self.draws is not None and len(bad) >= self.draws:
                        return error
                    bad.append((index, str(error)))
                if self.draws is None:
                    return Sample(None, 0, index, tuple(bad))
                # The number of tries is at least 1: numpy reads a missing number as 0.
                other = np.random.default_rng((self.seed, epoch, position, len(bad)))
                index = int(other.integers(len(self)))
            image, label = self._transformed(stored, label, rng)
        except (RunError, ConfigError) as error:
            return error
        except Exception:
            return RuntimeError(f"{self.dataset.name(index)}:\n{traceback.format_exc()}")
        return Sample(image, label, index, tuple(bad))

    def _transformed(self, image: Any, label: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        """Transform an image, and its mask likewise if `moves_masks`."""
        mask = Image.fromarray(label) if self.moves_masks else None
        for transform in self.transforms:
            if mask is not None:
                mask = transform.apply_to_mask(mask, copy.deepcopy(rng))  # the draws of the image
            image = transform(image, rng)
        return image, label if mask is None else np.asarray(mask)


_NOTHING = np.zeros(1, np.uint8)


def collate(samples: Iterable[Sample | Exception], count: int) -> list[np.ndarray | str]:
    """Stack samples into a batch.

    Paddle can lose a worker's exception or hang, so errors are returned as data.

    Args:
        samples: at most `count`; each is copied into the batch before the next is read.

    Returns:
        Images, labels, indices and an encoded `Report`; a placeholder, which Paddle needs, and
        the report if there is an error or if all samples are left out.
    """
    images: np.ndarray | None = None
    first: tuple[Any, Any] = (), ()
    labels: list[int | np.ndarray] = []
    indices: list[int] = []
    bad: list[tuple[int, str]] = []
    for sample in samples:
        if isinstance(sample, Exception):
            return [_NOTHING, _encode(sample)]
        bad += sample.bad
        if sample.image is None:
            continue
        shapes = sample.image.shape, np.shape(sample.label)
        if images is None:
            first, images = shapes, np.empty((count, *sample.image.shape), np.float32)
        if shapes != first:
            return [_NOTHING, _encode(RunError(_differ(first, shapes)))]
        images[len(labels)] = sample.image
        labels.append(sample.label)
        indices.append(sample.index)
    report = _encode(None, bad)
    if images is None:
        return [_NOTHING, report]
    return [
        images[: len(labels)],
        np.stack(labels),
        np.asarray(indices, dtype=np.int64),
        report,
    ]


def _differ(first: tuple[Any, Any], second: tuple[Any, Any]) -> str:
    """What is wrong with samples of different shapes, each of an image and its label."""
    what = 0 if first[0] != second[0] else 1
    small, large = sorted((first[what], second[what]))
    ways = (
        "end the transforms with one size, by RandomResizedCrop or by Resize and CenterCrop",
        "set sampler.batch_size: 1, so that each is scored at its own size",
    )
    return (
        f"{('images', 'labels')[what]} of {small} and {large} cannot be in one batch; {ways[what]}"
    )


class Report(NamedTuple):
    """What `collate` reports besides a batch.

    Args:
        error: message of the error that there is instead of a batch.
        expected: whether it is a RunError or ConfigError, rather than a bug.
        bad: index and error of each sample that could not be read.
    """

    error: str | None
    expected: bool
    bad: Sequence[tuple[int, str]]


def _encode(error: Exception | None, bad: Sequence[tuple[int, str]] = ()) -> str:
    """Return a `Report` as JSON. Text stays on the host, where it is read; an array would be copied
    to the GPU and back.
    """
    lines = map(printable, str(error).split("\n"))  # a traceback has several
    report = Report(
        None if error is None else "\n".join(lines),
        isinstance(error, RunError | ConfigError),
        [(index, printable(text)) for index, text in bad],
    )
    return json.dumps(report)


def decode_report(encoded: str) -> Report:
    """Return the `Report` that `collate` has encoded."""
    return Report(*json.loads(encoded))
