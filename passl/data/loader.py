"""Batches of arrays from a data set, by worker processes or without."""

from __future__ import annotations

import os
import random
import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

    def __getitem__(self, key: Key) -> tuple[np.ndarray, int] | Exception:
        """The sample of that key. What goes wrong is given back, not raised: see `_collate`."""
        epoch, position, index = key
        rng = np.random.default_rng((self.seed, epoch, position))
        # A user's transform may draw from the global generators instead; they start anew with
        # each sample too.
        random.seed(int(rng.integers(2**63)))
        np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
        try:
            picture, label = self.dataset[index]
            for transform in self.transforms:
                picture = transform(picture, rng)
        except RunError as error:
            return error
        except Exception:
            return RuntimeError(f"{self.dataset.name(index)}:\n{traceback.format_exc()}")
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
        if num_workers < 0 or prefetch_factor < 1:
            raise ValueError(
                f"loader.num_workers {num_workers} must be at least 0, and loader.prefetch_factor "
                f"{prefetch_factor} at least 1"
            )
        self.dataset, self.sampler = dataset, sampler
        self.classes: list[str] = dataset.dataset.classes
        ahead = num_workers * prefetch_factor * sampler.batch_size
        if use_shared_memory is None:
            use_shared_memory = num_workers > 0 and self._fits_shared_memory(ahead)
        # Without workers Paddle's loader would read in a thread, whose errors it swallows and then
        # waits for ever.
        self._with_workers = (
            DataLoader(
                dataset,
                batch_sampler=sampler,
                collate_fn=_collate,
                num_workers=num_workers,
                prefetch_factor=prefetch_factor,
                use_shared_memory=use_shared_memory,
                worker_init_fn=self._init_worker,
            )
            if num_workers > 0
            else None
        )

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.sampler)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """The batches of that epoch, from batch `start` on.

        Raises:
            RunError: a picture cannot be read.
            RuntimeError: a transform failed; the message has its traceback.
        """
        self.sampler.set_epoch(epoch, start)
        batches = self._with_workers if self._with_workers is not None else self._read_here()
        for images, labels in batches:
            if images.dtype == paddle.uint8:  # no images, but the text of an error
                text = images.numpy().tobytes().decode()
                raise RunError(text) if labels.item() == _EXPECTED else RuntimeError(text)
            yield images, labels

    def _read_here(self) -> Iterator[list[Any]]:
        for keys in self.sampler:
            with _generators_kept():
                arrays = _collate([self.dataset[key] for key in keys])
            yield [paddle.to_tensor(array) for array in arrays]

    def _init_worker(self, worker: int) -> None:
        # Paddle's generator in a worker, for transforms that use it. The other generators are
        # seeded for each sample.
        rng = np.random.default_rng((self.sampler.seed, self.sampler.epoch, worker))
        paddle.seed(int(rng.integers(2**31)))

    def _fits_shared_memory(self, samples: int) -> bool:
        with _generators_kept():
            sample = self.dataset[(0, 0, 0)]
        if isinstance(sample, Exception):
            return False  # the first epoch will say what is wrong with it
        needed = 2 * samples * sample[0].nbytes  # batches that wait, and those being made
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


def build_loader(
    section: Mapping[str, Any], seed: int, rank: int = 0, world: int = 1, even: bool = False
) -> Loader:
    """The loader of a `dataloader.train` or `dataloader.val` section.

    Args:
        seed: of the run.
        rank, world: which of how many processes this is.
        even: whether every process must get as many batches as the others, as in training.

    Raises:
        ConfigError: the data set is not there, or not enough for one batch.
    """
    node = section["dataset"]
    dataset = Transformed(build_dataset(node), build_transforms(node["transforms"]), seed)
    try:
        sampler = BatchSampler(len(dataset), seed, rank, world, even, **section["sampler"])
        return Loader(dataset, sampler, **section.get("loader", {}))
    except ValueError as error:
        raise ConfigError(f"dataloader: {error}") from None


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the global generators of this process as they are; a worker's are its own."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


_EXPECTED, _UNEXPECTED = 0, 1


def _collate(samples: list[tuple[np.ndarray, int] | Exception]) -> list[np.ndarray]:
    """Samples to arrays; or, if one of them is an error, its text as bytes and if it is a RunError.

    An error that a worker raises ends in a Paddle that has lost its message, or that waits for
    ever. As data it arrives.
    """
    error = next((sample for sample in samples if isinstance(sample, Exception)), None)
    if error is None:
        images, labels = zip(*samples, strict=True)  # type: ignore[misc]
        shapes = sorted({image.shape for image in images})
        if len(shapes) == 1:
            return [np.stack(images), np.asarray(labels, dtype=np.int64)]
        error = RunError(
            f"pictures of {shapes[0]} and {shapes[-1]} cannot be one batch; let the transforms end "
            "in one size, by RandomResizedCrop or by Resize and CenterCrop"
        )
    kind = _EXPECTED if isinstance(error, RunError) else _UNEXPECTED
    text = np.frombuffer(str(error).encode(errors="backslashreplace"), dtype=np.uint8)
    return [text, np.asarray([kind], dtype=np.int64)]
