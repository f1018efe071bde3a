"""The optimizer of a config: algorithm, weight decay, layer-wise rates and clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import paddle
from paddle import nn

from passl.errors import ConfigError
from passl.optim import CLIPS, OPTIMIZERS
from passl.optim.parameters import decayed_names, layer_rates, trainable
from passl.utils.config import dotted
from passl.utils.schema import Choice, Option
from passl.utils.types import Fraction, NonNegativeFloat, PositiveInt


def check_scaling(*, lr_base_batch: int | None, lr_scale: str, **_: Any) -> None:
    """Raise a ValueError for a scaling rule without the batch that `lr` is meant for."""
    if lr_base_batch is None and lr_scale != "linear":
        raise ValueError(
            f"lr_scale {lr_scale} scales nothing without lr_base_batch; give the batch that lr is "
            "meant for"
        )


OPTIMIZER_SECTION = Choice(
    OPTIMIZERS,
    {
        "lr": Option(NonNegativeFloat),
        "lr_base_batch": Option(PositiveInt | None, None),
        "lr_scale": Option(Literal["linear", "sqrt"], "linear"),
        "no_weight_decay": Option(Sequence[str] | None, None),
        "layer_decay": Option(Fraction | None, None),
        "grad_clip": Choice(CLIPS, required=False),
    },
    check=check_scaling,
)
"""The options that all optimizers share; see `build_optimizer` and `scaled_lr`."""


def build_optimizer(section: Mapping[str, Any], model: nn.Layer) -> paddle.optimizer.Optimizer:
    """Build the optimizer of an `optimizer` section for the model's trainable parameters.

    All parameters are one group, because Paddle clips each group by its own norm. Learning rates
    differ by an attribute of each parameter.

    Args:
        section: `name` and the options of the algorithm; `no_weight_decay`, see `decayed_names`;
            `layer_decay`, see `layer_rates`; `grad_clip`, one of CLIPS; `lr` and its scaling are
            for `scaled_lr`.
        model: a `Model`, or another layer with its `backbone` and `no_weight_decay`.

    Raises:
        ConfigError: an option that is wrong, or does not fit the model.
    """
    problems = OPTIMIZER_SECTION.problems(section, ("optimizer",))
    lines = [f"{dotted(keys)}: {rule}" for keys, rule in problems]
    if lines:
        raise ConfigError(*lines)
    clip = CLIPS.build(section["grad_clip"], model) if "grad_clip" in section else None
    parameters = trainable(model)
    decayed_own = decayed_names(model, section.get("no_weight_decay"))
    # Paddle passes its generated names, not the model's.
    decayed = {parameter.name for name, parameter in parameters if name in decayed_own}
    rates = layer_rates(model, section.get("layer_decay"))
    for name, parameter in parameters:  # an earlier optimizer may have set them
        parameter.optimize_attr = {"learning_rate": rates[name]}
        parameter.regularizer = None
    own = {key: value for key, value in section.items() if key not in OPTIMIZER_SECTION.more}
    return OPTIMIZERS.build(own, [p for _, p in parameters], lambda name: name in decayed, clip)


def scaled_lr(section: Mapping[str, Any], global_batch: int) -> float:
    """The peak learning rate of a run: `lr`, which is meant for `lr_base_batch` samples if that is
    given. Then it is scaled in proportion to the global batch (`lr_scale: linear`; Goyal et al.,
    arXiv 1706.02677) or to its square root (`sqrt`, usual for LAMB and other adaptive rates).
    """
    base, rule = section.get("lr_base_batch"), section.get("lr_scale", "linear")
    if base is None:
        return section["lr"]
    ratio = global_batch / base
    return section["lr"] * (ratio if rule == "linear" else math.sqrt(ratio))


def lr_rule(section: Mapping[str, Any], global_batch: int) -> str:
    """The computation of `scaled_lr` as text, for the log."""
    base = section.get("lr_base_batch")
    if base is None:
        return "as configured"
    ratio = f"{global_batch} / {base}"
    rule = section.get("lr_scale", "linear")
    return f"{section['lr']:g} x {ratio if rule == 'linear' else f'sqrt({ratio})'}"
