"""Images in, classes out.

K classes, k best guesses, N pictures, B of a batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from passl.data import TRANSFORMS
from passl.data.datasets.images import convert_image, read_image
from passl.deploy.engines import (
    Engine,
    check_engine,
    load_engine,
    needed_files,
)
from passl.deploy.exported import Description, image_bytes, read_folder
from passl.errors import ConfigError, RunError
from passl.machine import usable_processors
from passl.porting.classes import readable

Picture = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
"""An image: the path of a file, its content, a file opened for reading in binary mode, an image of
Pillow, or its pixels: uint8 [height, width], or [height, width, channels] with 1 channel (grey), 3
(colours) or 4 (with opacity). All become the mode that the network takes.
"""
_KINDS = "paths, bytes, open files, PIL images or uint8 arrays"
_LONGEST_PATH = 4096  # bytes; Linux opens no longer one


@dataclass(frozen=True)
class Prediction:
    """One class for one picture.

    Args:
        label: its number.
        name: its name.
        probability: of the softmax.
    """

    label: int
    name: str
    probability: float


class Classifier:
    """A network with what it takes to give it images and to read its answers. Threads may share it:
    each call has the answer that it has alone.

    Args:
        engine: images [B, channels, height, width] to logits [B, K]; threads may call it at the
            same time.
        description: of the network.
    """

    def __init__(self, engine: Engine, description: Description):
        self.description = description
        self.classes = readable(description.classes)
        self._engine = engine
        self._transforms = [TRANSFORMS.build(node) for node in description.transforms]

    def run(self, images: np.ndarray) -> np.ndarray:
        """Float32 images [B, channels, height, width], transformed already, to logits [B, K].

        Raises:
            ConfigError: the images have another shape.
            RunError: there is not enough memory for so many.
        """
        try:
            images = np.ascontiguousarray(images, dtype=np.float32)
        except (TypeError, ValueError):  # its text would hold what was given
            kind = type(images).__name__
            raise ConfigError(f"images of type {kind} are no array of numbers") from None
        size = tuple(self.description.input)
        if images.ndim != 4 or images.shape[1:] != size or not len(images):
            shown = ", ".join(map(str, size))
            raise ConfigError(f"images {list(images.shape)} are not [batch, {shown}]")
        try:
            return self._engine(images)
        except (MemoryError, RuntimeError) as error:
            if not _is_of_memory(error):
                raise
            raise RunError(_too_large(len(images))) from None

    def prepare(self, picture: Picture) -> np.ndarray:
        """An image as the network takes it: float32 [channels, height, width].

        Raises:
            ConfigError: it is no `Picture`, or pixels of another type or shape.
            RunError: a file that cannot be read as an image.
        """
        image: Any = _opened(picture, self.description)
        rng = np.random.default_rng(0)  # transforms of an evaluation draw nothing
        for transform in self._transforms:
            image = transform(image, rng)
        return image

    def predict(self, pictures: Iterable[Picture], batch_size: int = 16) -> np.ndarray:
        """Probabilities [N, K] of the classes.

        Args:
            pictures: several images, each in any form of `Picture`; a single one goes into a list.
                They are read one batch at a time.
            batch_size: images that are computed together.

        Raises:
            ConfigError: a single image, one that is no `Picture`, pixels of another shape, or a
                batch size below 1.
            RunError: a file cannot be read, or a batch does not fit into memory.
        """
        self.check_batch(batch_size)
        check_several(pictures)
        rest = iter(pictures)
        found = [np.zeros((0, len(self.classes)), np.float32)]
        while batch := [self.prepare(picture) for picture in islice(rest, batch_size)]:
            found.append(self.probabilities(batch))
        return np.concatenate(found)

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities [B, K] of one batch of prepared pictures."""
        try:
            logits_BK = self.run(np.stack(images))
        except MemoryError:
            raise RunError(_too_large(len(images))) from None
        exps_BK = np.exp(logits_BK - logits_BK.max(-1, keepdims=True))
        return exps_BK / exps_BK.sum(-1, keepdims=True)

    def top(
        self, pictures: Iterable[Picture], k: int = 5, batch_size: int = 16
    ) -> list[list[Prediction]]:
        """The k best guesses for each picture, best first; all of them where there are fewer
        classes.

        Raises:
            ConfigError, RunError: as `predict`.
        """
        return [self.best(row_K, k) for row_K in self.predict(pictures, batch_size)]

    def best(self, probabilities_K: np.ndarray, k: int) -> list[Prediction]:
        """The k best guesses, best first; of equal ones the lower label.

        Raises:
            ConfigError: k is below 1.
        """
        if k < 1:
            raise ConfigError(f"top {k}: ask for at least 1 guess")
        order = np.argsort(-probabilities_K, kind="stable")[:k]
        return [Prediction(int(i), self.classes[i], float(probabilities_K[i])) for i in order]

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch that cannot be, before its pictures are read.

        Raises:
            ConfigError: it is no number of pictures, or its input alone is larger than the memory
                that is free.
        """
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size} must be at least 1")
        wanted, free = batch_size * image_bytes(self.description), _free_memory()
        if wanted > free:
            raise ConfigError(
                f"batch size {batch_size}: its pictures alone take {wanted / 2**30:.1f} GiB, and "
                f"{free / 2**30:.1f} are free; choose a smaller one"
            )


class Predictor(Classifier):
    """An exported network, ready to run. Threads may share it: with `paddle` and `openvino` they
    read and transform images side by side and compute one after another, each with all `threads`.

    Args:
        folder: what `tools/export.py` has made.
        engine: `paddle`, `onnxruntime` or `openvino`; the last two need a folder with ONNX.
        precision: `fp32`, or `bf16` where processor and engine can.
        threads: for the computation; null for all processors that this process may use.

    Raises:
        ConfigError: it is no exported folder or one of another format, or the engine cannot be had
            so.
        RunError: a file is missing or damaged, or the engine refuses it.
    """

    def __init__(
        self,
        folder: str | Path,
        engine: str = "paddle",
        precision: str = "fp32",
        threads: int | None = None,
    ):
        threads = usable_processors() if threads is None else threads
        check_engine(engine, precision, threads)
        folder = Path(folder).expanduser()
        description = read_folder(folder, needed_files(engine))
        super().__init__(load_engine(folder, engine, precision, threads), description)


def check_several(pictures: object) -> None:
    """Raise ConfigError for one image where several are wanted: letters would be taken for paths,
    rows of pixels for images.
    """
    one_of = str | os.PathLike | bytes | bytearray | memoryview | Image.Image
    is_pixels = isinstance(pictures, np.ndarray) and pictures.ndim < 4
    kind = type(pictures).__name__
    if isinstance(pictures, one_of) or is_pixels or hasattr(pictures, "read"):
        raise ConfigError(f"one image ({kind}) where several are wanted; put it into a list")
    if not isinstance(pictures, Iterable):
        raise ConfigError(f"{kind} where images are wanted; give a list of {_KINDS}")


def _opened(picture: Picture, description: Description) -> Image.Image:
    """The picture in the network's mode."""
    if isinstance(picture, np.ndarray):
        picture = _from_pixels(picture)
    elif not isinstance(picture, Image.Image):
        source, name = _named(picture)
        picture = read_image(source, name, description.exif_turn, description.min_side)
    try:
        return convert_image(picture, description.mode, description.background)
    except ValueError as error:
        raise ConfigError(f"a picture of mode {picture.mode}: {error}") from None


def _from_pixels(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ConfigError(
            f"pixels {pixels.dtype} {list(pixels.shape)} are no picture; give uint8 "
            "[height, width, 3], or prepared images to run()"
        )
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4):
        raise ConfigError(
            f"pixels {list(pixels.shape)}: the last axis must have 1 channel (grey), 3 (colours) "
            "or 4 (with opacity)"
        )
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _named(picture: object) -> tuple[str | bytes, str]:
    """The path or the content of a file, and what messages call it: never the content."""
    if isinstance(picture, str | os.PathLike):
        path = os.fsdecode(picture)
        if len(path) > _LONGEST_PATH:
            raise ConfigError(f"a path of {len(path)} characters; give a file's content as bytes")
        return path, path
    content, name = picture, "a file's content"
    if hasattr(picture, "read"):
        name = getattr(picture, "name", None)
        name = name if isinstance(name, str) else "an open file"
        try:
            content = picture.read()
        except OSError as error:
            raise RunError(f"{name}: cannot be read: {error.strerror}") from None
        if isinstance(content, str):
            raise ConfigError(f"{name}: opened as text; open it in binary mode, 'rb'")
    if not isinstance(content, bytes | bytearray | memoryview):
        raise ConfigError(f"{type(picture).__name__} is no image; give {_KINDS}")
    return bytes(content), f"{name} ({len(content)} bytes)"


def _too_large(count: int) -> str:
    return f"a batch of {count} pictures does not fit into memory; choose a smaller batch size"


def _is_of_memory(error: Exception) -> bool:
    text = str(error)
    signs = ("ResourceExhausted", "bad_alloc", "Failed to allocate", "not enough memory")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def _free_memory(meminfo: Path = Path("/proc/meminfo")) -> float:
    """Bytes that are free, with what caches would give back; infinite where it is not known."""
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("inf")
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes[0]) * 1024 if kilobytes else float("inf")
