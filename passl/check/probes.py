"""The probes of `passl check`, in the order in which they run. Nothing here imports paddle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_EXACT = {"NVIDIA_TF32_OVERRIDE": "0"}
"""NVIDIA's libraries read it when they start, and then never replace float32 by TF32."""
_IN_TF32 = {"NVIDIA_TF32_OVERRIDE": "1"}


@dataclass(frozen=True)
class Probe:
    """A probe.

    Args:
        function: MODULE:NAME of a function from a `Setup` to `Findings`. It runs in a process of
            its own.
        shows: what a pass shows, for the report.
        processes: that call it together.
        environment: further variables of its processes, by device.
    """

    function: str
    shows: str
    processes: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


FACTS = "facts"
PROBES = {
    FACTS: Probe(
        "passl.check.facts:facts",
        "Paddle can be imported and computes on its default device; what the machine is.",
    ),
    "golden-fp32": Probe(
        "passl.check.numerics:golden_fp32",
        "The networks compute what the authors' code computed, from the same weights and images: "
        "logits, loss, gradients of every weight, five steps of AdamW. TF32 is off.",
        environment=_EXACT,
    ),
    "golden-tf32": Probe(
        "passl.check.numerics:golden_tf32",
        "The same with TF32, within its rounding; the first rows say whether it was used.",
        environment=_IN_TF32,
    ),
    "golden-fp16": Probe(
        "passl.check.numerics:golden_fp16",
        "Logits and gradients under autocast in float16, within its rounding.",
    ),
    "golden-bf16": Probe(
        "passl.check.numerics:golden_bf16",
        "Logits and gradients under autocast in bfloat16, within its rounding.",
    ),
    "predictor": Probe(
        "passl.check.numerics:exported",
        "Exported networks compute the authors' logits, on this device.",
        environment=_EXACT,
    ),
    "curves": Probe(
        "passl.check.training:curves",
        "With mixed precision the loss falls as in float32, from the same weights and batches.",
    ),
    "resume": Probe(
        "passl.check.training:resume",
        "A run that is stopped and resumed is bit for bit the uninterrupted one.",
    ),
    "collectives": Probe(
        "passl.check.parallel:collectives",
        "Sums, broadcasts and gathered arrays of two processes are right.",
        processes=2,
    ),
    "two-ranks": Probe(
        "passl.check.parallel:two_ranks",
        "Two processes on half a batch each compute what one computes on all of it.",
        processes=2,
        environment=_EXACT,
    ),
    "batch-norm": Probe(
        "passl.check.parallel:batch_norm",
        "On GPUs SyncBatchNorm of two processes equals BatchNorm on the whole batch. On a CPU, for "
        "which Paddle has no SyncBatchNorm, the averaging of statistics in its place.",
        processes=2,
        environment=_EXACT,
    ),
    "sharding": Probe(
        "passl.check.parallel:sharding",
        "An optimizer whose state is divided among the processes makes the same steps.",
        processes=2,
        environment=_EXACT,
    ),
    "flash": Probe(
        "passl.check.speed:flash",
        "Attention reaches the flash kernel in float16 and bfloat16, by the profiler's names.",
    ),
    "throughput-224": Probe(
        "passl.check.speed:throughput_224",
        "Speed and memory at 224 x 224 with the largest batch that fits, found by halving.",
    ),
    "throughput-384": Probe(
        "passl.check.speed:throughput_384",
        "Speed and memory at 384 x 384 with the largest batch that fits, found by halving.",
    ),
    "data": Probe(
        "passl.check.speed:data",
        "Images that the data pipeline reads and transforms in a second, on the processor.",
    ),
}
