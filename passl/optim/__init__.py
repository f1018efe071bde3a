"""Gradients to updates. The registries are here; importing them does not import paddle."""

from __future__ import annotations

from passl.optim import rules
from passl.utils.registry import Registry
from passl.utils.schema import Choice, Parameter

_ALGORITHMS = ("Adam", "AdamW", "Lamb", "Lion", "Momentum", "RMSProp", "SGD")
OPTIMIZERS = Registry(
    "optimizer",
    {name: f"passl.optim.algorithms:{name.lower()}" for name in _ALGORITHMS},
    {name: "passl.optim.rules:algorithm" for name in _ALGORITHMS},
    given=("parameters", "decays", "clip"),
)
"""An optimizer is a function `(parameters, decays, clip, *, options) ->
paddle.optimizer.Optimizer`: the parameters as one list, `decays(generated name) -> bool`, and a
gradient clip or None. Its learning rate is set before every step; it multiplies that by the
parameter's `optimize_attr["learning_rate"]`, as Paddle's own do. Parameters come without a
`regularizer`.
"""

_CLIPS = ("adaptive", "global_norm", "value")
CLIPS = Registry(
    "gradient clipping",
    {name: f"passl.optim.clips:{name}" for name in _CLIPS},
    {name: "passl.optim.rules:clip" for name in _CLIPS},
    given=("model",),
)
"""A gradient clipping is a function `(model, *, options) -> paddle.nn.clip.ClipGradBase`. The
optimizer calls what it returns with all parameters and gradients, before decay is added to these.
"""

SCHEDULES = Registry(
    "schedule",
    {
        name: f"passl.optim.schedules:{name}"
        for name in ("Constant", "Cosine", "Linear", "MultiStep", "Polynomial", "Step")
    },
    given=("lr", "steps_per_epoch", "epochs"),
)
"""A schedule is made with (lr, steps per epoch, epochs) and its options, and called with a step,
from 0, for the learning rate of that step. It has no state: a resumed run needs only the step.
"""

OPTIMIZER_SECTION = Choice(
    OPTIMIZERS,
    {
        "lr": Parameter("float"),
        "lr_base_batch": Parameter("int | None", None),
        "lr_scale": Parameter("Literal['linear', 'sqrt']", "linear"),
        "no_weight_decay": Parameter("Sequence[str] | None", None),
        "layer_decay": Parameter("float | None", None),
        "grad_clip": Choice(CLIPS, required=False),
    },
    rule=rules.section,
)
"""What every optimizer section may have beside the options of its own; `build_optimizer` and
`scaled_lr` say what it means.
"""
