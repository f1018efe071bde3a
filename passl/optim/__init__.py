"""Gradients to updates. The registries are here; importing them does not import paddle."""

from __future__ import annotations

from passl.utils.registry import Registry
from passl.utils.schema import Choice, Parameter

OPTIMIZERS = Registry("optimizer", {"AdamW": "passl.optim.optimizers:adamw"})
"""An optimizer is a function `(parameters, decays, clip, *, options) ->
paddle.optimizer.Optimizer`: the trainable parameters, `decays(generated name) -> bool`, and a
gradient clip or None. Its learning rate is set before every step.
"""

CLIPS = Registry("gradient clipping", {"global_norm": "passl.optim.optimizers:global_norm"})
"""A gradient clipping is a function of its options alone."""

SCHEDULES = Registry(
    "schedule",
    {"Cosine": "passl.optim.schedules:Cosine", "Constant": "passl.optim.schedules:Constant"},
)
"""A schedule is made with (lr, steps per epoch, epochs) and its options, and called with a step,
from 0, for the learning rate of that step. It has no state: a resumed run needs only the step.
"""

OPTIMIZER_SECTION = Choice(
    OPTIMIZERS,
    {
        "lr": Parameter("float"),
        "lr_base_batch": Parameter("int | None", None),
        "grad_clip": Choice(CLIPS, required=False),
    },
)
"""What every optimizer section may have beside the options of its own."""
