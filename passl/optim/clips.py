"""Gradient clipping. An optimizer clips in its step, so after a GradScaler has unscaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import nn
from paddle.nn.clip import ClipGradBase

from passl.optim import CLIPS
from passl.optim.parameters import matching
from passl.utils.types import PositiveFloat


@CLIPS.register
def global_norm(model: nn.Layer, *, value: PositiveFloat) -> nn.ClipGradByGlobalNorm:
    """Scale all gradients down together when their common norm is above `value`."""
    return nn.ClipGradByGlobalNorm(value)


@CLIPS.register
def value(model: nn.Layer, *, value: PositiveFloat) -> nn.ClipGradByValue:
    """Limit each number of a gradient to the range from -`value` to `value`."""
    return nn.ClipGradByValue(value)


@CLIPS.register
def adaptive(
    model: nn.Layer,
    *,
    clip_factor: PositiveFloat = 0.01,
    eps: PositiveFloat = 1e-3,
    exclude: Sequence[str] = ("head.fc_cls.*",),
) -> AdaptiveClip:
    """Adaptive gradient clipping (AGC; Brock et al., arXiv 2102.06171).

    Args:
        clip_factor: largest norm of a unit's gradient, relative to its weights' norm.
        eps: lower bound of the weights' norm, so that weights that start at 0 can change.
        exclude: patterns of parameters that are not clipped; the classifier, as in the paper.
    """
    excluded = matching(
        [name for name, _ in model.named_parameters()], exclude, "optimizer.grad_clip.exclude"
    )
    parameters = dict(model.named_parameters())
    return AdaptiveClip(clip_factor, eps, {parameters[name].name for name in excluded})


class AdaptiveClip(ClipGradBase):
    """Scales a unit's gradient down to the norm clip_factor * max(|W|, eps) if it is larger.

    A unit computes one output: a column of a Linear's weight (Paddle's are [in, out]), a
    kernel of a convolution, else (biases, norms, embeddings) the whole parameter. That is timm's
    `adaptive_clip_grad`.

    Args:
        clip_factor, eps, excluded: of `adaptive`, the last as generated names.
    """

    def __init__(self, clip_factor: float, eps: float, excluded: set[str]):
        super().__init__()
        self._clip_factor, self._eps, self._excluded = clip_factor, eps, excluded

    def __str__(self) -> str:
        return f"adaptive gradient clipping, {self._clip_factor:g} of the weights' norm"

    @paddle.no_grad()
    def _dygraph_clip(self, params_grads: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        return [
            (weight, gradient if weight.name in self._excluded else self._clip(weight, gradient))
            for weight, gradient in params_grads
        ]

    def _clip(self, weight, gradient):
        limit = self._clip_factor * unit_norms(weight).clip(min=self._eps)
        scale = (limit / unit_norms(gradient).clip(min=1e-12)).clip(max=1.0)
        return gradient * scale.astype(gradient.dtype)


def unit_norms(array):
    """The Euclidean norm of each unit, in a shape that broadcasts against the array."""
    if array.ndim == 2:
        axes = [0]
    else:
        axes = list(range(1, array.ndim)) or [0]
    return array.astype("float32").square().sum(axes, keepdim=True).sqrt()
