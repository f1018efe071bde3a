"""An exponential moving average (EMA) of the weights, which often scores better than they do."""

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

    All of the state dict is averaged, BatchNorm's running statistics too, as in timm's ModelEmaV3.
    Without `decay` nothing is averaged, and every method does nothing.

    Args:
        model: whose weights are averaged. The average starts with them.
        decay: null for no average. facebookresearch/convit has 0.99996 as default, switched off.
        warmup: use a smaller decay at first, min(decay, (1 + step) / (10 + step)), so that the
            random initialization is forgotten soon (TensorFlow's num_updates).

    Attributes:
        averages: tensors by their names in the state dict.
    """

    def __init__(self, model: nn.Layer, /, *, decay: Rate | None = None, warmup: bool = True):
        self.decay, self.warmup = decay, warmup
        # The parameters themselves: in half precision the state dict has float32 copies.
        self._weights = dict(model.named_parameters()) if decay is not None else {}
        self.averages = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @paddle.no_grad()
    def update(self, step: int) -> None:
        """Add the model's weights to the average.

        Args:
            step: steps made before the last one.
        """
        if self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        for name, average in self.averages.items():
            average.scale_(decay)
            average.add_(self._weights[name].astype(average.dtype) * (1 - decay))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the model has the averages as its weights."""
        trained = {name: weight.detach().clone() for name, weight in self._weights.items()}
        try:
            for name, weight in self._weights.items():
                weight.set_value(self.averages[name].astype(weight.dtype))
            yield
        finally:
            for name, weight in trained.items():
                self._weights[name].set_value(weight)

    def restore(self, averages: Mapping[str, Any]) -> None:
        """Continue with these averages, arrays by name."""
        for name, average in self.averages.items():
            average.set_value(np.asarray(averages[name]))
