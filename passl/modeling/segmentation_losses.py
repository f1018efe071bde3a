"""Losses of segmentation: logits and masks to a scalar.

Shapes in names: B images of a batch, K classes, Y rows and X columns of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import paddle
from paddle.nn import functional as F
from pydantic import AfterValidator

from passl.io.masks import IGNORED
from passl.modeling import LOSSES
from passl.modeling.losses import Weighted, check_weights


@LOSSES.register
class PixelCrossEntropy(Weighted):
    """Cross entropy of each pixel, mean over the pixels that have a label.

    The mean is over the pixels of the whole batch, of all ranks and parts (`accumulate`), as if one
    process computed it. With class weights it is PyTorch's `CrossEntropyLoss(weight=w,
    ignore_index=255)`.

    Args:
        class_weights: a weight for each class; null for no weights.
    """

    tasks: ClassVar[Sequence[str]] = ("segmentation",)

    def __init__(
        self,
        *,
        class_weights: Annotated[Sequence[float], AfterValidator(check_weights)] | None = None,
    ):
        super().__init__(class_weights)
        weights = np.ones(IGNORED + 1, np.float32)
        if self.class_weights is not None:
            weights[: len(self.class_weights)] = self.class_weights.numpy()
        weights[IGNORED] = 0
        self.weight_of_label = paddle.to_tensor(weights)

    def sample_weights(self, targets):
        """Masks [B, Y, X] -> mean weights [B] of the pixels of each sample."""
        return self._pixel_weights(targets).mean([1, 2])

    def forward(self, logits_BKYX, targets, mean_weight: Any = None):
        """Logits [B, K, Y, X] and masks [B, Y, X] -> loss, a scalar."""
        labels_BYX = targets.astype("int64")
        losses_BYX = F.cross_entropy(
            logits_BKYX.astype("float32"),
            labels_BYX,
            ignore_index=IGNORED,
            reduction="none",
            axis=1,
        ).reshape(labels_BYX.shape)
        losses_B = (losses_BYX * self._pixel_weights(targets)).mean([1, 2])
        return self.weighted_mean(losses_B, targets, mean_weight)

    def _pixel_weights(self, targets):
        flat = self.weight_of_label.gather(targets.astype("int64").flatten())
        return flat.reshape(targets.shape)
