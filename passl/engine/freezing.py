"""Parameters that are not trained, for some epochs or for the whole run."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import nn

from passl.errors import ConfigError
from passl.optim.parameters import matching
from passl.utils.schema import validated
from passl.utils.types import PositiveInt


@validated
class Freezing:
    """Freezes parameters for the first epochs (linear probing, then fine-tuning) or for all.

    Args:
        model: whose parameters.
        names: shell-style patterns of parameter names, such as `backbone.*`.
        epochs: epochs in which they are frozen; null for the whole run.

    Raises:
        ConfigError: a pattern matches no parameter, or no parameter is left to train.
    """

    def __init__(
        self, model: nn.Layer, /, *, names: Sequence[str] = (), epochs: PositiveInt | None = None
    ):
        self._epochs = epochs
        trainable = {n: p for n, p in model.named_parameters() if not p.stop_gradient}
        chosen = matching(trainable, names, "freeze.names")
        self._parameters = [trainable[name] for name in trainable if name in chosen]
        if len(self._parameters) == len(trainable):
            raise ConfigError(
                f"freeze.names: {list(names)} leaves nothing to train; the classifier is head.*"
            )
        frozen = {id(parameter) for parameter in self._parameters}
        self._norms = [
            layer
            for layer in model.sublayers()
            if isinstance(layer, nn.BatchNorm2D | nn.SyncBatchNorm) and id(layer.weight) in frozen
        ]

    def apply(self, epoch: int) -> bool:
        """Freeze or thaw for an epoch, from 0.

        Returns:
            Whether anything has changed.
        """
        frozen = self._epochs is None or epoch < self._epochs
        changed = [p for p in self._parameters if p.stop_gradient != frozen]
        for parameter in changed:
            parameter.stop_gradient = frozen
        return bool(changed)

    def keep_statistics(self) -> None:
        """Keep the running statistics of frozen norms in a model in training mode."""
        for layer in self._norms:
            layer.training = not layer.weight.stop_gradient
