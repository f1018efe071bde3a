"""The optimizer of a config: algorithm, weight decay, layer-wise rates and clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import paddle
from paddle import nn

from passl.errors import ConfigError
from passl.optim import CLIPS, OPTIMIZER_SECTION, OPTIMIZERS
from passl.optim.parameters import decayed_names, layer_rates, trainable
from passl.optim.rules import check_scaling

__all__ = ["build_optimizer", "decayed_names", "lr_rule", "scaled_lr", "trainable"]


def build_optimizer(section: Mapping[str, Any], model: nn.Layer) -> paddle.optimizer.Optimizer:
    """The optimizer of an `optimizer` section for the model's trainable parameters.

    All parameters are one group, and rates differ through an attribute of each parameter: Paddle
    clips each group by a norm of its own.

    Args:
        section: `name` and the options of the algorithm; `no_weight_decay`, see `decayed_names`;
            `layer_decay`, see `layer_rates`; `grad_clip`, one of CLIPS; `lr` and its scaling are
            for `scaled_lr`.
        model: a `Model`, or what has its `backbone` and `no_weight_decay`.

    Raises:
        ConfigError: an option that is wrong, or does not fit the model.
    """
    clip = CLIPS.build(section["grad_clip"], model) if "grad_clip" in section else None
    parameters = trainable(model)
    decayed_own = decayed_names(model, section.get("no_weight_decay"))
    # Paddle asks about its generated names, not about those of the model.
    decayed = {parameter.name for name, parameter in parameters if name in decayed_own}
    try:
        rates = layer_rates(model, section.get("layer_decay"))
    except ValueError as error:
        raise ConfigError(f"optimizer.{error}") from None
    for name, parameter in parameters:  # what an earlier optimizer left there would count too
        parameter.optimize_attr = {"learning_rate": rates[name]}
        parameter.regularizer = None
    own = {key: value for key, value in section.items() if key not in OPTIMIZER_SECTION.more}
    return OPTIMIZERS.build(own, [p for _, p in parameters], lambda name: name in decayed, clip)


def scaled_lr(section: Mapping[str, Any], global_batch: int) -> float:
    """The learning rate of a run: `lr` as it stands, or, where `lr_base_batch` says for how many
    samples `lr` is meant, in proportion to the global batch (`lr_scale` linear; Goyal et al., arXiv
    1706.02677) or to its square root (sqrt; usual for Lamb and other adaptive rates).

    Raises:
        ConfigError: there is a rule but no batch that it starts from, or one below 1.
    """
    base, rule = section.get("lr_base_batch"), section.get("lr_scale", "linear")
    try:
        check_scaling(base, rule)
    except ValueError as error:
        raise ConfigError(f"optimizer.{error}") from None
    if base is None:
        return section["lr"]
    ratio = global_batch / base
    return section["lr"] * (ratio if rule == "linear" else math.sqrt(ratio))


def lr_rule(section: Mapping[str, Any], global_batch: int) -> str:
    """How `scaled_lr` comes to its result, in words for a log."""
    base = section.get("lr_base_batch")
    if base is None:
        return "as configured"
    ratio = f"{global_batch} / {base}"
    rule = section.get("lr_scale", "linear")
    return f"{section['lr']:g} x {ratio if rule == 'linear' else f'sqrt({ratio})'}"
