"""The study's numbers against formulas and a table of Student's t."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from studies.sample_efficiency.results import (
    mean_and_deviation,
    paired_difference,
    plot,
    table,
    verdict,
)

SCORES = {
    ("ours", 0.1): [90.0, 92.0, 91.0, 93.0, 94.0],
    ("theirs", 0.1): [88.0, 90.0, 90.0, 90.0, 92.0],
    ("ours", 1.0): [97.0, 98.0, 97.0, 98.0, 97.0],
    ("theirs", 1.0): [97.5, 97.5, 97.0, 98.5, 97.0],
}
SAMPLES = {0.1: 142, 1.0: 1437}


def test_mean_and_deviation():
    mean, deviation = mean_and_deviation([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert deviation == pytest.approx(np.sqrt(5 / 3))  # n - 1


def test_paired_difference():
    """Differences 2, 2, 1, 3, 2: mean 2, deviation sqrt(1 / 2); t of 4 degrees is 2.776."""
    mean, half = paired_difference(SCORES["ours", 0.1], SCORES["theirs", 0.1])
    assert mean == 2
    assert half == pytest.approx(2.776 * np.sqrt(0.5) / np.sqrt(5), rel=1e-6)


def test_table_and_verdict():
    lines = table(SCORES, SAMPLES, "ours", "theirs").splitlines()
    assert lines[2] == "| 10% (142) | 92.0 ± 1.6 | 90.0 ± 1.4 | +2.0 (+1.1 to +2.9) |"
    assert lines[3].startswith("| 100% (1,437) | 97.4 ± 0.5 | 97.5 ± 0.6 | -0.1 (")
    words = verdict(SCORES, "ours", "theirs")
    assert "better than theirs at 10% of the samples, worse nowhere; at 100%" in words
    assert "worse at 10% of the samples" in verdict(SCORES, "theirs", "ours")


def test_plot(tmp_path):
    plot(SCORES, SAMPLES, tmp_path / "study.png")
    with Image.open(tmp_path / "study.png") as image:
        assert min(image.size) > 300
