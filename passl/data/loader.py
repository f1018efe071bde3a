"""Batches of arrays from a dataset, by worker processes or without."""

from __future__ import annotations

import json
import random
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import paddle
from PIL import Image

from passl.data import rules
from passl.data.balance import samples_per_class
from passl.data.build import build_dataset, build_transforms
from passl.data.datasets.base import ImageDataset
from passl.data.samplers import BatchSampler, Key
from passl.data.workers import Workers
from passl.errors import ConfigError, RunError
from passl.io.shared_memory import fits_shared_memory
from passl.logging import get_logger, printable

_TRIED = 4
"""Samples that are read to learn how large they are; some may be bad."""


class Sample(NamedTuple):
    """What a key gave.

    Args:
        image: float32 [channels, height, width]; null if the sample is left out.
        label: its class.
        index: which sample of the dataset it is.
        bad: index and error of each sample that could not be read on the way to this one.
    """

    image: np.ndarray | None
    label: int
    index: int
    bad: tuple[tuple[int, str], ...] = ()


class Transformed:
    """A dataset's images through the transforms, each drawn from a generator of its own.

    Args:
        dataset: gives the images.
        transforms: in order.
        seed: of the run.
        draws: how many other samples may be drawn in place of one that cannot be read; null leaves
            it out.
    """

    def __init__(
        self, dataset: ImageDataset, transforms: Sequence[Any], seed: int, draws: int | None = 0
    ):
        self.dataset, self.transforms, self.seed, self.draws = dataset, transforms, seed, draws

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample | Exception:
        """The sample of that key. What goes wrong is given back, not raised: see `_collate`."""
        epoch, position, index = key
        rng = np.random.default_rng((self.seed, epoch, position))
        # A user's transform may draw from the global generators instead; they start anew with
        # each sample too.
        random.seed(int(rng.integers(2**63)))
        np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
        bad: list[tuple[int, str]] = []
        try:
            while True:
                try:
                    image, label = self.dataset[index]
                    break
                except RunError as error:
                    if self.draws is not None and len(bad) >= self.draws:
                        return error
                    bad.append((index, str(error)))
                if self.draws is None:
                    return Sample(None, 0, index, tuple(bad))
                # The number of tries is part of the seed, as the sample's place is: so workers do
                # not matter. It is never 0, since numpy takes a missing number for 0.
                other = np.random.default_rng((self.seed, epoch, position, len(bad)))
                index = int(other.integers(len(self)))
            for transform in self.transforms:
                image = transform(image, rng)
        except (RunError, ConfigError) as error:
            return error
        except Exception:
            return RuntimeError(f"{self.dataset.name(index)}:\n{traceback.format_exc()}")
        return Sample(image, label, index, tuple(bad))


class Batch(NamedTuple):
    """Samples as tensors.

    Args:
        images: [B, channels, height, width] float32.
        labels: [B] int64.
        indices: [B] int64, which samples of the dataset these are.
    """

    images: Any
    labels: Any
    indices: Any


class Loader:
    """Iterates over batches, one epoch at a time.

    Args:
        dataset: what gives the images.
        transforms: make the arrays of them.
        sampler: which samples, and in which order.
        local_world: processes of this machine that have such a loader.
        num_workers: processes that read ahead; 0 reads in this one.
        prefetch_factor: batches that each of them reads ahead.
        use_shared_memory: how workers hand batches over; null decides by the room in /dev/shm.
        on_bad_sample: what an image that cannot be read does. `error` ends the run. With `skip`,
            training takes another sample instead, drawn from (seed, epoch, position), and
            evaluation leaves the sample out; each is warned about once, by name.
        max_bad_samples: with `skip`, how many different samples of this process may be bad; one
            more ends the run.
        warn_after: seconds without a batch from the workers after which their state is logged.
        timeout: seconds without a batch from the workers after which the run ends.

    Attributes:
        classes: names of the labels.
        bad: the samples that could not be read so far: index -> error.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        transforms: Sequence[Any],
        sampler: BatchSampler,
        local_world: int = 1,
        /,
        *,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        use_shared_memory: bool | None = None,
        on_bad_sample: Literal["error", "skip"] = "error",
        max_bad_samples: int = 100,
        warn_after: float = 60.0,
        timeout: float = 600.0,
    ):
        rules.loader(
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            on_bad_sample=on_bad_sample,
            max_bad_samples=max_bad_samples,
            warn_after=warn_after,
            timeout=timeout,
        )
        draws: int | None = 0
        if on_bad_sample == "skip":
            draws = max_bad_samples + 1 if sampler.even else None
        self.dataset = Transformed(dataset, transforms, sampler.seed, draws)
        self.sampler = sampler
        self.classes: list[str] = dataset.classes
        self.bad: dict[int, str] = {}
        self.max_bad_samples = max_bad_samples
        ahead = num_workers * prefetch_factor * sampler.batch_size * local_world
        if use_shared_memory is None:
            use_shared_memory = num_workers > 0 and self._fits_shared_memory(ahead)
        # Without workers Paddle's loader would read in a thread, whose errors it swallows and then
        # waits for ever.
        self._workers = (
            Workers(
                self._read,
                sampler,
                count=num_workers,
                prefetch_factor=prefetch_factor,
                use_shared_memory=use_shared_memory,
                warn_after=warn_after,
                timeout=timeout,
            )
            if num_workers > 0
            else None
        )

    def __len__(self) -> int:
        """Batches of an epoch; where samples are left out, there may be less."""
        return len(self.sampler)

    def epoch(
        self, epoch: int, start: int = 0, check: Callable[[], object] = lambda: None
    ) -> Iterator[Batch]:
        """The batches of that epoch, from batch `start` on.

        Args:
            check: called while a batch is late; what it raises ends the wait.

        Raises:
            RunError: an image cannot be read, or too many of them; a worker has died, or does not
                answer.
            RuntimeError: a transform failed; the message has its traceback.
        """
        self.sampler.set_epoch(epoch, start)
        batches = self._read_here() if self._workers is None else self._workers.batches(check)
        for *arrays, encoded in batches:
            report = json.loads(encoded.numpy().tobytes())
            if report["error"] is not None:
                raise (RunError if report["expected"] else RuntimeError)(report["error"])
            for index, text in report["bad"]:
                self.note(index, text)
            if arrays:
                yield Batch(*arrays)

    def original(self, index: int) -> Image.Image | None:
        """A sample's image without transforms; null if it cannot be read and `on_bad_sample` is
        skip.

        Raises:
            RunError: it cannot be read, or too many cannot.
        """
        try:
            return self.dataset.dataset[index][0]
        except RunError as error:
            if self.dataset.draws == 0:
                raise
            self.note(index, str(error))
            return None

    def note(self, index: int, text: str) -> None:
        """Warn of a sample that cannot be read, if it is a new one."""
        if index in self.bad:
            return
        self.bad[index] = text
        if len(self.bad) > self.max_bad_samples:
            raise RunError(
                f"more than {self.max_bad_samples} samples cannot be read, the last one: {text}; "
                "mend the data, or raise loader.max_bad_samples"
            )
        instead = "another is taken instead" if self.sampler.even else "left out"
        get_logger().warning("bad sample %d, %s: %s", len(self.bad), instead, text)

    def _read_here(self) -> Iterator[list[Any]]:
        for keys in self.sampler:
            with _generators_kept():
                arrays = self._read(keys)
            yield [paddle.to_tensor(array) for array in arrays]

    def _read(self, keys: Sequence[Key]) -> list[np.ndarray]:
        return _collate((self.dataset[key] for key in keys), len(keys))

    def _fits_shared_memory(self, samples: int) -> bool:
        with _generators_kept():
            tried = [self.dataset[(0, 0, index)] for index in range(min(_TRIED, len(self.dataset)))]
        images = [s.image for s in tried if isinstance(s, Sample) and s.image is not None]
        if not images:
            return False  # the first epoch will say what is wrong with them
        # Batches that wait, and those being made.
        return fits_shared_memory(2 * samples * images[0].nbytes)


def build_loader(
    section: Mapping[str, Any],
    seed: int,
    rank: int = 0,
    world: int = 1,
    even: bool = False,
    local_world: int | None = None,
) -> Loader:
    """The loader of a `dataloader.train` or `dataloader.val` section.

    Args:
        seed: of the run.
        rank, world: which of how many processes this is.
        even: whether every process must get as many batches as the others, as in training.
        local_world: how many of the processes this machine has; null where that is not known.

    Raises:
        ConfigError: the dataset is not there, or not enough for one batch.
    """
    node = section["dataset"]
    dataset, transforms = build_dataset(node), build_transforms(node["transforms"])
    try:
        if section["sampler"].get("balanced"):
            samples_per_class(dataset)  # there is one of each
        sampler = BatchSampler(
            len(dataset),
            seed,
            rank,
            world,
            even,
            dataset.shuffled,
            dataset.labels,
            **section["sampler"],
        )
        options = section.get("loader", {})
        return Loader(dataset, transforms, sampler, local_world or world, **options)
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


def _collate(samples: Iterable[Sample | Exception], count: int) -> list[np.ndarray]:
    """Images, labels and indices, and a report as JSON: what could not be read, or the error that
    there is instead of a batch. Only the report, if no sample is left.

    An error that a worker raises ends in a Paddle that has lost its message, or that waits for
    ever. As data it arrives.

    Args:
        samples: each is taken when the one before it is in the batch.
        count: how many there are.
    """
    images: np.ndarray | None = None
    labels: list[int] = []
    indices: list[int] = []
    bad: list[tuple[int, str]] = []
    for sample in samples:
        if isinstance(sample, Exception):
            return [_encoded(sample)]
        bad += sample.bad
        if sample.image is None:
            continue
        if images is None:
            images = np.empty((count, *sample.image.shape), np.float32)
        if sample.image.shape != images.shape[1:]:
            small, large = sorted((images.shape[1:], sample.image.shape))
            return [
                _encoded(
                    RunError(
                        f"images of {small} and {large} cannot be one batch; let the transforms "
                        "end in one size, by RandomResizedCrop or by Resize and CenterCrop"
                    )
                )
            ]
        images[len(labels)] = sample.image
        labels.append(sample.label)
        indices.append(sample.index)
    report = _encoded(None, bad)
    if images is None:
        return [report]
    return [
        images[: len(labels)],
        np.asarray(labels, dtype=np.int64),
        np.asarray(indices, dtype=np.int64),
        report,
    ]


def _encoded(error: Exception | None, bad: Sequence[tuple[int, str]] = ()) -> np.ndarray:
    lines = map(printable, str(error).split("\n"))  # a traceback has several
    report = {
        "error": None if error is None else "\n".join(lines),
        "expected": isinstance(error, RunError | ConfigError),
        "bad": [(index, printable(text)) for index, text in bad],
    }
    return np.frombuffer(json.dumps(report).encode(), dtype=np.uint8)
