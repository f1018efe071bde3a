"""The golden cases once more with accelerated networks, in value, gradient and training."""

from __future__ import annotations

import pytest

from passl.accelerate import FAST_CLASSES, SWITCH, accelerate, cpu_ops
from tests.golden import test_networks as golden
from tests.golden.test_networks import (  # noqa: F401  (pytest collects them here too)
    test_attention_of_the_first_block,
    test_feature_maps_of_the_stages,
    test_five_steps_of_adamw,
    test_gradients,
    test_values,
)


class AcceleratedCase(golden.Case):
    def __init__(self, name: str):
        super().__init__(name)
        accelerate(self.model)
        assert not any(type(layer) in FAST_CLASSES for layer in self.model.sublayers())


@pytest.fixture(autouse=True)
def accelerated(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(cpu_ops, "SCORES", 1000)  # so that the small networks need several blocks
    monkeypatch.setattr(golden, "Case", AcceleratedCase)
