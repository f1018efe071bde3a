"""Which parameters are trained, which of them decay, and their learning rates."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Any

from paddle import nn

from passl.errors import ConfigError

DEFAULT = "default"
"""Stands for the default rule in a list of patterns."""


def trainable(model: nn.Layer) -> list[tuple[str, Any]]:
    """Name and parameter of all that is trained. (Paddle counts BatchNorm's running statistics as
    parameters.)
    """
    return [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if not parameter.stop_gradient
    ]


def decayed_names(model: Any, no_weight_decay: Sequence[str] | None = None) -> set[str]:
    """The trainable parameters that weight decay applies to.

    Args:
        no_weight_decay: patterns of the names that do not decay, such as `*.bias`. Among them
            `default` stands for the default rule: one-dimensional parameters (biases, norms,
            gates) and those that the model names (class token, position embedding). Null is that
            rule alone; with an empty list all decay.

    Raises:
        ConfigError: a pattern matches no parameter.
    """
    patterns = [DEFAULT] if no_weight_decay is None else list(no_weight_decay)
    own = [pattern for pattern in patterns if pattern != DEFAULT]
    spared = matching(
        [name for name, _ in model.named_parameters()], own, "optimizer.no_weight_decay"
    )
    if DEFAULT in patterns:
        spared |= model.no_weight_decay()
        spared |= {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    return {name for name, _ in trainable(model)} - spared


def layer_rates(model: Any, layer_decay: float | None = None) -> dict[str, float]:
    """The factor of each trainable parameter's learning rate.

    Layer-wise decay (ELECTRA, arXiv 2003.10555; BEiT, arXiv 2106.08254) decreases from layer to
    layer towards the input: layer_decay ** (num_layers - layer_index). The backbone says which
    layer a parameter belongs to; the head belongs to the last, with 1.

    Args:
        layer_decay: above 0, up to 1; null gives 1 to all.
    """
    if layer_decay is None:
        return {name: 1.0 for name, _ in trainable(model)}
    last, rates = model.backbone.num_layers, {}
    for name, _ in trainable(model):
        part, _, own = name.partition(".")
        index = model.backbone.layer_index(own) if part == "backbone" else last
        rates[name] = float(layer_decay ** (last - index))
    return rates


def matching(names: Collection[str], patterns: Sequence[str], key: str) -> set[str]:
    """The names of parameters that match any of the shell-style patterns.

    Args:
        key: of the patterns in the config, for the message.

    Raises:
        ConfigError: a pattern matches none; the message has the closest name.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            nearest = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"{key}: {pattern!r} matches no parameter; the closest name is {nearest!r}"
            )
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
