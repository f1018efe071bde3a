"""Optimizers, and which parameters weight decay spares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import paddle
from paddle import nn

from passl.optim import CLIPS, OPTIMIZERS


def adamw(
    parameters: Sequence[Any],
    decays: Callable[[str], bool],
    clip: Any,
    *,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> paddle.optimizer.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), with decay decoupled and scaled by the
    learning rate.

    Args:
        weight_decay: for the parameters that are decayed at all.
        betas: decay of the running means of gradient and squared gradient.
        eps: added to the root of the latter.
    """
    return paddle.optimizer.AdamW(
        learning_rate=0.0,
        beta1=betas[0],
        beta2=betas[1],
        epsilon=eps,
        parameters=list(parameters),
        weight_decay=weight_decay,
        apply_decay_param_fun=decays,
        grad_clip=clip,
    )


def global_norm(*, value: float) -> Any:
    """Scale all gradients down together when their common norm is above `value`."""
    if value <= 0:
        raise ValueError(f"grad_clip.value {value} must be above 0")
    return nn.ClipGradByGlobalNorm(value)


def build_optimizer(section: Mapping[str, Any], model: nn.Layer) -> paddle.optimizer.Optimizer:
    """The optimizer of an `optimizer` section for the model's trainable parameters.

    All parameters are one group: Paddle clips each group by a norm of its own.
    """
    clip = CLIPS.build(section["grad_clip"]) if "grad_clip" in section else None
    # Paddle asks about its generated names, not about those of the model.
    decayed_own = decayed_names(model)
    decayed = {parameter.name for name, parameter in trainable(model) if name in decayed_own}
    own = {
        key: value
        for key, value in section.items()
        if key not in ("lr", "lr_base_batch", "grad_clip")
    }
    parameters = [parameter for _, parameter in trainable(model)]
    return OPTIMIZERS.build(own, parameters, lambda name: name in decayed, clip)


def trainable(model: nn.Layer) -> list[tuple[str, Any]]:
    """Name and parameter of what is trained. (Paddle counts the running statistics of BatchNorm as
    parameters.)
    """
    return [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if not parameter.stop_gradient
    ]


def decayed_names(model: Any) -> set[str]:
    """The parameters that weight decay applies to: not the one-dimensional (biases, norms, gates),
    nor those that the model spares (class token, position embedding).
    """
    spared = model.no_weight_decay()
    return {
        name for name, parameter in trainable(model) if parameter.ndim > 1 and name not in spared
    }


def scaled_lr(section: Mapping[str, Any], global_batch: int) -> float:
    """The learning rate of a run: `lr` as it stands, or in proportion to the global batch where
    `lr_base_batch` says for how many samples `lr` is meant.
    """
    base = section.get("lr_base_batch")
    return section["lr"] if base is None else section["lr"] * global_batch / base
