"""Batches of arrays from a data set, by worker processes or without."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle.io import DataLoader, Dataset

from passl.data import DATASETS, TRANSFORMS
from passl.data.samplers import BatchSampler, Key
from passl.utils.errors import ConfigError, RunError
from passl.utils.logging import get_logger

SHARED_MEMORY = "/dev/shm"


class Transformed(Dataset):
    """A data set's pictures through the transforms, each drawn from a generator of its own."""

    def __init__(self, dataset: Any, transforms: Sequence[Any], seed: int):
        super().__init__()
        self.dataset, self.transforms, self.seed = dataset, transforms, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> tuple[np.ndarray, int]:
        epoch, position, index = key
        rng = np.random.default_rng((self.seed, epoch, position))
        # A user's transform may draw from the global generators instead; they start anew with each
        # sample too.
        random.seed(int(rng.integers(2**63)))
        np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
        picture, label = self.dataset[index]
        for transform in self.transforms:
            picture = transform(picture, rng)
        return picture, label


class Loader:
    """Iterates over (images [B, 3, height, width] float32, labels [B] int64), one epoch at a time.

    Args:
        dataset: what gives the samples.
        sampler: which of them, and in which order.
        num_workers: processes that read ahead; 0 reads in this one.
        prefetch_factor: batches that each of them reads ahead.
        use_shared_memory: how workers hand batches over; null decides by the room in /dev/shm.
    """

    def __init__(
        self,
        dataset: Transformed,
        sampler: BatchSampler,
        /,
        *,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        use_shared_memory: bool | None = None,
    ):
        self.dataset, self.sampler = dataset, sampler
        self.classes: list[str] = dataset.dataset.classes
        ahead = num_workers * prefetch_factor * sampler.batch_size
        if use_shared_memory is None:
            use_shared_memory = num_workers > 0 and self._fits_shared_memory(ahead)
        self._loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=_collate,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            use_shared_memory=use_shared_memory,
            worker_init_fn=self._init_worker,
            places=paddle.CPUPlace(),  # the step copies to the device
        )

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.sampler)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """The batches of that epoch, from batch `start` on.

        Raises:
            RunError: a picture cannot be read.
        """
        self.sampler.set_epoch(epoch, start)
        try:
            yield from self._loader
        except RunError as error:
            # What a worker raises comes back with its traceback in the message; the last line is
            # ours.
            raise RunError(
                str(error).strip().splitlines()[-1].removeprefix("passl.utils.errors.RunError: ")
            ) from None

    def _init_worker(self, worker: int) -> None:
        # Paddle's generator in a worker, for transforms that use it. The other generators are
        # seeded for each sample.
        paddle.seed(
            int(
                np.random.default_rng((self.sampler.seed, self.sampler.epoch, worker)).integers(
                    2**31
                )
            )
        )

    def _fits_shared_memory(self, samples: int) -> bool:
        picture, _ = self.dataset[(0, 0, 0)]
        needed = 2 * samples * picture.nbytes  # batches that wait, and those being made
        free = shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else 0
        if needed > free:
            get_logger().warning(
                "%s has %d MiB free, the loader's workers may need %d: batches go through pipes "
                "instead, which is slower",
                SHARED_MEMORY,
                free >> 20,
                needed >> 20,
            )
        return needed <= free


def build_dataset(node: Mapping[str, Any]) -> Any:
    """The data set of a `dataset` node, without its transforms."""
    return DATASETS.build({key: value for key, value in node.items() if key != "transforms"})


def build_transforms(nodes: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The transforms of a `transforms` list, in order."""
    return [TRANSFORMS.build(node) for node in nodes]


def build_loader(section: Mapping[str, Any], seed: int, rank: int = 0, world: int = 1) -> Loader:
    """The loader of a `dataloader.train` or `dataloader.val` section.

    Raises:
        ConfigError: the data set is not there, or not enough for one batch.
    """
    node = section["dataset"]
    dataset = Transformed(build_dataset(node), build_transforms(node["transforms"]), seed)
    try:
        sampler = BatchSampler(len(dataset), seed, rank, world, **section["sampler"])
    except ValueError as error:
        raise ConfigError(f"dataloader: {error}") from None
    return Loader(dataset, sampler, **section.get("loader", {}))


def _collate(samples: list[tuple[np.ndarray, int]]) -> list[np.ndarray]:
    images, labels = zip(*samples, strict=True)
    return [np.stack(images), np.asarray(labels, dtype=np.int64)]
