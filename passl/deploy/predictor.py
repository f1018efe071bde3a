"""Pictures in, classes out.

K classes, k best guesses, N pictures, B of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from passl.data import TRANSFORMS
from passl.data.pictures import convert_image, read_picture
from passl.deploy.engines import (
    Engine,
    available_threads,
    check_engine,
    load_engine,
    needed_files,
)
from passl.deploy.folder import Description, image_bytes, read_folder
from passl.porting.classes import readable
from passl.utils.errors import ConfigError, RunError

Picture = str | Path | Image.Image | np.ndarray
"""A file, a picture, or its pixels: uint8 [height, width], or [height, width, channels] with 1
channel (grey), 3 (colours) or 4 (with opacity). All become the mode that the network takes.
"""


@dataclass(frozen=True)
class Guess:
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
    """A network with what it takes to give it pictures and to read its answers.

    Args:
        engine: images [B, channels, height, width] to logits [B, K].
        description: of the network.
    """

    def __init__(self, engine: Engine, description: Description):
        self.description = description
        self.classes = readable(description.classes)
        self._engine = engine
        self._transforms = [TRANSFORMS.build(node) for node in description.transforms]
        self._rng = np.random.default_rng(0)  # transforms of an evaluation draw nothing

    def run(self, images: np.ndarray) -> np.ndarray:
        """Float32 images [B, channels, height, width], transformed already, to logits [B, K].

        Raises:
            ConfigError: the images have another shape.
            RunError: there is not enough memory for so many.
        """
        images = np.ascontiguousarray(images, dtype=np.float32)
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
        """A picture as the network takes it: float32 [channels, height, width].

        Raises:
            ConfigError: pixels of another type or shape.
            RunError: a file that cannot be read as a picture.
        """
        image: Any = _opened(picture, self.description)
        for transform in self._transforms:
            image = transform(image, self._rng)
        return image

    def predict(self, pictures: Sequence[Picture], batch_size: int = 16) -> np.ndarray:
        """Probabilities [N, K] of the classes.

        Args:
            pictures: files, pictures or pixels.
            batch_size: pictures that are computed together.

        Raises:
            ConfigError: the batch size is no number of pictures, or pixels are of another shape.
            RunError: a file cannot be read, or a batch does not fit into memory.
        """
        self.check_batch(batch_size)
        found = [np.zeros((0, len(self.classes)), np.float32)]
        for start in range(0, len(pictures), batch_size):
            batch = [self.prepare(picture) for picture in pictures[start : start + batch_size]]
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
        self, pictures: Sequence[Picture], k: int = 5, batch_size: int = 16
    ) -> list[list[Guess]]:
        """The k best guesses for each picture, best first; all of them where there are fewer
        classes.

        Raises:
            ConfigError, RunError: as `predict`.
        """
        return [self.best(row_K, k) for row_K in self.predict(pictures, batch_size)]

    def best(self, probabilities_K: np.ndarray, k: int) -> list[Guess]:
        """The k best guesses, best first; of equal ones the lower label.

        Raises:
            ConfigError: k is below 1.
        """
        if k < 1:
            raise ConfigError(f"top {k}: ask for at least 1 guess")
        order = np.argsort(-probabilities_K, kind="stable")[:k]
        return [Guess(int(i), self.classes[i], float(probabilities_K[i])) for i in order]

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
    """An exported network, ready to run.

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
        threads = available_threads() if threads is None else threads
        check_engine(engine, precision, threads)
        description = read_folder(Path(folder), needed_files(engine))
        super().__init__(load_engine(Path(folder), engine, precision, threads), description)


def _opened(picture: Picture, description: Description) -> Image.Image:
    """The picture in the network's mode."""
    if isinstance(picture, np.ndarray):
        picture = _from_pixels(picture)
    elif not isinstance(picture, Image.Image):
        picture = read_picture(str(picture), str(picture), description.exif_turn)
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
