"""Mixup and CutMix of a batch, as timm 1.0.31 does them: Zhang et al. 2017,
https://arxiv.org/abs/1710.09412, and Yun et al. 2019, https://arxiv.org/abs/1905.04899.

Shapes: B images of a batch, C channels, H height and W width in pixels, K classes; N mixes of a
batch, one or one for each image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from passl.data.transforms.geometry import check_probability
from passl.errors import ConfigError


class Mixup:
    """Mix every image of a batch with its opposite, the first with the last, and their labels in
    the same proportion.

    Either the whole images are blended (Mixup), or a box of one stands in the other (CutMix).
    Labels are not smoothed here: the loss does that, for hard and soft targets alike, and smoothing
    before or after mixing comes to the same.

    Args:
        num_classes: K.
        mixup_alpha: the part that an image keeps is drawn from Beta(alpha, alpha); 0 for no Mixup.
        cutmix_alpha: the same for CutMix.
        cutmix_minmax: smallest and largest side of CutMix's box, as a part of the image's, drawn
            evenly; null derives the box from Beta's draw. Turns CutMix on, with alpha 1.
        prob: how often a batch, pair or image is mixed.
        switch_prob: how often that is CutMix, where both are on.
        mode: what has a draw of its own: the batch, each pair of opposites, or each image.
        off_epoch: the first epoch, counted from 0, that is not mixed; null for none.
    """

    def __init__(
        self,
        num_classes: int,
        /,
        *,
        mixup_alpha: float = 0.8,
        cutmix_alpha: float = 1.0,
        cutmix_minmax: tuple[float, float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: Literal["batch", "pair", "elem"] = "batch",
        off_epoch: int | None = None,
    ):
        if not (0 <= mixup_alpha < math.inf and 0 <= cutmix_alpha < math.inf):
            raise ValueError(
                f"mixup_alpha {mixup_alpha} and cutmix_alpha {cutmix_alpha} must be at least 0 and "
                "finite"
            )
        if cutmix_minmax is not None and not 0 <= cutmix_minmax[0] < cutmix_minmax[1] <= 1:
            raise ValueError(
                f"cutmix_minmax {list(cutmix_minmax)} must lie between 0 and 1, the smaller first"
            )
        check_probability(prob, "prob")
        check_probability(switch_prob, "switch_prob")
        if off_epoch is not None and off_epoch < 1:
            raise ValueError(
                f"off_epoch {off_epoch} must be at least 1; null mixes in every epoch, and prob 0 "
                "in none"
            )
        self.num_classes, self.mode, self.off_epoch = num_classes, mode, off_epoch
        self.mixup_alpha, self.cutmix_minmax = mixup_alpha, cutmix_minmax
        self.cutmix_alpha = cutmix_alpha if cutmix_minmax is None else 1.0
        both_on = min(self.mixup_alpha, self.cutmix_alpha) > 0
        self.cutmix_share = switch_prob if both_on else float(self.cutmix_alpha > 0)
        self.prob = prob if max(self.mixup_alpha, self.cutmix_alpha) > 0 else 0.0

    def __call__(self, images, labels, epoch: int, rng: np.random.Generator) -> tuple[Any, Any]:
        """Images [B, C, H, W] float32 and labels [B] int64 -> images and targets [B, K] float32; or
        both as they are, where nothing is mixed.

        Raises:
            ValueError: an odd number of images in mode pair. In the other modes the one in the
                middle stays as it is.
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

        import paddle  # here, because the check of a config imports this module

        labels_BK = paddle.nn.functional.one_hot(labels, self.num_classes)
        return (
            _mixed(images, paddle.to_tensor(weights_N1HW)),
            _mixed(labels_BK, paddle.to_tensor(kept_N[:, None])),
        )

    def draw(self, batch: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """For each mix of a batch, the part that an image keeps, float64 [N], and whether the rest
        comes in as a box, bool [N].
        """
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
        """How much of each pixel an image keeps, float32 [N, 1, H, W], or [N, 1, 1, 1] where there
        is no box; and the mean of that, float32 [N].
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
        """Top, bottom, left and right of a box of CutMix.

        Without `cutmix_minmax` it has the image's proportions and the area that is not kept; its
        centre is anywhere, so the border may cut some of it off. With it, it lies inside.
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
    """Each of a batch with its opposite."""
    return values * kept + values.flip(0) * (1 - kept)


def build_mixup(section: Mapping[str, Any] | None, num_classes: int) -> Mixup:
    """What a `mixup` section describes; without one, a Mixup that changes nothing.

    Raises:
        ConfigError: its options do not go together.
    """
    try:
        return Mixup(num_classes, **({"prob": 0.0} if section is None else section))
    except ValueError as error:
        raise ConfigError(f"mixup: {error}") from error
