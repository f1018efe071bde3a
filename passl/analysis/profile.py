"""Where the time of training steps goes, recorded by Paddle's profiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import paddle
from paddle import nn
from paddle.profiler import Profiler, ProfilerTarget, RecordEvent

from passl.analysis.costs import levels
from passl.analysis.trace import Cost, Event, costs, outermost, read_trace, table_of_costs
from passl.analysis.trial import WARMUP, Trial
from passl.distributed import ranks as distributed
from passl.io.files import write_atomically
from passl.io.terminal import Bar
from passl.logging import get_logger
from passl.utils.config import Config

_SHOWN = 30
"""Operators in the table."""
_LEVELS = 3
"""Of the names of the layers in the table: `backbone.blocks.0.attn` has three."""
_READING, _MIXING, _STEP = "reading", "mixup", "training step"
_LAYER = "layer "
_PHASES = {"Forward": "forward", "Backward": "backward", "Optimization": "optimizer"}
"""Names of the phases by the category that Paddle gives their events."""


def profile(cfg: Config, steps: int, out: Path) -> list[str]:
    """Record training steps. Data, network, loss and optimizer are those of a run that starts, but
    nothing of a run is written, and the weights are thrown away.

    Args:
        cfg: checked by `engine.check.check_config`.
        steps: to record, after `WARMUP` others.
        out: the trace to write, for Chrome.

    Returns:
        Lines of the tables by phase, operator and layer; none on other ranks than the first.

    Raises:
        ConfigError: the run cannot start as configured.
        RunError: weights or an image cannot be read.
    """
    with distributed.start(cfg.get("device", "auto"), cfg.get("timeouts")) as ranks:
        profiler = _record(Trial(cfg, ranks), steps)
        ranks.wait()
        if not ranks.is_first:
            return []
        write_atomically(out, lambda path: profiler.export(str(path), "json"))
        get_logger().info(
            "the trace is in %s; open it in chrome://tracing or https://ui.perfetto.dev", out
        )
        return tables(read_trace(out), steps)


def _record(trial: Trial, steps: int) -> Profiler:
    devices, shown, model = [ProfilerTarget.CPU], trial.ranks.is_first, trial.learner.model
    if paddle.get_device().startswith("gpu"):
        devices.append(ProfilerTarget.GPU)
    # Without a function of its own, it writes a folder profiler_log where it is started.
    profiler = Profiler(targets=devices, on_trace_ready=lambda _: None)
    batches = trial.batches()
    with Bar("profile", WARMUP + steps, shown=shown) as bar, closing(batches), _named(model):
        for step in range(WARMUP + steps):
            if step == WARMUP:
                profiler.start()
            with RecordEvent(_READING):
                batch = next(batches)
            with RecordEvent(_MIXING):
                images, targets = trial.mixed(batch, step)
            with RecordEvent(_STEP):
                outcome = trial.update(images, targets, step)
                _ = outcome.loss  # waits for the device
            if step >= WARMUP:
                profiler.step()
            bar.update()
    profiler.stop()
    return profiler


@contextmanager
def _named(model: nn.Layer) -> Iterator[None]:
    """A context in which each call of a layer is an event with the layer's name.

    On a GPU the host waits for the device at both ends of a layer, so that the times are the
    device's. (Untested: no GPU was available.)
    """
    is_gpu = paddle.get_device().startswith("gpu")
    open_events: list[RecordEvent] = []

    def begin(name: str):
        def hook(layer, inputs):
            if is_gpu:
                paddle.device.synchronize()
            event = RecordEvent(_LAYER + name)
            event.begin()
            open_events.append(event)

        return hook

    def end(layer, inputs, outputs):
        if is_gpu:
            paddle.device.synchronize()
        open_events.pop().end()

    hooks = []
    for name, layer in model.named_sublayers():
        hooks += [
            layer.register_forward_pre_hook(begin(name)),
            layer.register_forward_post_hook(end),
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def tables(events: list[Event], steps: int) -> list[str]:
    """The tables by phase, operator and layer of a trace that `profile` has written.

    Args:
        steps: that were recorded.
    """
    ours = [event for event in events if event.kind == "PythonUserDefined"]
    user = costs(ours)
    own = {name: user.get(name, Cost()) for name in (_READING, _MIXING, _STEP)}
    whole = sum(cost.total for cost in own.values())
    phases = [(name, own[name]) for name in (_READING, _MIXING)]
    inside = 0.0
    for kind, name in _PHASES.items():
        # Each layer's call is an event of the kind Forward, inside that of the network.
        found = outermost(event for event in events if event.kind == kind)
        total = sum(event.duration for event in found)
        phases.append((name, Cost(len(found), total, total)))
        inside += total
    rest = own[_STEP].total - inside
    phases.append(("the rest of the step", Cost(own[_STEP].calls, rest, rest)))
    operators = costs(event for event in events if event.kind == "Operator")
    ranked = sorted(operators.items(), key=lambda item: -item[1].own)
    named = [(name.removesuffix(" dygraph"), cost) for name, cost in ranked[:_SHOWN]]
    if len(ranked) > _SHOWN:
        others = [cost for _, cost in ranked[_SHOWN:]]
        rest = sum(cost.own for cost in others)
        sums = Cost(sum(cost.calls for cost in others), rest, rest)
        named.append((f"{len(others)} others", sums))
    layers = costs(
        replace(event, name=event.name.removeprefix(_LAYER))
        for event in ours
        if event.name.startswith(_LAYER) and len(levels(event.name)) <= _LEVELS
    )
    return [
        f"{steps} step(s), {whole / steps / 1000:.1f} ms each",
        "",
        *table_of_costs("phase", phases, steps, whole),
        "",
        *table_of_costs("operator", named, steps, whole),
        "",
        *table_of_costs("layer (forward pass)", list(layers.items()), steps, whole),
    ]
