"""Parameters and multiply-accumulates by layer."""

from __future__ import annotations

import pytest
from paddle import nn

from passl.analysis.costs import cost_by_layer
from passl.analysis.flops import count_macs
from passl.modeling import Model
from passl.optim.parameters import trainable
from passl.utils.config import get_config


def test_rows_by_hand_at_each_depth():
    block = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8))
    model = nn.Sequential(
        ("blocks", nn.LayerList([block])), ("fc", nn.Linear(6, 5, bias_attr=False))
    )
    model.forward = lambda images: model["fc"](model["blocks"][0](images))
    convolution = ("blocks.0.0", "Conv2D", 8 * 27 + 8, 4 * 6 * 8 * 27)
    norm, linear = ("blocks.0.1", "BatchNorm2D", 16, 0), ("fc", "Linear", 30, 8 * 4 * 6 * 5)
    for depth in (1, 2):
        rows = [
            (r.name, r.kind, r.parameters, r.macs) for r in cost_by_layer(model, (4, 6), 3, depth)
        ]
        # Without names of its own, a level is an index of the level before.
        assert rows == [("blocks.0.0", *convolution[1:]), norm, linear]


@pytest.mark.parametrize("config", ["digits/convit", "segmentation/digits_cvt"])
def test_sums_are_those_of_the_network(config):
    model = Model(get_config(config), classes=[str(digit) for digit in range(11)])
    parameters = sum(each.size for _, each in trainable(model))
    macs = sum(count_macs(model, (32, 32)).values())
    for depth in (1, 3, 9):
        rows = cost_by_layer(model, (32, 32), depth=depth)
        assert sum(row.parameters for row in rows) == parameters
        assert sum(row.macs for row in rows) == macs
        assert len({row.name for row in rows}) == len(rows)
