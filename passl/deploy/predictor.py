"""Images in, classes out.

Shapes in names: B images of a batch, K classes, N images, Y rows and X columns of the network's
input; k is the number of predictions per image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from passl.deploy.engines import AUTO, Engine, check_engine, device_of, load_engine, needed_files
from passl.deploy.exported import Description, read_folder
from passl.deploy.inputs import ImageInput, check_several, open_image
from passl.deploy.preprocess import Preprocessing
from passl.errors import ConfigError, RunError, is_of_memory
from passl.evaluation.thresholds import DEFAULT
from passl.machine import usable_processors
from passl.porting.classes import readable


@dataclass(frozen=True)
class Prediction:
    """One class for one image.

    Args:
        label: the class's number.
        name: the class's name.
        probability: of the softmax, or of the sigmoid of a multi-label network.
    """

    label: int
    name: str
    probability: float


class Classifier:
    """A network with its transforms and class names. Threads may share it.

    Args:
        engine: images [B, channels, height, width] to logits [B, K]; several threads may call it at
            the same time.
        description: of the network.
    """

    def __init__(self, engine: Engine, description: Description):
        self.description = description
        self.classes = readable(description.classes)
        self._engine = engine
        self._preprocess = Preprocessing(description.transforms)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Compute logits [B, K] of transformed float32 images [B, channels, height, width].

        Raises:
            ConfigError: the images have another shape or type.
            RunError: the batch does not fit into memory.
        """
        try:
            images = np.ascontiguousarray(images, dtype=np.float32)
        except (TypeError, ValueError):  # its text would show the content
            kind = type(images).__name__
            raise ConfigError(f"images of type {kind} are no array of numbers") from None
        size = tuple(self.description.input)
        if images.ndim != 4 or images.shape[1:] != size or not len(images):
            shown = ", ".join(map(str, size))
            raise ConfigError(f"images {list(images.shape)} are not [batch, {shown}]")
        try:
            return self._engine(images)
        except (MemoryError, RuntimeError) as error:
            if not is_of_memory(error):
                raise
            raise RunError(_too_large(len(images))) from None

    def prepare(self, image: ImageInput) -> np.ndarray:
        """Open and transform an image: float32 [channels, height, width].

        Raises:
            ConfigError: it is no `ImageInput`.
            RunError: the file cannot be read as an image.
        """
        return self.transformed(open_image(image, self.description))

    def transformed(self, image: Image.Image) -> np.ndarray:
        """Transform an opened image, in the network's mode, as `prepare`."""
        return self._preprocess(image)

    def predict(self, images: Iterable[ImageInput], batch_size: int = 16) -> np.ndarray:
        """Compute probabilities [N, K] of the classes: the softmax, or of a multi-label network the
        sigmoid.

        Args:
            images: several images, in any form of `ImageInput`; a single one goes into a list. They
                are read one batch at a time.
            batch_size: images that are computed together.

        Raises:
            ConfigError: `images` is a single image or has something that is no `ImageInput`, or the
                batch size is below 1.
            RunError: a file cannot be read, or a batch does not fit into memory.
        """
        self.check_batch(batch_size)
        check_several(images)
        rest = iter(images)
        found = [np.zeros((0, len(self.classes)), np.float32)]
        while batch := [self.prepare(image) for image in islice(rest, batch_size)]:
            found.append(self.probabilities(batch))
        return np.concatenate(found)

    def probabilities(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Compute probabilities [B, K] of one batch of prepared images.

        Raises:
            ConfigError: the network is for segmentation.
        """
        if self.description.task == "segmentation":
            raise ConfigError("this network is for segmentation; ask for masks")
        try:
            return self.normalized(self.run(np.stack(prepared)))
        except MemoryError:
            raise RunError(_too_large(len(prepared))) from None

    def normalized(self, logits_BK: np.ndarray) -> np.ndarray:
        """Probabilities [B, K] of logits: the softmax, or of a multi-label network the sigmoid."""
        if self.description.task == "multilabel":
            with np.errstate(over="ignore"):
                return 1 / (1 + np.exp(-logits_BK))
        exps_BK = np.exp(logits_BK - logits_BK.max(-1, keepdims=True))
        return exps_BK / exps_BK.sum(-1, keepdims=True)

    def top(
        self, images: Iterable[ImageInput], k: int = 5, batch_size: int = 16
    ) -> list[list[Prediction]]:
        """Return the k best predictions for each image, best first; all if there are fewer classes.

        Raises:
            ConfigError, RunError: as `predict`.
        """
        return [self.best(row_K, k) for row_K in self.predict(images, batch_size)]

    def best(self, probabilities_K: np.ndarray, k: int) -> list[Prediction]:
        """Return the k best predictions, best first; of equal ones the lower label first.

        Raises:
            ConfigError: k is below 1.
        """
        if k < 1:
            raise ConfigError(f"top {k}: ask for at least 1 prediction")
        order = np.argsort(-probabilities_K, kind="stable")[:k]
        return [Prediction(int(i), self.classes[i], float(probabilities_K[i])) for i in order]

    def labels(self, images: Iterable[ImageInput], batch_size: int = 16) -> list[list[Prediction]]:
        """Return the predicted labels of each image, by a multi-label network: those whose
        probability is above their threshold, best first. There can be none.

        Raises:
            ConfigError: the network has no thresholds; and as `predict`.
            RunError: as `predict`.
        """
        return [self.above(row_K) for row_K in self.predict(images, batch_size)]

    def above(self, probabilities_K: np.ndarray) -> list[Prediction]:
        """Return the labels whose probability is above their threshold, best first.

        Raises:
            ConfigError: the network has no thresholds.
        """
        if self.description.task != "multilabel":
            raise ConfigError(
                f"this network is for {self.description.task} and has no thresholds; ask for its "
                "best predictions, by `top`"
            )
        thresholds = self.description.thresholds or [DEFAULT] * len(self.classes)
        every = self.best(probabilities_K, len(self.classes))
        return [each for each in every if probabilities_K[each.label] > thresholds[each.label]]

    def masks(self, images: Iterable[ImageInput]) -> list[np.ndarray]:
        """Return the label of each pixel, by a segmentation network: for each image an array uint8
        [height, width] of its size.

        Raises:
            ConfigError: the network is for another task; and as `predict`.
            RunError: as `predict`.
        """
        check_several(images)
        return [self.mask(image) for image in images]

    def mask(self, image: ImageInput) -> np.ndarray:
        """Return the mask of one image, as `masks`."""
        if self.description.task != "segmentation":
            raise ConfigError(f"this network is for {self.description.task} and makes no masks")
        opened = open_image(image, self.description)
        (logits_KYX,) = self.run(self.transformed(opened)[None])
        return labels_at(logits_KYX, opened.size)

    @staticmethod
    def check_batch(batch_size: int) -> None:
        """Check a batch size before any image is read.

        Raises:
            ConfigError: it is below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size} must be at least 1")


class Predictor(Classifier):
    """An exported network, ready to run. Threads may share it: with `paddle` and `openvino` they
    read and transform images in parallel and compute one after another, each with all `threads`.

    Args:
        folder: what `passl export` wrote.
        engine: `paddle`, on a GPU if Paddle has one (`paddle.set_device("cpu")` keeps it on the
            CPU); `paddle_plain`, on the CPU and without oneDNN; `onnxruntime` or `openvino`, which
            need a folder with ONNX; or `auto`: the fastest of those that are installed, which is
            measured once, see `passl.deploy.auto`.
        precision: `fp32`; `bf16` if processor and engine support it; or `int8` for a folder that
            has it.
        threads: for the computation; null for all processors that this process may use.
        allow_imports: whether modules of the exporter's own transforms may be imported, which runs
            their code.
        batch: images at once that `auto` measures with.

    Attributes:
        engine: that computes.
        device: that it computes on, `cpu` or such as `gpu:0`.

    Raises:
        ConfigError: it is no exported folder or one of another format, or the engine, precision or
            number of threads cannot be used.
        RunError: a file is missing or damaged, or the engine cannot load it.
    """

    def __init__(
        self,
        folder: str | Path,
        engine: str = "paddle",
        precision: str = "fp32",
        threads: int | None = None,
        allow_imports: bool = False,
        *,
        batch: int = 1,
    ):
        threads = usable_processors() if threads is None else threads
        check_engine(engine, precision, threads)
        folder = Path(folder).expanduser()
        if engine == AUTO:
            from passl.deploy.auto import choose_engine

            engine = choose_engine(folder, precision, threads, batch, allow_imports).engine
        description = read_folder(folder, needed_files(engine, precision), allow_imports)
        super().__init__(load_engine(folder, engine, precision, threads), description)
        self.engine, self.device = engine, device_of(engine)


def labels_at(logits_KYX: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The best label of each pixel, uint8 [height, width], of logits that are resized to that width
    and height, bilinear.
    """
    best = np.full(size[::-1], -np.inf, np.float32)
    labels = np.zeros(size[::-1], np.uint8)
    for label, logits_YX in enumerate(logits_KYX):  # one class at a time: images may be large
        resized = np.asarray(Image.fromarray(logits_YX).resize(size, Image.Resampling.BILINEAR))
        is_better = resized > best
        best[is_better], labels[is_better] = resized[is_better], label
    return labels


def _too_large(count: int) -> str:
    return f"a batch of {count} images does not fit into memory; choose a smaller batch size"
