"""The page of the comparison with timm, from made results. tests/parity/test_training.py compares
the runs.
"""

from __future__ import annotations

import numpy as np
import pytest

from studies.timm_training.page import page

ABOUT = {"processor": "one", "paddlepaddle": "3", "torch": "2", "timm": "1", "date": "today"}
ARCHITECTURE = {
    "img_size": 28,
    "patch_size": 4,
    "embed_dim": 64,
    "depth": 6,
    "local_up_to_layer": 5,
}


def results(gaps: list[float], error: float = 1e-6) -> dict:
    """Pairs that are so many points apart, with losses that are `error` apart at step 40 and far
    apart from step 80 on.
    """
    losses = np.linspace(2.3, 1.0, 120)
    others = losses + np.where(np.arange(120) >= 80, 0.1, 0.0)
    others[39] += error
    pairs = [
        {
            "seed": seed,
            "ours": {"top1": 90.0 + gap, "ips": 400.0, "losses": losses.tolist()},
            "theirs": {"top1": 90.0, "ips": 300.0, "losses": others.tolist()},
        }
        for seed, gap in enumerate(gaps)
    ]
    run = {"epochs": 5, "batch_size": 64, "architecture": ARCHITECTURE}
    return {"about": ABOUT, "planned": 3, **run, "pairs": pairs}


def test_differences_and_their_interval():
    """Differences 0.3, -0.1, 0.1: mean 0.1, deviation 0.2; t of 2 degrees is 4.303."""
    text = page(results([0.3, -0.1, 0.1]))
    half = 4.303 * 0.2 / np.sqrt(3)
    assert "| 0 | 90.30 | 90.00 | +0.30 | 400 | 300 |" in text
    assert f"from {0.1 - half:+.2f} to {0.1 + half:+.2f}, holds 0" in text
    assert "All 3 pairs" in text
    assert "49 tokens" in text
    assert "**does not hold 0**" in page(results([0.3, 0.31, 0.29]))


@pytest.mark.parametrize(("error", "said"), [(9e-6, "steps agree"), (2e-5, "**do not agree")])
def test_losses_of_the_first_fifty_steps_are_judged(error, said):
    text = page(results([0.0, 0.1], error))
    assert f"{said}" in text
    assert f"the largest difference is {error:.1e}" in text
    assert "1.0e-01 |" in text  # of the first 100
    assert "2 of 3 pairs" in text


def test_page_without_a_run():
    assert "0 of 3 pairs" in page(results([]))
