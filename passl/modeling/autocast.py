"""Automatic mixed precision where Paddle's own does not reach: in what is recomputed, and on a CPU.

On a CPU Paddle's autocast is switched off, for lack of kernels. Its engine does cast there when it
is told to: what comes in as bfloat16 becomes float32 before each operation. So layers round here
what they take and give to bfloat16, and compute in between in float32, which is what a bfloat16
kernel does that adds up in float32. Gradients are rounded at the same places. That is slower than
float32. It shows on a CPU what becomes of a run in bfloat16, and lets every part of it be tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import paddle
from paddle import nn
from paddle.base import core
from paddle.base.framework import _dygraph_tracer

Level = Literal["O1", "O2"]
CAST = (nn.Linear, nn.Conv2D)
"""The layers of those operations that O1 casts down."""


@dataclass(frozen=True)
class Autocast:
    """How Paddle's engine casts the inputs of operations."""

    level: Any
    dtype: str
    lists: tuple[set[str], set[str]]
    use_promote: bool

    @classmethod
    def now(cls) -> Autocast:
        """What is in force."""
        tracer = _dygraph_tracer()
        return cls(
            tracer._amp_level, tracer._amp_dtype, tracer._get_amp_op_list(), tracer._use_promote
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it this is in force."""
        before = Autocast.now()
        self._apply()
        try:
            yield
        finally:
            before._apply()

    def off(self) -> Autocast:
        """The same without casting."""
        return replace(self, level=core.AmpLevel.O0)

    def _apply(self) -> None:
        tracer = _dygraph_tracer()
        tracer._amp_level, tracer._amp_dtype = self.level, self.dtype
        tracer._set_amp_op_list(*self.lists)
        tracer._use_promote = self.use_promote


def no_autocast() -> AbstractContextManager:
    """A context without casting, as if there had never been any."""
    if not _is_on():
        return nullcontext()
    return Autocast(core.AmpLevel.O0, "float32", (set(), set()), False).applied()


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
            layer.forward = _all_rounded(layer, layer.forward)
        elif level == "O2":
            layer.forward = _output_rounded(layer.forward)


def _all_rounded(layer: nn.Layer, forward: Callable) -> Callable:
    def run(*inputs, **options):
        if not _is_on():
            return forward(*inputs, **options)
        named = {name: rounded(value) for name, value in options.items()}
        with replaced_parameters([layer], rounded):
            return rounded(forward(*map(rounded, inputs), **named))

    return run


def _output_rounded(forward: Callable) -> Callable:
    def run(*inputs, **options):
        outputs = forward(*inputs, **options)
        return paddle.utils.map_structure(rounded, outputs) if _is_on() else outputs

    return run


def _is_on() -> bool:
    return _dygraph_tracer()._amp_level != core.AmpLevel.O0


def rounded(x):
    """A float32 tensor in bfloat16; anything else as it is."""
    is_float = isinstance(x, paddle.Tensor) and x.dtype == paddle.float32
    return x.astype("bfloat16") if is_float else x


@contextmanager
def replaced_parameters(layers: list[nn.Layer], change: Callable) -> Iterator[None]:
    """Within it these layers compute with `change(parameter)` in place of their own parameters,
    which get the gradients.
    """
    own = [(layer._parameters, dict(layer._parameters)) for layer in layers]
    try:
        for parameters, before in own:
            parameters.update({k: change(p) for k, p in before.items() if p is not None})
        yield
    finally:
        for parameters, before in own:
            parameters.update(before)
