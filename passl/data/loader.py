"""Batches of tensors from a dataset, read by worker processes or in this one."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import paddle

from passl.data.balance import samples_per_class
from passl.data.build import build_dataset, build_transforms
from passl.data.datasets.base import ImageDataset
from passl.data.samplers import BatchSampler, Key
from passl.data.samples import Sample, Samples, collate, decode_report
from passl.data.workers import Workers
from passl.errors import ConfigError, RunError
from passl.io.shared_memory import fits_shared_memory
from passl.logging import get_logger
from passl.step_times import StepTimes
from passl.utils.schema import validated
from passl.utils.types import NonNegativeInt, PositiveFloat, PositiveInt

_PROBED = 4
"""Samples that are read to learn their size; some may be bad."""


class Batch(NamedTuple):
    """A batch of samples.

    Args:
        images: float32 [B, channels, height, width].
        labels: int64 [B] for classification, float32 [B, K] for multi-label data, integers
            [B, height, width] for segmentation.
        indices: int64 [B], the indices of the samples in the dataset.
    """

    images: Any
    labels: Any
    indices: Any


@validated
class Loader:
    """Iterates over batches, one epoch at a time.

    Args:
        dataset: the images.
        transforms: convert them to arrays.
        sampler: the order of the samples.
        local_world: processes of this machine that have such a loader.
        num_workers: processes that read ahead; 0 reads in this process.
        prefetch_factor: batches that each worker reads ahead.
        use_shared_memory: pass batches in shared memory rather than through pipes; null decides by
            the free space of /dev/shm.
        on_bad_sample: `error` ends the run at an image that cannot be read. With `skip`, training
            takes another sample instead, drawn from (seed, epoch, position), and evaluation leaves
            the sample out; each is logged once, by name.
        max_bad_samples: largest number of distinct bad samples of this process, with `skip`.
        warn_after: seconds without a batch from the workers before their state is logged.
        timeout: seconds without a batch from the workers before the run ends.

    Attributes:
        dataset: the images without transforms.
        samples: the transformed samples, by key.
        classes: names of the labels.
        bad: the samples that could not be read so far: index -> error.
        read_ahead: batches that workers read ahead.

    Example:
        loader: {num_workers: 8, on_bad_sample: skip}
    """

    def __init__(
        self,
        dataset: ImageDataset,
        transforms: Sequence[Any],
        sampler: BatchSampler,
        local_world: int = 1,
        /,
        *,
        num_workers: NonNegativeInt = 0,
        prefetch_factor: PositiveInt = 2,
        use_shared_memory: bool | None = None,
        on_bad_sample: Literal["error", "skip"] = "error",
        max_bad_samples: NonNegativeInt = 100,
        warn_after: PositiveFloat = 60.0,
        timeout: PositiveFloat = 600.0,
    ):
        draws: int | None = 0
        if on_bad_sample == "skip":
            draws = max_bad_samples + 1 if sampler.even else None
        self.dataset, self.classes = dataset, dataset.classes
        self.samples = Samples(dataset, transforms, sampler.seed, draws, sampler.even)
        self.sampler, self.max_bad_samples = sampler, max_bad_samples
        self.bad: dict[int, str] = {}
        # Without workers, Paddle's loader would read in a thread, lose its errors and hang.
        self._workers: Workers | None = None
        self.read_ahead = num_workers * prefetch_factor
        if num_workers > 0:
            ahead = num_workers * prefetch_factor * sampler.batch_size * local_world
            if use_shared_memory is None:
                use_shared_memory = self._fits_shared_memory(ahead)
            self._workers = Workers(
                self._read,
                sampler,
                count=num_workers,
                prefetch_factor=prefetch_factor,
                use_shared_memory=use_shared_memory,
                warn_after=warn_after,
                timeout=timeout,
            )

    def __len__(self) -> int:
        """Return the batches of an epoch; there can be fewer if samples are left out."""
        return len(self.sampler)

    def epoch(
        self,
        epoch: int,
        start: int = 0,
        check: Callable[[], object] = lambda: None,
        times: StepTimes | None = None,
    ) -> Generator[Batch, None, None]:
        """Iterate over the batches of an epoch, from batch `start` on.

        Args:
            check: called while a batch is late; an exception that it raises ends the wait.
            times: count the copying to tensors.

        Raises:
            RunError: an image cannot be read, or too many cannot; a worker died or does not answer.
            RuntimeError: a transform failed; the message has its traceback.
        """
        self.sampler.set_epoch(epoch, start)
        workers, times = self._workers, times or StepTimes()
        batches = (
            self._read_here(self.sampler, times)
            if workers is None
            else workers.batches(check, times)
        )
        with closing(batches):  # an error ends the workers at once
            yield from self._batches(batches)

    def read(self, indices: Sequence[int]) -> Iterator[Batch]:
        """Iterate over batches of these samples, read in this process, as an evaluation sees them.

        Raises:
            RunError, RuntimeError: as for `epoch`.
        """
        size = self.sampler.batch_size
        keys = [(0, index, index) for index in indices]
        parts = (keys[start : start + size] for start in range(0, len(keys), size))
        return self._batches(self._read_here(parts, StepTimes()))

    def first(self, count: int) -> Batch | None:
        """The first samples of the first epoch, at most a batch of them, as the run gets them; read
        in this process. Null if none of them can be read.

        Raises:
            RunError, RuntimeError: as for `epoch`.
        """
        self.sampler.set_epoch(0)
        parts = [keys[:count] for keys in islice(self.sampler, 1) if count]
        return next(self._batches(self._read_here(parts, StepTimes())), None)

    def _batches(self, found: Iterable[list[Any]]) -> Iterator[Batch]:
        """The batches of what `collate` has returned."""
        for *arrays, encoded in found:
            report = decode_report(encoded)
            if report.error is not None:
                raise (RunError if report.expected else RuntimeError)(report.error)
            for index, text in report.bad:
                self.note(index, text)
            if len(arrays) > 1:
                yield Batch(*arrays)

    def note(self, index: int, text: str) -> None:
        """Log a sample that cannot be read, the first time.

        Raises:
            RunError: there are more than `max_bad_samples`.
        """
        if index in self.bad:
            return
        self.bad[index] = text
        if len(self.bad) > self.max_bad_samples:
            raise RunError(
                f"more than {self.max_bad_samples} samples cannot be read, the last one: {text}; "
                "repair the data, or increase loader.max_bad_samples"
            )
        action = "replaced by another" if self.sampler.even else "left out"
        get_logger().warning("bad sample %d, %s: %s", len(self.bad), action, text)

    def _read_here(
        self, parts: Iterable[Sequence[Key]], times: StepTimes
    ) -> Generator[list[Any], None, None]:
        for keys in parts:
            with _keep_global_generators():
                arrays = self._read(keys)
            with times.copying():
                batch = [a if isinstance(a, str) else paddle.to_tensor(a) for a in arrays]
            yield batch

    def _read(self, keys: Sequence[Key]) -> list[np.ndarray | str]:
        return collate((self.samples[key] for key in keys), len(keys))

    def _fits_shared_memory(self, samples: int) -> bool:
        with _keep_global_generators():
            probed = [self.samples[0, 0, i] for i in range(min(_PROBED, len(self.dataset)))]
        images = [s.image for s in probed if isinstance(s, Sample) and s.image is not None]
        if not images:
            return False  # the first epoch will report what is wrong with them
        # Twice, for waiting batches and those being read.
        return fits_shared_memory(2 * samples * images[0].nbytes)


def build_loader(
    section: Mapping[str, Any],
    seed: int,
    rank: int = 0,
    world: int = 1,
    even: bool = False,
    local_world: int | None = None,
) -> Loader:
    """Build the loader of a `dataloader.train` or `dataloader.val` section.

    Args:
        seed: of the run.
        rank, world: index of this process, and their number.
        even: give every process the same number of batches, as training needs.
        local_world: number of processes on this machine; None if unknown.

    Raises:
        ConfigError: the data is missing, or too small for one batch.
    """
    node = section["dataset"]
    dataset, transforms = build_dataset(node), build_transforms(node["transforms"])
    try:
        if section["sampler"].get("balanced"):
            samples_per_class(dataset)  # raises for an empty class
        sampler = BatchSampler(dataset, seed, rank, world, even, **section["sampler"])
        options = section.get("loader", {})
        return Loader(dataset, transforms, sampler, local_world or world, **options)
    except ValueError as error:
        raise ConfigError(f"dataloader: {error}") from None


@contextmanager
def _keep_global_generators() -> Iterator[None]:
    """Restore the global generators of this process afterwards. Workers have their own."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
