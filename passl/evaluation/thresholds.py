"""The probabilities above which a multi-label model's labels are predicted, one for each class.
Imports no paddle.

N samples, K classes.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence

import numpy as np

from passl.errors import ConfigError, shortened
from passl.io.files import open_regular

DEFAULT = 0.5
COLUMNS = ("class", "threshold")
"""Of a file of thresholds; others are ignored."""


def read_thresholds(option: str | None, classes: Sequence[str]) -> list[float]:
    """Return a threshold for each class.

    Args:
        option: a number for all classes; or a CSV file with the columns `class` and `threshold`, as
            `passl eval --best-thresholds` writes it. Null: 0.5.

    Raises:
        ConfigError: a number is not between 0 and 1, the file cannot be read, or its classes are
            not these.
    """
    if option is None:
        return [DEFAULT] * len(classes)
    number = _number(option, f"--thresholds {option}")
    return _read_file(option, classes) if number is None else [number] * len(classes)


def best_thresholds(labels_NK: np.ndarray, probabilities_NK: np.ndarray) -> list[float]:
    """Return the threshold of each class with which its F1 score on these samples is highest; of
    several the highest. It lies midway between two probabilities. 0.5 for a class without a
    positive sample.
    """
    return [
        _best(labels_N, probabilities_N)
        for labels_N, probabilities_N in zip(labels_NK.T, probabilities_NK.T, strict=True)
    ]


def _best(labels_N: np.ndarray, probabilities_N: np.ndarray) -> float:
    if not labels_N.any():
        return DEFAULT
    thresholds, true_positives, predicted = curve(labels_N, probabilities_N)
    best = np.argmax(2 * true_positives / (predicted + labels_N.sum()))
    below = thresholds[best + 1] if best + 1 < len(thresholds) else 0.0
    return float((thresholds[best] + below) / 2)


def curve(labels_N: np.ndarray, scores_N: np.ndarray) -> tuple[np.ndarray, ...]:
    """Count what is predicted at each threshold.

    Returns:
        The distinct scores from the highest; and with each as the lowest score at which the label
        is predicted, the number of true positives and of predictions.
    """
    order = np.argsort(-scores_N, kind="stable")
    ordered = scores_N[order]
    last = np.append(ordered[1:] < ordered[:-1], True)  # of equal scores
    return ordered[last], np.cumsum(labels_N[order])[last], np.flatnonzero(last) + 1


def _number(text: str, where: str) -> float | None:
    """A threshold; null for a text that is no number."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not 0 <= value <= 1:
        raise ConfigError(f"{where}: a threshold is a probability, from 0 to 1")
    return value


def _read_file(path: str, classes: Sequence[str]) -> list[float]:
    where = f"--thresholds {path}"
    try:
        options = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
        with open_regular(path, "r", **options) as file:
            reader = csv.DictReader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{where}: is neither a number nor a file that can be read: {reason}"
        ) from None
    if not set(COLUMNS) <= set(reader.fieldnames or ()):
        raise ConfigError(f"{where}: its first line must name the columns {' and '.join(COLUMNS)}")
    found: dict[str, float] = {}
    for number, row in rows:
        text = str(row["threshold"])
        value = _number(text, f"{path}:{number}: threshold {text}")
        if value is None:
            raise ConfigError(f"{path}:{number}: threshold {text!r} is not a number")
        found[row["class"]] = value
    odd = sorted(set(found) ^ set(classes), key=str)
    if odd or len(rows) != len(classes):
        listed = f": {shortened(list(map(str, odd)))}" if odd else ""
        raise ConfigError(
            f"{where}: must have one line for each of the {len(classes)} classes of the model; it "
            f"has {len(rows)}{listed}"
        )
    return [found[name] for name in classes]
