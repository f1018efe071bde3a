"""The page of the comparison with timm: every number and statement comes from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from studies.intervals import paired_difference

_HEAD = """\
# Training beside timm

Does training with passl give what training with PyTorch gives? The same ConViT ({depth} blocks of
width {width}, {local} of them local, {tokens} tokens) is trained on Fashion-MNIST by passl, and by
timm's module under PyTorch: from the same weights, which `passl convert` writes for timm, on the
same batches, which passl's loader augments, in the same order, for {epochs} epochs of batches of
{batch_size}. AdamW with timm's parameter groups, loss and schedule are timm's there and passl's
here. There is no dropout. `.venv-parity/bin/python studies/timm_training/run.py` trains both and
writes this page from the results
([`results.json`](../studies/timm_training/results.json)).

{state}
"""
_STEPS = (1, 10, 50, 100, 200, 500, 1000, 2000)


def page(results: Mapping[str, Any]) -> str:
    """The page, of as many pairs as are finished."""
    architecture, about, pairs = results["architecture"], results["about"], results["pairs"]
    where = (
        f"{about['processor']}; Paddle {about['paddlepaddle']}, PyTorch {about.get('torch')}, timm "
        f"{about.get('timm')}; {about['date']}"
    )
    state = f"All {len(pairs)} pairs are finished ({where})."
    if len(pairs) < results["planned"]:
        state = (
            f"**It has not been run in full: {len(pairs)} of {results['planned']} pairs are "
            f"finished** ({where})."
        )
    head = _HEAD.format(
        depth=architecture["depth"],
        width=architecture["embed_dim"],
        local=architecture["local_up_to_layer"],
        tokens=(architecture["img_size"] // architecture["patch_size"]) ** 2,
        state=state,
        **{key: results[key] for key in ("epochs", "batch_size")},
    )
    return "\n".join([head, *([_accuracy(pairs), _losses(pairs)] if pairs else [])])


def _accuracy(pairs: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "## After training\n",
        "Top-1 on the 10,000 test images after the last step, and images per second in training by "
        "one thread.\n",
        "| seed | passl | timm | difference | passl, images/s | timm, images/s |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for pair in pairs:
        ours, theirs = pair["ours"], pair["theirs"]
        lines.append(
            f"| {pair['seed']} | {ours['top1']:.2f} | {theirs['top1']:.2f} | "
            f"{ours['top1'] - theirs['top1']:+.2f} | {ours['ips']:.0f} | {theirs['ips']:.0f} |"
        )
    if len(pairs) > 1:
        mean, half = paired_difference(
            [pair["ours"]["top1"] for pair in pairs], [pair["theirs"]["top1"] for pair in pairs]
        )
        holds = "holds 0" if abs(mean) <= half else "**does not hold 0**"
        lines.append(
            f"\nThe difference is {mean:+.2f} points; its 95 % interval, Student's t over "
            f"{len(pairs)} pairs, from {mean - half:+.2f} to {mean + half:+.2f}, {holds}."
        )
    return "\n".join(lines) + "\n"


def _losses(pairs: Sequence[Mapping[str, Any]]) -> str:
    """How far the losses of a step are apart, and whether they are as close as they should be."""
    apart = [np.abs(np.subtract(p["ours"]["losses"], p["theirs"]["losses"])) for p in pairs]
    largest = max(float(steps[:50].max()) for steps in apart)
    agree = "agree to 1e-5" if largest <= 1e-5 else "**do not agree to 1e-5**"
    shown = [step for step in _STEPS if step <= min(map(len, apart))]
    lines = [
        "## Losses of the first steps\n",
        f"The losses of the first 50 steps {agree}: the largest difference is {largest:.1e}. "
        "Rounding errors grow with every step, until the two runs are two samples of one training. "
        "The largest difference up to a step:\n",
        f"| seed | {' | '.join(f'{step:,}' for step in shown)} |",
        f"|---:|{'---:|' * len(shown)}",
    ]
    for pair, steps in zip(pairs, apart, strict=True):
        cells = [f"{steps[:step].max():.1e}" for step in shown]
        lines.append(f"| {pair['seed']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
