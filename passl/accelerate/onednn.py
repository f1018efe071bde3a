"""oneDNN's kernels in eager mode, on a CPU.

Paddle's wheel contains them, but uses them in graphs alone. Its own kernels take two to seven times
as long for a depthwise convolution, which they turn into a matrix of patches, and about twice as
long for an activation. So each operation is a graph here, which is traced once; a call costs 70
microseconds.

Shapes in names: B batch, Y rows and X columns of a map, C its channels, O channels out, I channels
in of one group, K side of the kernel.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import _C_ops, static
from paddle.base import core
from paddle.nn import functional as F
from paddle.pir import PassManager

from passl.logging import get_logger
from passl.modeling.autocast import no_autocast


class Graph:
    """A traced function of float32 tensors, with oneDNN's operations where it has them.

    Args:
        function: tensors to tensors.
        shapes: shapes of its arguments; -1 for a variable axis.
    """

    def __init__(self, function: Callable, shapes: Sequence[Sequence[int]]):
        traced: Any = _to_static(function)
        specs = [static.InputSpec(shape, "float32", stop_gradient=False) for shape in shapes]
        with paddle.enable_grad(), no_autocast():  # `static.gradients` needs gradients
            _, self._layer = traced.get_concrete_program(*specs)
        self._layer.training = False  # a graph itself is not differentiated
        program = self._layer.program.forward_program
        passes = PassManager()
        passes.add_pass("dead_code_elimination_pass", {})
        passes.add_pass("onednn_placement_pass", {})
        passes.run(program)
        self.operations = program.global_block().ops
        for operation in self.operations:
            if "is_test" in operation.attrs():  # as a test, it caches the weights of the first run
                operation.set_bool_attr("is_test", False)

    def __call__(self, *tensors):
        with no_autocast():  # Paddle applies it within graphs too
            return self._layer(tensors)


def usable() -> bool:
    """Whether graphs run on the CPU, and oneDNN computes the right values in this Paddle."""
    with no_autocast():
        return paddle.get_device() == "cpu" and _is_right()


@functools.cache
def _is_right() -> bool:
    """Whether a convolution by oneDNN is right, forward and backward. Graphs are made by interfaces
    of Paddle that are not public, so another version may differ.
    """
    if not core.is_compiled_with_onednn():
        return False
    inputs, grad_BOYX = (_waves(1, 4, 4, 5), _waves(6, 2, 3, 3)), _waves(1, 6, 4, 5)
    options = ([1, 1], [1, 1], "EXPLICIT", [1, 1], 2, "NCHW")
    plain = [_convolve(*inputs, 1, 1, 2), *_C_ops.conv2d_grad(*inputs, grad_BOYX, *options)]
    try:
        # Paddle registers oneDNN's operations when the first graph runs.
        _to_static(lambda x: F.relu(x))(paddle.zeros([1]))
        by_onednn = [conv2d(*inputs, 1, 1, 2), *conv2d_grad(*inputs, grad_BOYX, 1, 1, 2)]
        names = [operation.name() for operation in _convolution((6, 2, 3, 3), 1, 1, 2).operations]
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        get_logger().warning("training without oneDNN's kernels, which is slower: %s", error)
        return False
    right = "onednn_op.conv2d" in names and all(
        one.shape == other.shape and bool(paddle.allclose(one, other, rtol=1e-4, atol=1e-5))
        for one, other in zip(plain, by_onednn, strict=True)
    )
    if not right:
        get_logger().warning(
            "training without oneDNN's kernels, which is slower: their values are wrong in this "
            "version of Paddle"
        )
    return right


def _waves(*shape: int):
    """Fixed values, since drawing would change the state of the run's generator."""
    return paddle.arange(math.prod(shape), dtype="float32").sin().reshape(shape)


def _to_static(function: Callable) -> Callable:
    """Trace a function without rewriting its source."""
    return paddle.jit.to_static(paddle.jit.not_to_static(function), full_graph=True, backend=None)


# --------------------------------------------------------------------------------------------------
# Operations along the last axis or without any
# --------------------------------------------------------------------------------------------------
def by_onednn(plain: Callable) -> Callable:
    """The function of tensors of one shape, computed by oneDNN where it is usable and the first
    tensor is float32.
    """

    @functools.cache
    def graph() -> Graph:
        return Graph(plain, [[-1, -1]] * len(inspect.signature(plain).parameters))

    @functools.wraps(plain)
    def run(*tensors):
        x = tensors[0]
        if x.dtype != paddle.float32 or not usable():
            return plain(*tensors)
        # As rows: after a convolution with channels last (see below), oneDNN's kernels permute the
        # axes of tensors with more.
        rows = [tensor.reshape([-1, x.shape[-1]]) for tensor in tensors]
        return graph()(*rows).reshape(x.shape)

    return run


def _gelu(x):
    return F.gelu(x)


def _gelu_grad(x, grad):
    return _C_ops.gelu_grad(x, grad, False)


def _swish(x):
    return _C_ops.swish(x)


def _swish_grad(x, grad):
    return _C_ops.swish_grad(x, grad)


def _softmax(x):
    return F.softmax(x, -1)


gelu, gelu_grad = by_onednn(_gelu), by_onednn(_gelu_grad)
swish, swish_grad = by_onednn(_swish), by_onednn(_swish_grad)
softmax = by_onednn(_softmax)


# --------------------------------------------------------------------------------------------------
# Convolutions. With channels last, as tokens have them, they would be faster; but then Paddle
# permutes the axes of what this thread computes by oneDNN later, also in a user's predictor.
# --------------------------------------------------------------------------------------------------
def conv2d(x_BCYX, weight_OIKK, stride: int, padding: int, groups: int):
    """A convolution [B, O, Y, X]; only where oneDNN is usable, in float32."""
    return _convolution(tuple(weight_OIKK.shape), stride, padding, groups)(x_BCYX, weight_OIKK)


def conv2d_grad(
    x_BCYX,
    weight_OIKK,
    grad_BOYX,
    stride: int,
    padding: int,
    groups: int,
    needed: tuple[bool, bool] = (True, True),
):
    """The gradients of map and weight; null for those that are not needed."""
    if not any(needed):
        return None, None
    graph = _gradients(tuple(weight_OIKK.shape), stride, padding, groups, needed)
    grads = iter(graph(x_BCYX, weight_OIKK, grad_BOYX))
    return tuple(next(grads) if one else None for one in needed)


def _convolve(x_BCYX, weight_OIKK, stride: int, padding: int, groups: int):
    return F.conv2d(x_BCYX, weight_OIKK, None, stride, padding, 1, groups)


@functools.cache
def _convolution(shape: tuple[int, ...], stride: int, padding: int, groups: int) -> Graph:
    def convolution(x, weight):
        return _convolve(x, weight, stride, padding, groups)

    return Graph(convolution, [_map(shape[1] * groups), shape])


@functools.cache
def _gradients(
    shape: tuple[int, ...], stride: int, padding: int, groups: int, needed: tuple[bool, bool]
) -> Graph:
    def gradients(x, weight, grad):
        y = _convolve(x, weight, stride, padding, groups)
        inputs = [one for one, is_needed in zip((x, weight), needed, strict=True) if is_needed]
        return static.gradients([y], inputs, [grad])

    return Graph(gradients, [_map(shape[1] * groups), shape, _map(shape[0])])


def _map(channels: int) -> list[int]:
    return [-1, channels, -1, -1]
