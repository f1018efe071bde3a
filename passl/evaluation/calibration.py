"""How well the probabilities of the predictions agree with their accuracy (Guo et al. 2017,
https://arxiv.org/abs/1706.04599). Imports no paddle.

N samples, K classes, M bins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from passl.errors import RunError
from passl.evaluation.tables import write_csv

BINS = 15
"""As in the paper."""
LIMITS = (0.01, 100.0)
"""Lowest and highest temperature that is tried."""
_ROWS = 4096
"""Samples that are converted to double precision at once."""


@dataclass(frozen=True)
class Bins:
    """Samples by the probability of their best prediction, the confidence, in M bins of equal
    width: (0, 1/M], (1/M, 2/M] and so on.

    Args:
        counts: int64 [M], samples.
        confidence: float64 [M], mean confidence; 0 for an empty bin.
        accuracy: float64 [M], part of the samples that are predicted correctly; 0 for an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """float64 [M], the difference between accuracy and confidence; not negative."""
        return np.abs(self.accuracy - self.confidence)

    @property
    def error(self) -> float:
        """The expected calibration error in percent: the mean gap, weighted by the samples
        (equation 3).
        """
        return 100 * float(self.gaps @ self.counts / self.counts.sum())


def in_bins(confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = BINS) -> Bins:
    """Sort samples into bins.

    Args:
        confidence_N: probability of the best prediction.
        correct_N: whether it is the true class.
    """
    confidence_N = confidence_N.astype(np.float64)
    place_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place_N, minlength=bins)
    sums = (np.bincount(place_N, weights, bins) for weights in (confidence_N, correct_N))
    confidence, accuracy = (total / np.maximum(counts, 1) for total in sums)
    return Bins(counts, confidence, accuracy)


@dataclass(frozen=True)
class Calibration:
    """The calibration of the predictions whose logits are divided by a temperature.

    Args:
        temperature: 1 for the network's own probabilities.
        is_fitted: whether the temperature is fitted to these samples.
        bins: the samples by confidence.
        nll: mean negative log-likelihood of the true class.
        brier: mean Brier score: the sum over the classes of the squared differences between
            probability and 0 or 1; from 0 to 2.
        confidence, accuracy: means over all samples, in percent.
    """

    temperature: float
    is_fitted: bool
    bins: Bins
    nll: float
    brier: float
    confidence: float
    accuracy: float

    def __str__(self) -> str:
        """As a line for the log."""
        line = (
            "calibration at temperature {temperature:.4g}: ECE {ece:.2f} %, MCE {mce:.2f} %, NLL "
            "{nll:.4f}, Brier {brier:.4f}, confidence {confidence:.2f} %, accuracy {accuracy:.2f} %"
        )
        return line.format(**self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """As plain data: `ece` and `mce` are the expected and the maximum calibration error in
        percent (equations 3 and 5).
        """
        return {
            "temperature": self.temperature,
            "fitted": self.is_fitted,
            "ece": self.bins.error,
            "mce": 100 * float(self.bins.gaps.max()),
            **{name: getattr(self, name) for name in ("nll", "brier", "confidence", "accuracy")},
        }


def calibration(
    logits_NK: np.ndarray, labels_N: np.ndarray, temperature: float = 1.0, is_fitted: bool = False
) -> Calibration:
    """Measure the calibration of predictions.

    Args:
        logits_NK: of all classes that are compared.
        labels_N: the columns of the true classes.
    """
    columns: list[np.ndarray] = []
    for part_NK, own_N in _parts(logits_NK, labels_N):
        log_NK = _log_softmax(part_NK / temperature)
        probability_NK = np.exp(log_NK)
        true_N = np.take_along_axis(log_NK, own_N[:, None], 1)[:, 0]
        # (p - 1)^2 of the true class and p^2 of the others.
        brier_N = np.square(probability_NK).sum(1) - 2 * np.exp(true_N) + 1
        correct_N = part_NK.argmax(1) == own_N
        columns.append(np.stack([probability_NK.max(1), correct_N, -true_N, brier_N]))
    confidence_N, correct_N, nll_N, brier_N = np.concatenate(columns, 1)
    return Calibration(
        temperature,
        is_fitted,
        in_bins(confidence_N, correct_N),
        nll=float(nll_N.mean()),
        brier=float(brier_N.mean()),
        confidence=100 * float(confidence_N.mean()),
        accuracy=100 * float(correct_N.mean()),
    )


def fit_temperature(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the temperature with the least negative log-likelihood (section 4.2). Its error on
    these samples is too low: report that of others.

    Raises:
        RunError: it is not within `LIMITS`, as when all predictions are correct.
    """
    # The likelihood is convex in the inverse temperature, so its derivative has one zero. Newton's
    # step is taken where it stays between the bounds, else half the way on a logarithmic scale.
    low, high = 1 / LIMITS[1], 1 / LIMITS[0]
    if _slope(logits_NK, labels_N, low)[0] >= 0 or _slope(logits_NK, labels_N, high)[0] <= 0:
        raise RunError(
            f"no temperature from {LIMITS[0]:g} to {LIMITS[1]:g} has the least negative "
            "log-likelihood: the predictions are all correct, or no better than chance; fit the "
            "temperature to other images, or leave --temperature out"
        )
    inverse = 1.0
    for _ in range(100):
        slope, curvature = _slope(logits_NK, labels_N, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        stepped = inverse - slope / curvature if curvature > 0 else low
        following = stepped if low < stepped < high else float(np.sqrt(low * high))
        if abs(following - inverse) <= 1e-10 * inverse:
            break
        inverse = following
    return 1 / inverse


def _slope(logits_NK: np.ndarray, labels_N: np.ndarray, inverse: float) -> tuple[float, float]:
    """The first and second derivative of the negative log-likelihood, summed over the samples, by
    the inverse temperature.
    """
    first = second = 0.0
    for part_NK, own_N in _parts(logits_NK, labels_N):
        probability_NK = np.exp(_log_softmax(part_NK * inverse))
        mean_N1 = (probability_NK * part_NK).sum(1, keepdims=True)
        first += float((mean_N1 - np.take_along_axis(part_NK, own_N[:, None], 1)).sum())
        second += float((probability_NK * np.square(part_NK - mean_N1)).sum())
    return first, second


def _parts(logits_NK: np.ndarray, labels_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some samples after the other, in double precision, with logits of 0 for the best class."""
    for start in range(0, len(labels_N), _ROWS):
        part_NK = logits_NK[start : start + _ROWS].astype(np.float64)
        yield part_NK - part_NK.max(1, keepdims=True), labels_N[start : start + _ROWS]


def _log_softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Of logits up to 0."""
    return logits_NK - np.log(np.exp(logits_NK).sum(1, keepdims=True))


def write_calibration(path: Path, found: Sequence[Calibration]) -> None:
    """Write a row for each bin of each temperature; an empty bin has no confidence and accuracy."""
    rows = []
    for each in found:
        bins = each.bins
        for index, count in enumerate(bins.counts.tolist()):
            edges = (f"{(index + side) / len(bins.counts):.6f}" for side in (0, 1))
            means = (
                f"{mean[index]:.6f}" if count else "" for mean in (bins.confidence, bins.accuracy)
            )
            rows.append([f"{each.temperature:.6g}", *edges, count, *means])
    write_csv(path, ["temperature", "above", "up_to", "count", "confidence", "accuracy"], rows)
