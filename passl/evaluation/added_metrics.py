"""Metrics that a config adds to the standard scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from passl.errors import ConfigError
from passl.evaluation import METRICS
from passl.evaluation.calibration import BINS, in_bins
from passl.evaluation.predictions import BEST, Predictions
from passl.utils.types import PositiveInt


@METRICS.register
class TopK:
    """Accuracy in percent: the share of samples whose class is among the k best predictions.

    Args:
        k: from 1 to 5.
    """

    def __init__(self, *, k: Annotated[int, Field(ge=1, le=BEST)] = 3):
        self.k = k

    def __call__(self, found: Predictions, classes: int) -> float:
        return 100 * float(found.correct(self.k).mean())


@METRICS.register
class CalibrationError:
    """Expected calibration error in percent: the mean difference between the probability of the
    best prediction and the accuracy, over bins of equal width, weighted by their samples (Guo et
    al. 2017, https://arxiv.org/abs/1706.04599, equation 3).

    Args:
        bins: number of bins.
    """

    def __init__(self, *, bins: PositiveInt = BINS):
        self.bins = bins

    def __call__(self, found: Predictions, classes: int) -> float:
        return in_bins(found.probabilities[:, 0], found.correct(1), self.bins).error


def build_metrics(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of a config's `metrics`, by name.

    Raises:
        ConfigError: a node is wrong, or a metric is listed twice.
    """
    names = [node.get("name") for node in nodes]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"metrics: {twice[0]} is listed twice; leave one out")
    return {node["name"]: METRICS.build(node) for node in nodes}
