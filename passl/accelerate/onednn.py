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
import os
from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import _C_ops, static
from paddle.base import core
from paddle.nn import functional as F
from paddle.pir import PassManager

from passl.logging import get_logger
from passl.machine import BFLOAT16_FEATURES, cpu_features
from passl.modeling.autocast import no_autocast


class Graph:
    """A traced function of tensors, with oneDNN's operations where it has them.

    Args:
        function: tensors to tensors.
        shapes: shapes of its arguments; -1 for a variable axis.
        dtypes: of its arguments; null for float32.
    """

    def __init__(
        self,
        function: Callable,
        shapes: Sequence[Sequence[int]],
        dtypes: Sequence[str] | None = None,
    ):
        traced: Any = _to_static(function)
        specs = [
            static.InputSpec(shape, dtype, stop_gradient=False)
            for shape, dtype in zip(shapes, dtypes or ["float32"] * len(shapes), strict=True)
        ]
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

    def by_graphs() -> list[Any]:
        # Paddle registers oneDNN's operations when the first graph runs.
        _to_static(lambda x: F.relu(x))(paddle.zeros([1]))
        found = [conv2d(*inputs, 1, 1, 2), *conv2d_grad(*inputs, grad_BOYX, 1, 1, 2)]
        names = [operation.name() for operation in _convolution((6, 2, 3, 3), 1, 1, 2).operations]
        if "onednn_op.conv2d" not in names:
            raise LookupError("Paddle does not use them")
        return found

    otherwise = "training without oneDNN's kernels, which is slower"
    return _are_equal(by_graphs, plain, otherwise, rtol=1e-4, atol=1e-5)


def _are_equal(
    by_graphs: Callable[[], list[Any]],
    plain: list[Any],
    otherwise: str,
    *,
    rtol: float,
    atol: float,
) -> bool:
    """Whether graphs compute what Paddle's own operations do.

    Args:
        otherwise: what the warning says if they do not.
    """
    try:
        pairs = list(zip(plain, by_graphs(), strict=True))
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        get_logger().warning("%s: %s", otherwise, error)
        return False
    right = all(
        one.shape == other.shape and bool(paddle.allclose(one, other, rtol=rtol, atol=atol))
        for one, other in pairs
    )
    if not right:
        get_logger().warning("%s: their values are wrong in this version of Paddle", otherwise)
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
# Matrix products in bfloat16, of float32 tensors and with float32 results
# --------------------------------------------------------------------------------------------------
ISA_SWITCH = "ONEDNN_MAX_CPU_ISA"
_WITH_BFLOAT16 = ("ALL", "AMX", "BF16", "DEFAULT", "FP16")
"""Parts of the values of that variable which leave bfloat16 in."""
_MATRIX, _VECTOR = [-1, -1], [-1]


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for products in bfloat16, and oneDNN's are right."""
    # oneDNN ends the process if it is confined to instructions that cannot do it.
    chosen = os.environ.get(ISA_SWITCH, "").upper()
    is_confined = chosen and not any(name in chosen for name in _WITH_BFLOAT16)
    if is_confined or not (usable() and cpu_features() & BFLOAT16_FEATURES):
        return False
    x_RI, weight_IO, grad_RO = _waves(3, 5), _waves(5, 2), _waves(3, 2)
    x, weight, grad = (
        one.astype("bfloat16").astype("float32") for one in (x_RI, weight_IO, grad_RO)
    )

    def by_graphs() -> list[Any]:
        y_RO, x16_RI, weight16_IO = linear16(x_RI, weight_IO, paddle.zeros([2]))
        return [y_RO, *linear16_grad(grad_RO, x16_RI, weight16_IO, (True, True))]

    plain = [x @ weight, grad @ weight.T, x.T @ grad]
    otherwise = "bfloat16 without oneDNN's products, which is slower"
    return _are_equal(by_graphs, plain, otherwise, rtol=2**-7, atol=1e-6)


def linear16(x_RI, weight_IO, bias_O=None):
    """x W + b of x and W in bfloat16, and these two for `linear16_grad`. The product is added up in
    float32 and rounded to bfloat16; the bias is added to it in float32.
    """
    inputs = (x_RI, weight_IO) if bias_O is None else (x_RI, weight_IO, bias_O)
    return _linear16(bias_O is not None)(*inputs)


def linear16_grad(grad_RO, x_RI, weight_IO, needed: tuple[bool, bool]):
    """The gradients of x and W, rounded to bfloat16; null for those that are not needed.

    Args:
        grad_RO: of x W + b.
        x_RI, weight_IO: in bfloat16, of `linear16`.
    """
    if not any(needed):
        return None, None
    grads = iter(_linear16_grad(needed)(grad_RO, x_RI, weight_IO))
    return tuple(next(grads) if one else None for one in needed)


@functools.cache
def _linear16(has_bias: bool) -> Graph:
    def product(x, weight):
        x, weight = x.astype("bfloat16"), weight.astype("bfloat16")
        return (x @ weight).astype("float32"), x, weight

    def with_bias(x, weight, bias):
        y, x, weight = product(x, weight)
        return y + bias, x, weight

    if has_bias:
        return Graph(with_bias, [_MATRIX, _MATRIX, _VECTOR])
    return Graph(product, [_MATRIX, _MATRIX])


@functools.cache
def _linear16_grad(needed: tuple[bool, bool]) -> Graph:
    def gradients(grad, x, weight):
        grad = grad.astype("bfloat16")
        grads = []
        if needed[0]:
            grads.append(paddle.matmul(grad, weight, transpose_y=True).astype("float32"))
        if needed[1]:
            grads.append(paddle.matmul(x, grad, transpose_x=True).astype("float32"))
        return grads

    return Graph(gradients, [_MATRIX] * 3, ["float32", "bfloat16", "bfloat16"])


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
