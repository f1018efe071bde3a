"""The images that a network is quantized with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from passl.data import DATASETS
from passl.data.build import build_dataset
from passl.data.datasets.images import convert_image
from passl.deploy.exported import Description
from passl.deploy.from_weights import dataset_of, network_of
from passl.deploy.preprocess import Preprocessing
from passl.errors import ConfigError
from passl.porting import locate, read_file
from passl.porting.classes import order_in

BATCH = 32
MAX_LOSS = 0.5
"""Points of top-1 accuracy that int8 may lose, by default."""
RANGES, HELD_OUT = 512, 2000
"""Most images that are used for ranges and for scores."""
_FEWEST = 60
"""Images that a calibration needs."""


@dataclass(frozen=True)
class CalibrationData:
    """The data that a network is quantized with.

    Args:
        prepared: the input for a sample, float32 [channels, height, width], by its index.
        labels: int64 [N], of all samples.
        ranges: indices of the samples whose activations give the ranges.
        held_out: indices of other samples, on which the loss of accuracy is measured.
        max_loss: points of top-1 accuracy that may be lost on them.
        source: the data, for the description.
    """

    prepared: Callable[[int], np.ndarray]
    labels: np.ndarray
    ranges: Sequence[int]
    held_out: Sequence[int]
    max_loss: float
    source: str

    def batches(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The inputs for samples, in batches."""
        for start in range(0, len(indices), BATCH):
            yield np.stack([self.prepared(int(i)) for i in indices[start : start + BATCH]])


def read_calibration(
    weights: str | Path,
    cfg: Mapping[str, Any] | None,
    data: str | Path,
    description: Description,
    max_loss: float = MAX_LOSS,
    allow_imports: bool = False,
) -> CalibrationData:
    """Choose the samples of a calibration: a quarter of the data for ranges and the rest for
    scores, at most `RANGES` and `HELD_OUT`, drawn without replacement by a fixed seed.

    Args:
        weights, cfg, allow_imports: as for `from_weights.load`.
        data: the `dataroot` of the dataset that the network was trained with, in the layout of that
            dataset; or a folder of class folders.
        description: of the network.
        max_loss: points of top-1 accuracy that may be lost.

    Raises:
        ConfigError: the network is no classifier, the data is missing or too small, or its classes
            are not the network's.
    """
    if description.task != "classification":
        raise ConfigError(
            f"--int8: the network is for {description.task}, and only classification has the "
            "top-1 accuracy that bounds the loss; leave it out"
        )
    if not 0 <= max_loss <= 100:
        raise ConfigError(f"--max-loss {max_loss:g}: points of accuracy are from 0 to 100")
    config, _ = network_of(read_file(locate(weights)), cfg, allow_imports)
    dataset = build_dataset(_node(dataset_of(config, "train"), str(data), description))
    try:
        order = order_in(dataset.classes, list(description.classes))
    except ValueError as error:
        raise ConfigError(
            f"--calibrate {data}: its classes are not the network's: {error}"
        ) from None
    labels = np.asarray(dataset.labels)
    if order is not None:
        labels = np.argsort(order)[labels]
    if len(labels) < _FEWEST:
        raise ConfigError(
            f"--calibrate {data}: has {len(labels)} images; a calibration needs {_FEWEST}"
        )
    preprocess = Preprocessing(description.transforms)

    def prepared(index: int) -> np.ndarray:
        image = dataset.load_image(index)
        return preprocess(convert_image(image, description.mode, description.background))

    drawn = np.random.default_rng(0).permutation(len(labels)).tolist()
    count = min(RANGES, len(drawn) // 4)
    held_out = drawn[count : count + HELD_OUT]
    return CalibrationData(prepared, labels, drawn[:count], held_out, max_loss, str(data))


def _node(trained: Mapping[str, Any], data: str, description: Description) -> dict[str, Any]:
    """The node of the dataset in a folder."""
    if trained and "dataroot" in DATASETS.options(trained["name"]):
        kept = {key: value for key, value in trained.items() if key != "transforms"}
        return {**kept, "dataroot": data}
    return {
        "name": "ImageFolder",
        "dataroot": data,
        "exif_turn": description.exif_turn,
        "min_side": description.min_side,
    }
