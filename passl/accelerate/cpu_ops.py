"""Operations that are slow or take much memory in Paddle when a network trains on a CPU, with the
same values and gradients. `cpu_layers` uses them.

Shapes in names: G one head of one sample, N queries, M keys, D channels of a head, R rows, I and O
channels in and out, C channels, B batch, Y rows and X columns of a map, K side of a kernel.
"""

from __future__ import annotations

import paddle
from paddle import _C_ops
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from passl.accelerate import onednn

SCORES = 2**20
"""Attention scores that are computed at once, 4 MB of float32: fewer make more calls, and more do
not fit the caches.
"""


def _need_grad(*tensors) -> list[bool]:
    return [not tensor.stop_gradient for tensor in tensors]


def column_sums(x_RC):
    """Sums over the rows as a matrix product, which is many times faster than `sum(0)`."""
    return (paddle.ones([1, x_RC.shape[0]], x_RC.dtype) @ x_RC).squeeze(0)


class Linear(PyLayer):
    """x W + b. Paddle adds the bias in a pass of its own, and sums its gradient slowly."""

    @staticmethod
    def forward(ctx, x, weight_IO, bias_O):
        ctx.need_grad = _need_grad(x, weight_IO, bias_O)
        ctx.save_for_backward(x, weight_IO)
        y_RO = paddle.addmm(bias_O.unsqueeze(0), x.reshape([-1, x.shape[-1]]), weight_IO)
        return y_RO.reshape([*x.shape[:-1], -1])

    @staticmethod
    def backward(ctx, grad):
        x, weight_IO = ctx.saved_tensor()
        grad_RO = grad.reshape([-1, grad.shape[-1]])
        of_x, of_weight, of_bias = ctx.need_grad
        dx, dweight_IO = None, None
        if of_x:
            dx = paddle.matmul(grad_RO, weight_IO, transpose_y=True).reshape(x.shape)
        if of_weight:
            x_RI = x.reshape([-1, x.shape[-1]])
            dweight_IO = paddle.matmul(x_RI, grad_RO, transpose_x=True)
        return dx, dweight_IO, column_sums(grad_RO) if of_bias else None


class Linear16(PyLayer):
    """x W + b with products in bfloat16. x and W are kept in bfloat16 for the backward pass."""

    @staticmethod
    def forward(ctx, x, weight_IO, bias_O=None):
        ctx.shape, ctx.has_bias = x.shape, bias_O is not None
        ctx.need_grad = _need_grad(x, weight_IO, *([bias_O] if ctx.has_bias else []))
        y_RO, *inputs = onednn.linear16(x.reshape([-1, x.shape[-1]]), weight_IO, bias_O)
        ctx.save_for_backward(*inputs)
        return y_RO.reshape([*x.shape[:-1], -1])

    @staticmethod
    def backward(ctx, grad):
        grad_RO = grad.reshape([-1, grad.shape[-1]])
        of_x, of_weight, *of_bias = ctx.need_grad
        dx, dweight_IO = onednn.linear16_grad(grad_RO, *ctx.saved_tensor(), (of_x, of_weight))
        grads = (None if dx is None else dx.reshape(ctx.shape), dweight_IO)
        return (*grads, *(column_sums(grad_RO) if needed else None for needed in of_bias))


class ScaleSamples(PyLayer):
    """x * scale with one number for each sample. Paddle's product also keeps x, for the gradient of
    the scale, which nothing needs.
    """

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(scale)
        return x * scale

    @staticmethod
    def backward(ctx, grad):
        (scale,) = ctx.saved_tensor()
        return grad * scale, None


class LayerNorm(PyLayer):
    """LayerNorm over the last axis. Its gradient is that of a BatchNorm of one sample whose
    channels are the rows, and the BatchNorm kernel takes a tenth of the time.
    """

    @staticmethod
    def forward(ctx, x, weight_C, bias_C, eps: float):
        ctx.eps = eps
        ctx.need_grad = _need_grad(x, weight_C, bias_C)
        ctx.save_for_backward(x, weight_C)
        return F.layer_norm(x, [x.shape[-1]], weight_C, bias_C, eps)

    @staticmethod
    def backward(ctx, grad):
        x, weight_C = ctx.saved_tensor()
        channels = x.shape[-1]
        of_x, of_weight, of_bias = ctx.need_grad
        x_1RC = x.reshape([1, -1, channels])
        grad_RC = grad.reshape([-1, channels])
        rows = x_1RC.shape[1]
        zeros_R, ones_R = paddle.zeros([rows], x.dtype), paddle.ones([rows], x.dtype)
        # The kernels also take running statistics, which they write to, and their momentum.
        options = (0.9, ctx.eps, "NCHW", False, False)
        n_1RC, *statistics = _C_ops.batch_norm(
            x_1RC, zeros_R.clone(), ones_R.clone(), ones_R, zeros_R, False, *options
        )
        dx, dweight_C = None, None
        if of_x:
            dn_1RC = (grad_RC * weight_C).unsqueeze(0)
            dx_1RC, _, _ = _C_ops.batch_norm_grad(
                x_1RC, ones_R, zeros_R, *statistics, dn_1RC, *options[:3], False, *options[3:]
            )
            dx = dx_1RC.reshape(x.shape)
        if of_weight:
            dweight_C = column_sums(n_1RC.squeeze(0).multiply_(grad_RC))
        return dx, dweight_C, column_sums(grad_RC) if of_bias else None


class Conv2D(PyLayer):
    """A convolution without bias by oneDNN."""

    @staticmethod
    def forward(ctx, x_BCYX, weight_OIKK, stride: int, padding: int, groups: int):
        ctx.geometry = (stride, padding, groups)
        ctx.need_grad = _need_grad(x_BCYX, weight_OIKK)
        ctx.save_for_backward(x_BCYX, weight_OIKK)
        return onednn.conv2d(x_BCYX, weight_OIKK, *ctx.geometry)

    @staticmethod
    def backward(ctx, grad_BOYX):
        return onednn.conv2d_grad(
            *ctx.saved_tensor(), grad_BOYX, *ctx.geometry, tuple(ctx.need_grad)
        )


class Gelu(PyLayer):
    """GELU by erf, by oneDNN."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return onednn.gelu(x)

    @staticmethod
    def backward(ctx, grad):
        return onednn.gelu_grad(*ctx.saved_tensor(), grad)


class QuickGelu(PyLayer):
    """x * sigmoid(1.702 x) = swish(1.702 x) / 1.702. Only x is kept for the backward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        # Not in place: outputs of a graph share one version counter, so a layer that keeps this
        # output would find it changed by a later call.
        return onednn.swish(x * 1.702) * (1 / 1.702)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensor()
        return onednn.swish_grad(x * 1.702, grad)


class Attention(PyLayer):
    """softmax(q k^T * scale) v, for some heads, or some queries of a head, at a time. Only q, k and
    v are kept for the backward pass, which computes the weights again: memory grows with the tokens
    rather than with their square, and the scores stay in the cache.
    """

    @staticmethod
    def forward(ctx, q_BNHD, k_BMHD, v_BMHD, scale: float):
        ctx.heads, ctx.scale = q_BNHD.shape[2], scale
        ctx.need_grad = _need_grad(q_BNHD, k_BMHD, v_BMHD)
        q_GND, k_GMD, v_GMD = (_heads_first(x) for x in (q_BNHD * scale, k_BMHD, v_BMHD))
        ctx.save_for_backward(q_GND, k_GMD, v_GMD)
        out = [
            _joined([_weights(q, k) @ v for q in _queries(q, k)])
            for q, k, v in _heads(q_GND, k_GMD, v_GMD)
        ]
        return _heads_last(out, ctx.heads)

    @staticmethod
    def backward(ctx, grad_BNHD):
        parts = _heads(*ctx.saved_tensor(), _heads_first(grad_BNHD))
        grads = zip(*(_attention_grad(*part) for part in parts), strict=True)
        dq_BNHD, dk_BMHD, dv_BMHD = (_heads_last(list(grad), ctx.heads) for grad in grads)
        grads = (dq_BNHD.scale_(ctx.scale), dk_BMHD, dv_BMHD)
        return tuple(g if needed else None for g, needed in zip(grads, ctx.need_grad, strict=True))


def _attention_grad(q_GND, k_GMD, v_GMD, grad_GND):
    """The gradients of q (scaled), k and v of some heads."""
    dq, dk_GMD, dv_GMD = [], None, None
    for q, grad in zip(_queries(q_GND, k_GMD), _queries(grad_GND, k_GMD), strict=True):
        weights_GNM = _weights(q, k_GMD)
        dweights_GNM = paddle.matmul(grad, v_GMD, transpose_y=True)
        dscores_GNM = _C_ops.softmax_grad(weights_GNM, dweights_GNM, -1)
        dq.append(dscores_GNM @ k_GMD)
        dk_GMD = _added(dk_GMD, paddle.matmul(dscores_GNM, q, transpose_x=True))
        dv_GMD = _added(dv_GMD, paddle.matmul(weights_GNM, grad, transpose_x=True))
    return _joined(dq), dk_GMD, dv_GMD


def _added(total, part):
    return part if total is None else total.add_(part)


def _weights(q_GND, k_GMD):
    return onednn.softmax(paddle.matmul(q_GND, k_GMD, transpose_y=True))


def _heads(q_GND, k_GMD, *others):
    """The tensors in parts of heads that have SCORES scores at most, or of one head."""
    count, scores = q_GND.shape[0], q_GND.shape[1] * k_GMD.shape[1]
    sizes = _sizes(count, SCORES // scores)
    return zip(*(x.split(sizes) for x in (q_GND, k_GMD, *others)), strict=True)


def _queries(x_GND, k_GMD):
    """The queries of some heads in blocks that have SCORES scores at most, or of one query."""
    rows = x_GND.shape[1]
    sizes = _sizes(rows, SCORES // (x_GND.shape[0] * k_GMD.shape[1]))
    return x_GND.split(sizes, axis=1) if len(sizes) > 1 else [x_GND]


def _sizes(count: int, size: int) -> list[int]:
    """Sizes of the parts of `count` items, `size` each, or 1."""
    size = max(1, size)
    return [min(size, count - start) for start in range(0, count, size)]


def _joined(blocks):
    return blocks[0] if len(blocks) == 1 else paddle.concat(blocks, axis=1)


def _heads_first(x_BNHD):
    return x_BNHD.transpose([0, 2, 1, 3]).flatten(0, 1)


def _heads_last(parts_GND, heads: int):
    x_GND = paddle.concat(parts_GND)
    return x_GND.reshape([-1, heads, *x_GND.shape[1:]]).transpose([0, 2, 1, 3])
