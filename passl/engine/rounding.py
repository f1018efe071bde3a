"""Mixed precision on a CPU, computed in float32 and rounded to bfloat16.

Paddle switches its autocast off on a CPU, for lack of kernels. Its engine does cast there once its
state says so: inputs in bfloat16 become float32 before each operation. So layers round here what
they take and return, and compute in float32, which is what a bfloat16 kernel does that accumulates
in float32. Gradients are rounded at the same places. That is slower than float32; it shows on a CPU
how a run behaves in bfloat16, and lets tests reach every part of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import paddle
from paddle import nn
from paddle.base import core

from passl.modeling.autocast import Autocast, is_on

Level = Literal["O1", "O2"]
CAST = (nn.Linear, nn.Conv2D)
"""The layers of those operations that O1 casts down."""


def autocast_on_cpu(level: Level) -> Autocast:
    """Bfloat16 on a CPU, for models that `round_layers` has prepared. Lists of operations make no
    difference there.
    """
    return Autocast(getattr(core.AmpLevel, level), "bfloat16", (set(), set()), True)


def round_layers(model: nn.Layer, level: Level) -> None:
    """Let layers compute in bfloat16 while there is autocast. `Linear` and `Conv2D` round inputs,
    parameters and outputs; with O2 all other layers round their outputs.
    """
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, CAST):
            layer.__class__ = _rounding_class(type(layer), _all_rounded)  # type: ignore[arg-type]
        elif level == "O2":
            layer.__class__ = _rounding_class(type(layer), _output_rounded)  # type: ignore[arg-type]


@functools.cache
def _rounding_class(plain: type[nn.Layer], forward: Callable) -> type[nn.Layer]:
    """A class of that name whose `forward` is `forward(layer, plain.forward, inputs, options)`."""

    def rounding_forward(self, *inputs, **options):
        run = functools.partial(plain.forward, self)
        return forward(self, run, inputs, options) if is_on() else run(*inputs, **options)

    return type(plain.__name__, (plain,), {"forward": rounding_forward})


def _all_rounded(layer: nn.Layer, run: Callable, inputs: tuple, options: dict):
    named = {name: rounded(value) for name, value in options.items()}
    with replaced_parameters([layer], rounded):
        return rounded(run(*map(rounded, inputs), **named))


def _output_rounded(layer: nn.Layer, run: Callable, inputs: tuple, options: dict):
    return paddle.utils.map_structure(rounded, run(*inputs, **options))


def rounded(x):
    """A float32 tensor in bfloat16; anything else as it is."""
    is_float = isinstance(x, paddle.Tensor) and x.dtype == paddle.float32
    return x.astype("bfloat16") if is_float else x


@contextmanager
def replaced_parameters(layers: list[nn.Layer], change: Callable) -> Iterator[None]:
    """A context in which these layers compute with `change(parameter)` in place of their own
    parameters, which get the gradients.
    """
    own = [(layer._parameters, dict(layer._parameters)) for layer in layers]
    try:
        for parameters, before in own:
            parameters.update({k: change(p) for k, p in before.items() if p is not None})
        yield
    finally:
        for parameters, before in own:
            parameters.update(before)
