"""Optimizers, gradient clipping and learning-rate schedules, and their registries."""

from __future__ import annotations

from passl.utils.registry import Registry

OPTIMIZERS = Registry(
    "optimizer", ["passl.optim.algorithms"], given=("parameters", "decays", "clip")
)
"""An optimizer is a function `(parameters, decays, clip, *, options) ->
paddle.optimizer.Optimizer`: the parameters as one list, `decays(generated name) -> bool`, and a
gradient clip or None. Its learning rate is set before every step; it multiplies that by the
parameter's `optimize_attr["learning_rate"]`, as Paddle's own do. Parameters come without a
`regularizer`.
"""

CLIPS = Registry("gradient clipping", ["passl.optim.clips"], given=("model",))
"""A gradient clipping is a function `(model, *, options) -> paddle.nn.clip.ClipGradBase`. The
optimizer calls what it returns with all parameters and gradients, before decay is added to these.
"""

SCHEDULES = Registry(
    "schedule", ["passl.optim.schedules"], given=("lr", "steps_per_epoch", "epochs")
)
"""A schedule is built from (lr, steps per epoch, epochs) and its options. Called with a step, from
0, it returns the learning rate of that step. It has no state: a resumed run needs only the step.
"""
