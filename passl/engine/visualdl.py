"""What VisualDL shows of a run: the numbers of `metrics.jsonl` as scalars and histograms, augmented
images, and the hyperparameters beside the scores. The run does not depend on it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from paddle import nn

from passl.data.balance import class_text
from passl.data.loader import Loader
from passl.data.transforms.normalize import Normalize
from passl.engine.run_files import VISUALDL
from passl.logging import get_logger, printable
from passl.utils.config import leaves

_PATIENCE = 10.0
"""Seconds that VisualDL may take to write its last points."""
_BINS = 30
_PHASES = ("train", "val")
"""Whose rows have numbers to show; those of others, such as the number of images, are constant."""
_VALUES = ("epochs", "seed", "accumulate", "recompute")
_TRAINING = ("sampler", "mixup")
_SECTIONS = ("optimizer", "lr_scheduler", "loss", "ema", "amp", "distillation", "freeze")
_MODEL = ("architecture", "head")
"""What is a hyperparameter, in the order of the table: of the config, of `dataloader.train`, of the
config, of `model`.
"""
_LARGEST = 2**31
"""VisualDL's integers have 32 bits."""


class VisualDL:
    """Writes a run's folder `vdl`. VisualDL cannot delete points, so the folder is made anew, and
    everything is written again after a resume.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self._writer: Any = None
        place = folder / VISUALDL
        shutil.rmtree(place, ignore_errors=True)
        try:
            from visualdl import LogWriter

            # Its thread ends when the disk is full, and a full queue would then block the run. It
            # takes `max_queue` for the seconds between flushes, and `flush_secs` for the queue.
            self._writer = LogWriter(str(place), max_queue=10, flush_secs=10**6)
        except (ImportError, OSError) as error:
            get_logger().warning("VisualDL cannot write to %s: %s", place, error)

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row of `metrics.jsonl`."""
        if self._writer is None:
            return
        moment = round(1000 * row["time"]) if "time" in row else None  # version 0.1 has none
        for name, value in _scalars(row):
            self._writer.add_scalar(name, value, row["step"], moment)
        for name, found in row.get("histograms", {}).items():
            self._add_histogram(name, found, row["step"], moment)

    def _add_histogram(
        self, name: str, found: Mapping[str, Any], step: int, moment: int | None
    ) -> None:
        """Write a histogram that is counted already; the writer's method would count values."""
        from visualdl.component.base_component import histogram

        counts = found["counts"]
        edges = np.linspace(found["low"], found["high"], len(counts) + 1).tolist()
        record = histogram(f"weights/{_tag(name)}", counts, edges, step, moment)
        self._writer._get_file_writer().add_record(record)

    def add_images(self, images: Sequence[tuple[str, np.ndarray]]) -> None:
        """Write images of the start of a run.

        Args:
            images: names, and pixels [height, width, 3 or 4] from 0 to 1.
        """
        if self._writer is not None:
            for name, pixels in images:
                array = np.rint(255 * pixels[..., :3]).astype(np.uint8)
                self._writer.add_image(f"augmented/{_tag(name)}", array, step=0)

    def add_hyperparameters(self, config: Mapping[str, Any], scores: Sequence[str]) -> None:
        """Write the hyperparameters, to be shown beside the last value of each score.

        Args:
            config: of the run.
            scores: keys of its evaluations.
        """
        if self._writer is not None:
            found = dict(_hyperparameters(config))
            self._writer.add_hparams(found, [f"val/{score}" for score in scores])

    def close(self) -> bool:
        """Write what is left, and return whether all is written."""
        if self._writer is None:
            return True
        # Once its thread has ended, `close` would wait for ever.
        closing = Thread(target=self._writer.close, daemon=True)
        closing.start()
        closing.join(_PATIENCE)
        self._writer = None
        return not closing.is_alive()


def first_images(loader: Loader, count: int) -> list[tuple[str, np.ndarray]]:
    """The first images of a training with their classes, as the network gets them in the first
    epoch, before mixup. None if the transforms do not end with passl's Normalize, or if they cannot
    be read, which a warning tells.

    Returns:
        Names, and pixels [height, width, 3 or 4] from 0 to 1.
    """
    *_, last = [None, *loader.samples.transforms]
    if not isinstance(last, Normalize):
        return []
    try:
        batch = loader.first(count)
    except RuntimeError as error:  # the run reports it where it needs the image
        get_logger().warning("VisualDL gets no images: %s", error)
        return []
    if batch is None:
        return []
    named, dataset = [], loader.dataset
    for number, (image, index) in enumerate(
        zip(batch.images.numpy(), batch.indices.tolist(), strict=True), 1
    ):
        label = "" if dataset.task == "segmentation" else f" {class_text(dataset, index)}"
        named.append((f"{number}{label}", last.undo(image)))
    return named


def weight_histograms(model: nn.Layer) -> dict[str, dict[str, Any]]:
    """A histogram of each trained parameter with two dimensions or more.

    Returns:
        By name: the `counts` of bins of equal width, from `low` to `high`.
    """
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient or parameter.ndim < 2:
            continue
        values = parameter.numpy().astype(np.float64)  # bins of close float32 would be empty
        counts, edges = np.histogram(values[np.isfinite(values)], bins=_BINS)
        low, high = float(edges[0]), float(edges[-1])
        found[name] = {"low": low, "high": high, "counts": counts.tolist()}
    return found


def _scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Name and value of each number of a row. The first part of a name is a group of VisualDL."""
    for name, value in row.items():
        is_number = isinstance(value, int | float) and name not in ("step", "time")
        if is_number and row["phase"] in _PHASES:
            yield f"{row['phase']}/{name}", value
    for block, measures in row.get("blocks", {}).items():
        for name, values in measures.items():
            for head, value in enumerate(values if isinstance(values, list) else ()):
                if value is not None:
                    yield f"attention {name}/{block} head {head}", value


def _hyperparameters(config: Mapping[str, Any]) -> Iterator[tuple[str, int | float | str]]:
    found: dict[str, Any] = {}
    for section, keys in (
        (config, _VALUES),
        (config["dataloader"]["train"], _TRAINING),
        (config, _SECTIONS),
        (config["model"], _MODEL),
    ):
        found |= {key: section[key] for key in keys if key in section}
    for place, value in leaves(found):
        if isinstance(value, bool) or not isinstance(value, int | float):
            value = str(value)
        elif isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
            value = float(value)
        # The table of VisualDL shows nothing where a name has a dot.
        yield _tag("/".join(map(str, place))).replace(".", "_"), value


def _tag(name: str) -> str:
    """A name that VisualDL takes: it refuses %."""
    return printable(name).replace("%", "_")
