"""An exponential moving average of the weights (EMA), which often scores better than they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn

from passl.utils.schema import validated
from passl.utils.types import Rate


@validated
class WeightAverage:
    """average = decay * average + (1 - decay) * weights, after every step.

    Everything in the state dict is averaged, the running statistics of BatchNorm too, as timm's
    ModelEmaV3 does. Without `decay` it averages nothing and costs nothing.

    Args:
        model: whose weights; they are where the average starts.
        decay: in [0, 1), or null for no average. facebookresearch/convit has 0.99996 as default,
            switched off.
        warmup: a smaller decay at the beginning, min(decay, (1 + step) / (10 + step)), so that the
            random start is forgotten soon (TensorFlow's num_updates).

    Attributes:
        averages: tensors by the names of the state dict; none without an average.
    """

    def __init__(self, model: nn.Layer, /, *, decay: Rate | None = None, warmup: bool = True):
        self._model, self.decay, self.warmup = model, decay, warmup
        kept = self._weights() if decay is not None else {}
        self.averages = {name: weight.detach().clone() for name, weight in kept.items()}

    @paddle.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights of the model.

        Args:
            step: steps made before the one that has just been made.
        """
        if self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        weights = self._weights()
        for name, average in self.averages.items():
            average.scale_(decay)
            average.add_(weights[name].astype(average.dtype) * (1 - decay))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model has the averages as its weights."""
        weights = self._weights()
        trained = {name: weights[name].detach().clone() for name in self.averages}
        try:
            for name, average in self.averages.items():
                weights[name].set_value(average.astype(weights[name].dtype))
            yield
        finally:
            for name, weight in trained.items():
                weights[name].set_value(weight)

    def restore(self, averages: Mapping[str, Any]) -> None:
        """Go on from these averages; arrays by name."""
        for name, average in self.averages.items():
            average.set_value(np.asarray(averages[name]))

    def _weights(self) -> dict[str, Any]:
        """The model's own tensors, running statistics included. (In half precision its state dict
        has copies in float32.)
        """
        return dict(self._model.named_parameters())
