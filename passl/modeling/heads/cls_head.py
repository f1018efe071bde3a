"""The classification head."""

from __future__ import annotations

from typing import Literal

from paddle import nn

from passl.modeling.heads import HEADS
from passl.modeling.layers import activation, init_linear
from passl.utils.types import PositiveInt, Rate


@HEADS.register
class ClsHead(nn.Layer):
    """Dropout and one Linear; with `act`, a hidden layer before it: Linear, activation, LayerNorm
    (ComVEX's head).

    Args:
        num_classes: classes, at least one.
        in_channels: width of the features.
        drop_rate: dropout on the features.
        act: activation of the hidden layer; null for none.
    """

    def __init__(
        self,
        *,
        num_classes: PositiveInt,
        in_channels: PositiveInt,
        drop_rate: Rate = 0.0,
        act: Literal["gelu", "gelu_tanh", "quick_gelu", "relu"] | None = None,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.drop = nn.Dropout(drop_rate)
        self.hidden = nn.Identity() if act is None else Hidden(in_channels, act)
        self.fc_cls = nn.Linear(in_channels, num_classes)
        init_linear(self.fc_cls)

    def forward(self, features_BC):
        if features_BC.shape[-1] != self.in_channels:
            raise ValueError(
                f"the head takes {self.in_channels} features, not {features_BC.shape[-1]}; set "
                "head.in_channels to the backbone's width"
            )
        return self.fc_cls(self.hidden(self.drop(features_BC)))


HEADS.register("CvTClsHead")(ClsHead)  # PASSL's name for the same layer


@HEADS.register
class MultilabelHead(ClsHead):
    """The same layers for multi-label data: the sigmoid of a logit is the probability of its label.
    Weights of a ClsHead can be loaded.
    """

    task = "multilabel"


class Hidden(nn.Layer):
    """Linear, activation, LayerNorm on [B, C]."""

    def __init__(self, dim: int, act: str):
        super().__init__()
        self.fc = nn.Linear(dim, dim)
        self.act = activation(act)
        self.norm = nn.LayerNorm(dim)
        init_linear(self.fc)

    def forward(self, x_BC):
        return self.norm(self.act(self.fc(x_BC)))
