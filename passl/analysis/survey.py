"""Reads every sample of a dataset once: unreadable files, sizes, modes and duplicates.

Imports no paddle, and keeps 25 bytes per sample.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from passl.data.datasets.base import ImageDataset
from passl.data.datasets.images import FORMATS
from passl.errors import RunError
from passl.io.limits import in_line
from passl.io.pool import map_in_processes

HASH = "BLAKE2b, 128 bits, of the pixels that training gets, before transforms"
LABELS = 256
"""Values of a mask, whose last is ignored."""
_CHUNK = 32
"""Samples that a worker reads at a time."""
_ROUND = 1024 * _CHUNK
"""Samples that a pool of workers gets: it keeps a list of all its tasks."""


@dataclass(frozen=True)
class Survey:
    """The findings on a dataset of N samples.

    Args:
        bad: index -> why the sample cannot be read.
        sizes: int32 [N, 2], width and height of the file; 0 for a bad sample.
        modes: int16 [N], the index of each sample's mode in `mode_names`; -1 for a bad sample.
        mode_names: Pillow's modes of the files.
        digests: uint64 [N, 2], see `HASH`.
        pixels, images: int64 [256], of segmentation: pixels of each label, and images that have it.
    """

    bad: dict[int, str]
    sizes: np.ndarray
    modes: np.ndarray
    mode_names: list[str]
    digests: np.ndarray
    pixels: np.ndarray
    images: np.ndarray

    @property
    def good(self) -> np.ndarray:
        """int64, the indices of the readable samples."""
        return np.flatnonzero(self.modes >= 0)


class _Look(NamedTuple):
    size: tuple[int, int]
    mode: str
    digest: bytes
    pixels: np.ndarray


def survey(dataset: ImageDataset, workers: int, done: Callable[[int], object]) -> Survey:
    """Read every sample, in worker processes.

    Args:
        workers: how many; 0 reads in this process.
        done: called with the number of samples read since the last call.
    """
    count = len(dataset)
    found = Survey(
        bad={},
        sizes=np.zeros((count, 2), np.int32),
        modes=np.full(count, -1, np.int16),
        mode_names=[],
        digests=np.zeros((count, 2), np.uint64),
        pixels=np.zeros(LABELS, np.int64),
        images=np.zeros(LABELS, np.int64),
    )
    for index, look in enumerate(_looks(dataset, workers)):
        done(1)
        if isinstance(look, str):
            found.bad[index] = look
            continue
        if look.mode not in found.mode_names:
            found.mode_names.append(look.mode)
        found.sizes[index] = look.size
        found.modes[index] = found.mode_names.index(look.mode)
        found.digests[index] = np.frombuffer(look.digest, np.uint64)
        if dataset.task == "segmentation":
            found.pixels[:] += look.pixels
            found.images[:] += look.pixels > 0
    return found


def duplicates(digests: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
    """Return the groups of samples with the same digest, each in ascending order.

    Args:
        digests: uint64 [N, 2].
        chosen: the samples to compare, in ascending order.
    """
    own = digests[chosen]
    order = np.lexsort((own[:, 1], own[:, 0]))  # stable
    begins = np.ones(len(order), bool)
    begins[1:] = (own[order[1:]] != own[order[:-1]]).any(-1)
    groups = np.split(chosen[order], np.flatnonzero(begins)[1:])
    return sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0]))


# --------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------
def _look(dataset: ImageDataset, index: int) -> _Look | str:
    """Read a sample as training does: its properties, or why it cannot be read."""
    try:
        image, label = dataset[index]
        source = dataset.source(index)
        if source is None:
            stored = dataset.load_image(index)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                file = BytesIO(source) if isinstance(source, bytes) else source
                with Image.open(file, formats=FORMATS) as stored:
                    pass  # the header is read
        size, mode = stored.size, stored.mode
        digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
        digest.update(image.tobytes())
        is_mask = dataset.task == "segmentation"
        pixels = np.bincount(np.ravel(label), minlength=LABELS) if is_mask else np.zeros(0, int)
    except RunError as error:
        return str(error)
    except Exception as error:  # a user's dataset may raise anything
        return f"{dataset.name(index)}: {in_line(error)}"
    return _Look(size, mode, digest.digest(), pixels)


def _looks(dataset: ImageDataset, workers: int) -> Iterator[_Look | str]:
    """Look at all samples in order."""
    count = len(dataset)
    if not workers:
        yield from (_look(dataset, index) for index in range(count))
        return
    start = 0
    while start < count:
        try:
            for look in _looks_of_workers(dataset, workers, start, min(start + _ROUND, count)):
                yield look
                start += 1
        except BrokenProcessPool:
            # One of the files being read has ended the process, in the decoder.
            suspects = range(start, min(start + _CHUNK, count))
            yield from (_look_alone(dataset, index) for index in suspects)
            start = suspects.stop


def _looks_of_workers(
    dataset: ImageDataset, workers: int, start: int, stop: int
) -> Iterator[_Look | str]:
    look = partial(_look, dataset)  # workers share the dataset's memory
    yield from map_in_processes(look, range(start, stop), workers, chunksize=_CHUNK)


def _look_alone(dataset: ImageDataset, index: int) -> _Look | str:
    """Look at a sample in a process of its own, which the decoder may end."""
    try:
        (look,) = _looks_of_workers(dataset, 1, index, index + 1)
    except BrokenProcessPool:
        return (
            f"{dataset.name(index)}: reading it ends the process: not enough memory, or a file "
            "that breaks the decoder"
        )
    return look
