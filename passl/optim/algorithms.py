"""Optimizers. Below, g is a gradient, w its weight, t the step from 1, and lr the learning rate of
the step.

Weight decay is of two kinds: coupled, an L2 penalty whose gradient weight_decay * w is added to g
and then goes through the algorithm like any gradient, and decoupled, which shrinks w itself by
lr * weight_decay (Loshchilov and Hutter, arXiv 1711.05101). Formulas are those of
PyTorch or timm unless noted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle.regularizer import L2Decay

from passl.optim import OPTIMIZERS
from passl.utils.types import Betas, NonNegativeFloat, PositiveFloat, Rate


@OPTIMIZERS.register("SGD")
def sgd(
    parameters: Sequence[Any],
    decays: Callable[[str], bool],
    clip: Any,
    *,
    weight_decay: NonNegativeFloat = 0.0,
) -> paddle.optimizer.Optimizer:
    """Stochastic gradient descent, w -= lr * g, with coupled decay and without
    momentum.

    Args:
        weight_decay: of the parameters that decay.
    """
    _couple(parameters, decays, weight_decay)
    return paddle.optimizer.SGD(learning_rate=0.0, parameters=list(parameters), grad_clip=clip)


@OPTIMIZERS.register("Momentum")
def momentum(
    parameters: Sequence[Any],
    decays: Callable[[str], bool],
    clip: Any,
    *,
    momentum: Rate = 0.9,
    nesterov: bool = False,
    weight_decay: NonNegativeFloat = 0.0,
) -> paddle.optimizer.Optimizer:
    """SGD with momentum and coupled decay: v = momentum * v + g, w -= lr * v; with Nesterov's,
    w -= lr * (g + momentum * v) (Sutskever et al., ICML 2013).

    Args:
        momentum: decay of the running sum of gradients.
        nesterov: whether to use Nesterov momentum.
        weight_decay: of the parameters that decay.
    """
    _couple(parameters, decays, weight_decay)
    return paddle.optimizer.Momentum(
        learning_rate=0.0,
        momentum=momentum,
        use_nesterov=nesterov,
        parameters=list(parameters),
        grad_clip=clip,
    )


@OPTIMIZERS.register("RMSProp")
def rmsprop(
    parameters: Sequence[Any],
    decays: Callable[[str], bool],
    clip: Any,
    *,
    alpha: Rate = 0.9,
    eps: PositiveFloat = 1e-8,
    momentum: Rate = 0.0,
    centered: bool = False,
    weight_decay: NonNegativeFloat = 0.0,
) -> paddle.optimizer.Optimizer:
    """RMSProp (Tieleman and Hinton, 2012; centered: Graves, arXiv 1308.0850) with coupled decay:
    s = alpha * s + (1 - alpha) * g^2, v = momentum * v + lr * g / sqrt(s + eps), w -= v.

    As in TensorFlow and timm's RMSpropTF, eps is inside the root and the learning rate inside the
    running sum v; in PyTorch both are outside. The mean s starts at 0, in timm at 1.

    Args:
        alpha: decay of the running mean of the squared gradient.
        eps: added to that mean, under the root.
        momentum: decay of the running sum of steps.
        centered: whether to subtract the square of g's running mean from s, to get a variance.
        weight_decay: of the parameters that decay.
    """
    _couple(parameters, decays, weight_decay)
    return paddle.optimizer.RMSProp(
        learning_rate=0.0,
        rho=alpha,
        epsilon=eps,
        momentum=momentum,
        centered=centered,
        parameters=list(parameters),
        grad_clip=clip,
    )


@OPTIMIZERS.register("Adam")
def adam(
    parameters: Sequence[Any],
    decays: Callable[[str], bool],
    clip: Any,
    *,
    weight_decay: NonNegativeFloat = 0.0,
    betas: Betas = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
) -> paddle.optimizer.Optimizer:
    """Adam (Kingma and Ba, arXiv 1412.6980) with coupled decay: m and v are running means of g and
    g^2, divided by 1 - beta^t, and w -= lr * m / (sqrt(v) + eps).

    Args:
        weight_decay: of the parameters that decay.
        betas: decay of the running means of gradient and squared gradient.
        eps: added to the root of the latter.
    """
    _couple(parameters, decays, weight_decay)
    return paddle.optimizer.Adam(
        learning_rate=0.0,
        beta1=betas[0],
        beta2=betas[1],
        epsilon=eps,
        parameters=list(parameters),
        grad_clip=clip,
    )


@OPTIMIZERS.register("AdamW")
def adamw(
    parameters: Sequence[Any],
    decays: Callable[[str], bool],
    clip: Any,
    *,
    weight_decay: NonNegativeFloat = 0.05,
    betas: Betas = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
) -> paddle.optimizer.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101): Adam with decoupled decay.

    Args:
        weight_decay: of the parameters that decay.
        betas: decay of the running means of gradient and squared gradient.
        eps: added to the root of the latter.
    """
    return paddle.optimizer.AdamW(
        learning_rate=0.0,
        beta1=betas[0],
        beta2=betas[1],
        epsilon=eps,
        parameters=list(parameters),
        weight_decay=float(weight_decay),
        apply_decay_param_fun=decays,
        grad_clip=clip,
    )


@OPTIMIZERS.register("Lamb")
def lamb(
    parameters: Sequence[Any],
    decays: Callable[[str], bool],
    clip: Any,
    *,
    weight_decay: NonNegativeFloat = 0.01,
    betas: Betas = (0.9, 0.999),
    eps: PositiveFloat = 1e-6,
    always_adapt: bool = False,
) -> paddle.optimizer.Optimizer:
    """LAMB (You et al., arXiv 1904.00962), for large batches: with Adam's m and v,
    r = m / (sqrt(v) + eps) + weight_decay * w, and w -= lr * (|w| / |r|) * r for each parameter.

    The ratio is 1 where a norm is 0, and for parameters that do not decay. (timm's Lamb also
    clips to a global norm of 1; here that is grad_clip.)

    Args:
        weight_decay: of the parameters that decay.
        betas: decay of the running means of gradient and squared gradient.
        eps: added to the root of the latter.
        always_adapt: whether parameters that do not decay have the ratio too.
    """
    return paddle.optimizer.Lamb(
        learning_rate=0.0,
        lamb_weight_decay=weight_decay,
        beta1=betas[0],
        beta2=betas[1],
        epsilon=eps,
        parameters=list(parameters),
        grad_clip=clip,
        exclude_from_weight_decay_fn=lambda parameter: not decays(parameter.name),
        always_adapt=always_adapt,
    )


@OPTIMIZERS.register("Lion")
def lion(
    parameters: Sequence[Any],
    decays: Callable[[str], bool],
    clip: Any,
    *,
    weight_decay: NonNegativeFloat = 0.0,
    betas: Betas = (0.9, 0.99),
) -> paddle.optimizer.Optimizer:
    """Lion (Chen et al., arXiv 2302.06675), which keeps m alone and steps by signs:
    w -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * w), then
    m = beta2 * m + (1 - beta2) * g.

    The paper divides AdamW's learning rate by 3 to 10 and multiplies its decay by as much.

    Args:
        weight_decay: decoupled, of the parameters that decay.
        betas: weight of the past in the step, and in m.
    """
    return Lion(parameters, decays, clip, weight_decay, betas)


class Lion(paddle.optimizer.Optimizer):
    """The optimizer that `lion` builds, as a Paddle optimizer."""

    def __init__(
        self,
        parameters: Sequence[Any],
        decays: Callable[[str], bool],
        clip: Any,
        weight_decay: float,
        betas: tuple[float, float],
    ):
        super().__init__(learning_rate=0.0, parameters=list(parameters), grad_clip=clip)
        self._decays, self._weight_decay, self._betas = decays, weight_decay, betas

    def _create_accumulators(self, block, parameters):
        for parameter in parameters:
            self._add_accumulator("moment", parameter)

    def _append_optimize_op(self, block, param_and_grad):
        weight, gradient = param_and_grad
        moment = self._get_accumulator("moment", weight)
        (beta1, beta2), decay = self._betas, self._weight_decay
        change = (beta1 * moment + (1 - beta1) * gradient).sign()
        if decay and self._decays(weight.name):
            change += decay * weight
        weight.subtract_(self._create_param_lr(param_and_grad) * change)
        _decay_towards(moment, gradient, beta2)


@OPTIMIZERS.register("Muon")
def muon(
    parameters: Sequence[Any],
    decays: Callable[[str], bool],
    clip: Any,
    *,
    weight_decay: NonNegativeFloat = 0.05,
    momentum: Rate = 0.95,
    betas: Betas = (0.9, 0.95),
    eps: PositiveFloat = 1e-8,
) -> paddle.optimizer.Optimizer:
    """Muon (Jordan et al., https://kellerjordan.github.io/posts/muon) with decoupled decay for the
    matrices of a network, and AdamW for its other parameters.

    For a matrix, m = momentum * m + (1 - momentum) * g, and Nesterov's
    u = momentum * m + (1 - momentum) * g. With the singular value decomposition u = U S V^T, the
    step is w -= lr * (0.2 * sqrt(max(rows, columns)) * U V^T + weight_decay * w). The factor gives
    the step the size of AdamW's, so one learning rate serves both (Liu et al., arXiv 2502.16982).
    Five Newton-Schulz iterations replace the singular values by numbers between 0.7 and 1.2.

    A matrix is a weight that decays and, seen as (first axis, product of the others), has at least
    16 rows and 16 columns: a convolution is one, a depthwise convolution is not.

    Args:
        weight_decay: of the parameters that decay.
        momentum: weight of the past in m.
        betas: AdamW's decay of the running means of gradient and squared gradient.
        eps: added to the root of the latter.
    """
    return Muon(parameters, decays, clip, weight_decay, momentum, betas, eps)


class Muon(paddle.optimizer.Optimizer):
    """The optimizer that `muon` builds, as a Paddle optimizer."""

    def __init__(
        self,
        parameters: Sequence[Any],
        decays: Callable[[str], bool],
        clip: Any,
        weight_decay: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
    ):
        super().__init__(learning_rate=0.0, parameters=list(parameters), grad_clip=clip)
        self._decays, self._weight_decay, self._momentum = decays, weight_decay, momentum
        self._betas, self._eps = betas, eps

    def _create_accumulators(self, block, parameters):
        for parameter in parameters:
            self._add_accumulator("moment1", parameter)
            if not self._is_matrix(parameter):
                self._add_accumulator("moment2", parameter)
                self._add_accumulator("step", parameter, shape=[1])

    def _append_optimize_op(self, block, param_and_grad):
        weight, gradient = param_and_grad
        is_matrix = self._is_matrix(weight)
        change = (self._matrix_change if is_matrix else self._adam_change)(weight, gradient)
        if self._weight_decay and self._decays(weight.name):
            change += self._weight_decay * weight
        weight.subtract_(self._create_param_lr(param_and_grad) * change)

    def _is_matrix(self, weight: paddle.Tensor) -> bool:
        shape = weight.shape
        return (
            len(shape) > 1
            and min(shape[0], math.prod(shape[1:])) >= 16
            and shape[1] > 1
            and self._decays(weight.name)
        )

    def _matrix_change(self, weight: paddle.Tensor, gradient: paddle.Tensor) -> paddle.Tensor:
        moment = self._get_accumulator("moment1", weight)
        _decay_towards(moment, gradient, self._momentum)
        ahead = self._momentum * moment + (1 - self._momentum) * gradient
        matrix = ahead.flatten(1)
        change = 0.2 * math.sqrt(max(matrix.shape)) * orthogonalized(matrix)
        return change.reshape(weight.shape)

    def _adam_change(self, weight: paddle.Tensor, gradient: paddle.Tensor) -> paddle.Tensor:
        names = ("moment1", "moment2", "step")
        mean, square, step = (self._get_accumulator(name, weight) for name in names)
        step.add_(paddle.ones_like(step))
        _decay_towards(mean, gradient, self._betas[0])
        _decay_towards(square, gradient * gradient, self._betas[1])
        mean, square = (
            moment / (1 - beta**step)
            for moment, beta in zip((mean, square), self._betas, strict=True)
        )
        return mean / (square.sqrt() + self._eps)


def orthogonalized(matrix: paddle.Tensor) -> paddle.Tensor:
    """A matrix of the same singular vectors, whose singular values lie between 0.7 and 1.2, except
    those that were far below the others.

    Five iterations of x = a x + b (x x^T) x + c (x x^T)^2 x, from a matrix of norm 1; a, b and c
    are Jordan's, for the steepest start.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    rows, columns = matrix.shape
    x = matrix / (matrix.norm() + 1e-7)
    if rows > columns:  # the smaller of the two products
        x = x.T
    for _ in range(5):
        gram = paddle.matmul(x, x, transpose_y=True)
        x = a * x + paddle.matmul(b * gram + c * paddle.matmul(gram, gram), x)
    return x.T if rows > columns else x


def _decay_towards(mean: paddle.Tensor, value: paddle.Tensor, beta: float) -> None:
    """Update a running mean in place."""
    mean.scale_(beta).add_((1 - beta) * value)


def _couple(parameters: Sequence[Any], decays: Callable[[str], bool], weight_decay: float) -> None:
    """Set coupled decay for the parameters that decay: Paddle adds a parameter's own regularizer to
    its gradient, after clipping.
    """
    for parameter in parameters:
        if weight_decay and decays(parameter.name):
            parameter.regularizer = L2Decay(weight_decay)
