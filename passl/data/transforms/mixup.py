"""Mixup and CutMix of a batch, as in timm 1.0.31: Zhang et al. 2017,
https://arxiv.org/abs/1710.09412, and Yun et al. 2019, https://arxiv.org/abs/1905.04899.

Shapes: B images of a batch, C channels, H height and W width in pixels, K classes; N draws for a
batch: one, one for each pair or one for each image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from passl.utils.schema import validated
from passl.utils.types import NonNegativeFloat, PositiveInt, Probability


@validated
class Mixup:
    """Mix each image of a batch with its opposite, the first with the last, and their labels in the
    same proportion.

    Mixup blends whole images, CutMix pastes a box of one into the other. Labels are not smoothed
    here: the loss does that for hard and soft targets, and the order makes no difference.

    Args:
        num_classes: K.
        mixup_alpha: Beta(alpha, alpha) is the distribution of the part that an image keeps; 0 turns
            Mixup off.
        cutmix_alpha: as mixup_alpha, for CutMix.
        cutmix_minmax: range of the sides of CutMix's box, as a fraction of the image's, drawn
            uniformly; null derives the box from the draw of Beta. Turns CutMix on, with alpha 1.
        prob: probability of mixing a batch, pair or image.
        switch_prob: probability of CutMix instead of Mixup, if both are on.
        mode: draw once for the `batch`, for each `pair` of opposites, or for each image (`elem`).
        off_epoch: first epoch, counted from 0, without mixing; null for none.

    Example:
        mixup: {mixup_alpha: 0.8, cutmix_alpha: 1.0, off_epoch: 280}
    """

    def __init__(
        self,
        num_classes: int,
        /,
        *,
        mixup_alpha: NonNegativeFloat = 0.8,
        cutmix_alpha: NonNegativeFloat = 1.0,
        cutmix_minmax: tuple[float, float] | None = None,
        prob: Probability = 1.0,
        switch_prob: Probability = 0.5,
        mode: Literal["batch", "pair", "elem"] = "batch",
        off_epoch: PositiveInt | None = None,
    ):
        self.num_classes, self.mode, self.off_epoch = num_classes, mode, off_epoch
        self.mixup_alpha, self.cutmix_minmax = mixup_alpha, cutmix_minmax
        self.cutmix_alpha = cutmix_alpha if cutmix_minmax is None else 1.0
        both_on = min(self.mixup_alpha, self.cutmix_alpha) > 0
        self.cutmix_share = switch_prob if both_on else float(self.cutmix_alpha > 0)
        self.prob = prob if max(self.mixup_alpha, self.cutmix_alpha) > 0 else 0.0

    @staticmethod
    def check_options(*, cutmix_minmax: tuple[float, float] | None, **_: Any) -> None:
        """Raise a ValueError unless the range is in order."""
        if cutmix_minmax is not None and not 0 <= cutmix_minmax[0] < cutmix_minmax[1] <= 1:
            raise ValueError(
                f"cutmix_minmax {list(cutmix_minmax)} must lie between 0 and 1, the smaller first"
            )

    def __call__(self, images, labels, epoch: int, rng: np.random.Generator) -> tuple[Any, Any]:
        """Return mixed images and soft targets, or the arguments if nothing is mixed.

        Args:
            images: [B, C, H, W] float32.
            labels: int64 [B], or float32 [B, K] of multi-label data.

        Returns:
            Images [B, C, H, W] and targets [B, K], float32.

        Raises:
            ValueError: mode pair with an odd number of images. In the other modes the image in the
                middle stays unchanged.
        """
        if self.prob == 0 or (self.off_epoch is not None and epoch >= self.off_epoch):
            return images, labels
        batch, _, height, width = images.shape
        if self.mode == "pair" and batch % 2:
            raise ValueError(
                f"mixup mode pair needs an even number of images, not {batch}; choose an even "
                "batch_size with drop_last, or another mode"
            )
        kept_N, cut_N = self.draw(batch, rng)
        if (kept_N == 1).all():
            return images, labels
        weights_N1HW, kept_N = self.weights(kept_N, cut_N, height, width, rng)
        if self.mode == "pair":  # the second half of the batch are the opposites of the first
            weights_N1HW = np.concatenate([weights_N1HW, weights_N1HW[::-1]])
            kept_N = np.concatenate([kept_N, kept_N[::-1]])

        import paddle  # here, since checking a config imports this module

        is_number = labels.ndim == 1
        labels_BK = paddle.nn.functional.one_hot(labels, self.num_classes) if is_number else labels
        return (
            _mixed(images, paddle.to_tensor(weights_N1HW)),
            _mixed(labels_BK, paddle.to_tensor(kept_N[:, None])),
        )

    def draw(self, batch: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw the part that an image keeps, float64 [N], and whether to use CutMix, bool [N]."""
        count = {"batch": 1, "pair": batch // 2, "elem": batch}[self.mode]
        mixed_N = rng.random(count) < self.prob
        cut_N = rng.random(count) < self.cutmix_share
        alpha_N = np.where(cut_N, self.cutmix_alpha, self.mixup_alpha)
        return np.where(mixed_N, rng.beta(alpha_N, alpha_N), 1.0), cut_N & mixed_N

    def weights(
        self,
        kept_N: np.ndarray,
        cut_N: np.ndarray,
        height: int,
        width: int,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return how much of each pixel an image keeps, float32 [N, 1, H, W], or [N, 1, 1, 1]
        without CutMix; and the mean of that, float32 [N].
        """
        weights_N1HW = kept_N.astype(np.float32)[:, None, None, None]
        if cut_N.any():
            weights_N1HW = np.tile(weights_N1HW, (1, 1, height, width))
        for index in np.flatnonzero(cut_N):
            top, bottom, left, right = self.box(kept_N[index], height, width, rng)
            weights_N1HW[index] = 1
            weights_N1HW[index, :, top:bottom, left:right] = 0
        kept_N = weights_N1HW.mean(axis=(1, 2, 3), dtype=np.float64)
        return weights_N1HW, kept_N.astype(np.float32)

    def box(
        self, kept: float, height: int, width: int, rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Draw the top, bottom, left and right of a box of CutMix.

        Without `cutmix_minmax` it has the aspect ratio of the image and the area that is not kept;
        its centre is anywhere, so the border can cut part of it off. With it, it is inside.
        """
        if self.cutmix_minmax is None:
            h, w = int(height * (1 - kept) ** 0.5), int(width * (1 - kept) ** 0.5)
            top, left = int(rng.integers(height)) - h // 2, int(rng.integers(width)) - w // 2
        else:
            low, high = self.cutmix_minmax
            h, w = (
                int(rng.integers(int(side * low), max(int(side * high), int(side * low) + 1)))
                for side in (height, width)
            )
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        return max(top, 0), min(top + h, height), max(left, 0), min(left + w, width)


def _mixed(values, kept):
    """Mix each of a batch with its opposite."""
    return values * kept + values.flip(0) * (1 - kept)


def build_mixup(section: Mapping[str, Any] | None, num_classes: int) -> Mixup:
    """Return the Mixup of a config section; without one, a Mixup that changes nothing."""
    return Mixup(num_classes, **({"prob": 0.0} if section is None else section))
