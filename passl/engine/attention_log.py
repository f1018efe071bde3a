"""What a run writes of its network's attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from paddle import nn

from passl.data.loader import Loader
from passl.evaluation.attention_measures import Mode, measure_attention
from passl.utils.schema import validated
from passl.utils.types import PositiveInt

ATTENTION = "attention"
"""Phase of its rows in metrics.jsonl."""


@validated
class AttentionLog:
    """Measures attention before the first step and at each evaluation, by the averaged weights in
    float32. The first rank measures, on the same images whatever the number of ranks.

    Args:
        loader: of the validation data.
        images: how many of its samples, at most; number floor(i n / images) of n for i = 0, 1, ...,
            transformed as in an evaluation.
        mode: `paper`, or `fb` for the formulas of facebookresearch/convit; see
            `evaluation.attention_measures.measure_attention`.

    Attributes:
        indices: of the samples.

    Example:
        log_config: {interval: 100, attention: {images: 128}}
    """

    def __init__(self, loader: Loader, /, *, images: PositiveInt = 64, mode: Mode = "paper"):
        self.mode, self._loader = mode, loader
        samples = len(loader.dataset)
        count = min(images, samples)
        self.indices = [number * samples // count for number in range(count)]

    def measure(self, model: nn.Layer, check: Callable[[], object]) -> dict[str, Any]:
        """The values of a row: `images`, those that could be read, `mode`, and `blocks`, the
        measures by block.

        Args:
            check: called before each batch; what it raises ends the measurement.

        Raises:
            RunError: an image cannot be read.
        """
        read = 0

        def batches() -> Iterator[Any]:
            nonlocal read
            for batch in self._loader.read(self.indices):
                check()
                read += len(batch.indices)
                yield batch.images

        blocks = measure_attention(model, batches(), self.mode)
        return {"images": read, "mode": self.mode, "blocks": blocks}
