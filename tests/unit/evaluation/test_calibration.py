"""Calibration against sums over one sample after the other, temperatures against SciPy."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from passl.errors import RunError
from passl.evaluation.calibration import BINS, calibration, fit_temperature, write_calibration
from passl.evaluation.reliability import draw_calibration


def overconfident(count: int = 300, classes: int = 4, factor: float = 3.0):
    """Logits that are `factor` times those from which the labels are drawn."""
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(count, classes))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return (factor * logits + 40).astype(np.float32), labels


def softmax(row: np.ndarray) -> list[float]:
    exponentials = [math.exp(value - max(row)) for value in row.tolist()]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_scores(temperature):
    logits, labels = overconfident()
    found = calibration(logits, labels, temperature).to_dict()
    rows = [softmax(row.astype(float) / temperature) for row in logits]
    brier = sum(
        (value - (column == label)) ** 2
        for row, label in zip(rows, labels, strict=True)
        for column, value in enumerate(row)
    )
    gaps, ece = [], 0.0
    for index in range(BINS):
        inside = [
            (max(row), int(np.argmax(row)) == label)
            for row, label in zip(rows, labels, strict=True)
            if index / BINS < max(row) <= (index + 1) / BINS
        ]
        if inside:
            gaps.append(abs(np.mean([c for c, _ in inside]) - np.mean([r for _, r in inside])))
            ece += gaps[-1] * len(inside) / len(rows)
    right = [int(np.argmax(row)) == label for row, label in zip(rows, labels, strict=True)]
    assert found == {
        "temperature": temperature,
        "fitted": False,
        "ece": pytest.approx(100 * ece),
        "mce": pytest.approx(100 * max(gaps)),
        "nll": pytest.approx(log_loss(labels, rows)),
        "brier": pytest.approx(brier / len(rows)),
        "confidence": pytest.approx(100 * np.mean([max(row) for row in rows])),
        "accuracy": pytest.approx(100 * np.mean(right)),
    }


@pytest.mark.parametrize("factor", [0.05, 1.0, 3.0, 30.0])
def test_temperature_has_the_least_negative_log_likelihood(factor):
    logits, labels = overconfident(factor=factor)
    best = minimize_scalar(
        lambda log: calibration(logits, labels, math.exp(log)).nll,
        bounds=(math.log(0.01), math.log(100)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    found = fit_temperature(logits, labels)
    # A minimum is flat: its place is known to the root of the precision.
    assert math.log(found) == pytest.approx(best.x, abs=1e-6)
    assert found / factor == pytest.approx(1, abs=0.3)  # what the labels were drawn with
    assert calibration(logits, labels, found).nll <= calibration(logits, labels).nll


def test_classes_that_are_ruled_out_do_not_count():
    logits, labels = overconfident()
    wider = np.concatenate([logits, np.full((len(logits), 3), -1e30, np.float32)], 1)
    assert calibration(wider, labels).to_dict() == calibration(logits, labels).to_dict()
    assert fit_temperature(wider, labels) == pytest.approx(fit_temperature(logits, labels))


@pytest.mark.parametrize("labels", [[0, 1, 0], [1, 0, 1]])
def test_all_right_or_all_wrong_has_no_temperature(labels):
    logits = np.array([[2, 0], [0, 3], [1, 0]], np.float32)
    with pytest.raises(RunError, match="leave --temperature out"):
        fit_temperature(logits, np.array(labels))


def test_table_and_diagram(tmp_path):
    """A row for each bin of each temperature, from which the error can be computed again."""
    logits, labels = overconfident()
    found = [calibration(logits, labels), calibration(logits, labels, 3.0)]
    write_calibration(tmp_path / "c.csv", found)
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * BINS
    for each in found:
        own = [row for row in rows if float(row["temperature"]) == each.temperature]
        assert [float(row["above"]) for row in own] == pytest.approx(
            np.arange(BINS) / BINS, abs=1e-6
        )
        assert sum(int(row["count"]) for row in own) == len(labels)
        gaps = [
            int(row["count"]) * abs(float(row["accuracy"]) - float(row["confidence"]))
            for row in own
            if row["accuracy"]
        ]
        assert 100 * sum(gaps) / len(labels) == pytest.approx(each.bins.error, abs=1e-3)
        assert all(not int(row["count"]) for row in own if not row["accuracy"])
    draw_calibration(tmp_path / "c.png", found)
    with Image.open(tmp_path / "c.png") as image:
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):  # bars, and gaps to the diagonal
        assert (colours == colour).all(1).sum() > 100
