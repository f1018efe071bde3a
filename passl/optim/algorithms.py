"""Optimizers. Below, g is a gradient, w its weight, t the step from 1, and lr the learning rate of
the step.

Weight decay is of two kinds: coupled, an L2 penalty whose gradient weight_decay * w is added to g
and then goes through the algorithm like any gradient, and decoupled, which shrinks w itself by
lr * weight_decay (Loshchilov and Hutter, arXiv 1711.05101). Formulas are those of
PyTorch or timm unless noted.
"""

from __future__ import annotations

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
        moment.scale_(beta2).add_((1 - beta2) * gradient)


def _couple(parameters: Sequence[Any], decays: Callable[[str], bool], weight_decay: float) -> None:
    """Set coupled decay for the parameters that decay: Paddle adds a parameter's own regularizer to
    its gradient, after clipping.
    """
    for parameter in parameters:
        if weight_decay and decays(parameter.name):
            parameter.regularizer = L2Decay(weight_decay)
