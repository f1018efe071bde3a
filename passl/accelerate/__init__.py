"""Faster CPU kernels for a finished model: `accelerate(model)` puts them in, `restore(model)` takes
them out.

    model = accelerate(passl.create_model("convit_tiny"))

A layer gets another class and keeps all that it has: parameters, their names, hooks, mode. So
weight files, checkpoints and optimizers cannot tell the difference; values and gradients are equal
but for rounding. On a GPU, and with PASSL_CPU_OPS=0 in the environment, `accelerate` does nothing.
"""

from __future__ import annotations

import os
from typing import TypeVar

import paddle
from paddle import nn

from passl.accelerate import onednn
from passl.accelerate.cpu_layers import FAST_CLASSES, Linear

SWITCH = "PASSL_CPU_OPS"
STRIDE_FLAG = "FLAGS_use_stride_kernel"
PLAIN_CLASSES = {fast: plain for plain, fast in FAST_CLASSES.items()}
Model = TypeVar("Model", bound=nn.Layer)


def accelerate(model: Model) -> Model:
    """Let a model on a CPU compute by faster kernels, in training and in inference.

    Replaced are Paddle's own layers and those of `passl.modeling.layers`; subclasses are left
    alone. Call it before the first forward pass: `transpose` copies from now on (see
    `copy_transposes`), and Paddle refuses transposed tensors that were made before.

    Args:
        model: any layer. It is changed in place.

    Returns:
        The same model.
    """
    on_cpu = all(parameter.place.is_cpu_place() for parameter in model.parameters())
    if on_cpu and os.environ.get(SWITCH) != "0":
        copy_transposes()
        _replace_classes(model, FAST_CLASSES)
    return model


def multiplies_bfloat16(model: nn.Layer) -> bool:
    """Whether the `Linear` layers of an accelerated model multiply in bfloat16 within autocast, by
    instructions of the processor.
    """
    layers = model.sublayers(include_self=True)
    return any(type(layer) is Linear for layer in layers) and onednn.multiplies_bfloat16()


def restore(model: Model) -> Model:
    """Undo `accelerate`. (Transposes go on copying; values do not depend on it.)"""
    _replace_classes(model, PLAIN_CLASSES)
    return model


def copy_transposes() -> None:
    """Let `transpose` copy at once, as Paddle did before version 2.6.

    Since then it returns a view, which the next operation copies element by element on a CPU: a
    training step of convit_tiny takes 1.8 times as long. The flag keeps the value that the
    environment gives it, and Paddle's default where there may be a GPU.
    """
    if STRIDE_FLAG not in os.environ and not paddle.is_compiled_with_cuda():
        paddle.set_flags({STRIDE_FLAG: False})


def _replace_classes(model: nn.Layer, classes: dict[type[nn.Layer], type[nn.Layer]]) -> None:
    for layer in model.sublayers(include_self=True):
        layer.__class__ = classes.get(type(layer), type(layer))
