"""Metrics that a config adds to the standard scores."""

from __future__ import annotations

import numpy as np
import pytest

from passl.errors import ConfigError, RunError
from passl.evaluation.added_metrics import CalibrationError, TopK, build_metrics
from passl.evaluation.classification import score
from passl.evaluation.predictions import Predictions


def predictions(count: int = 400, classes: int = 6) -> Predictions:
    rng = np.random.default_rng(0)
    probabilities = np.sort(rng.dirichlet(np.ones(classes), count).astype(np.float32))[:, ::-1]
    ranked = np.argsort(rng.random((count, classes)), axis=1)
    return Predictions(
        indices=np.arange(count),
        labels=rng.integers(0, classes, count),
        classes=ranked[:, :5],
        probabilities=probabilities[:, :5].copy(),
        losses=np.ones(count, np.float32),
        seconds=1.0,
    )


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_is_the_papers_sum(bins):
    """Guo et al. 2017, equation 3, one bin after the other."""
    found = predictions()
    confidence, right = found.probabilities[:, 0], found.classes[:, 0] == found.labels
    expected = 0.0
    for index in range(bins):
        inside = (confidence > index / bins) & (confidence <= (index + 1) / bins)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].astype(float).mean())
            expected += inside.mean() * gap
    assert CalibrationError(bins=bins)(found, 6) == pytest.approx(100 * expected, abs=1e-9)


def test_top_k():
    found = predictions()
    expected = np.mean([label in row[:3] for label, row in zip(found.labels, found.classes)])  # noqa: B905
    assert TopK(k=3)(found, 6) == pytest.approx(100 * expected)


def test_score_has_the_metrics_by_name():
    metrics = build_metrics([{"name": "TopK", "k": 2}, {"name": "CalibrationError"}])
    found = predictions()
    result = score(found, 6, metrics=metrics).to_dict()
    assert result["TopK"] == TopK(k=2)(found, 6)
    assert "CalibrationError" in result
    assert "metrics" not in result


def test_metric_that_is_not_finite_ends_the_evaluation():
    with pytest.raises(RunError, match="Broken is nan"):
        score(predictions(), 6, metrics={"Broken": lambda found, classes: float("nan")})


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([{"name": "TopK", "k": 6}], "k"),
        ([{"name": "TopKK"}], "did you mean 'TopK'"),
        ([{"name": "TopK"}, {"name": "TopK", "k": 2}], "TopK is listed twice"),
    ],
)
def test_wrong_nodes(nodes, message):
    with pytest.raises(ConfigError, match=message):
        build_metrics(nodes)
