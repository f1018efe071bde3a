"""The page of the study: every number and every statement about them comes from the results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from studies.fashion.plan import NETWORKS, Plan
from studies.fashion.results import Results, best_rates
from studies.intervals import mean_and_deviation, paired_difference

_HEAD = """\
# Sample efficiency on Fashion-MNIST

The ConViT paper's claim is that a network that starts as a convolution needs fewer samples than the
same network with plain self-attention (DeiT), and that the gap is widest where samples are few
(arXiv 2103.10697, table 2: 5 to 100 % of ImageNet; table 3: what of it the gates and the start are
worth). This is that experiment at the size of two CPU cores. `make study` trains it and writes this
page from the results ([`results.json`](../studies/fashion/results.json)), whatever they show.

{state}
"""

_METHOD = """\
## What is trained

* Networks: a small ConViT, {depth} blocks of width {width} and {heads} heads, the first {local} of
  them with positional attention; and three others that differ in one thing each. Letters are the
  rows of the paper's table 3.
  * *ConViT* (a).
  * *plain attention* (e): no positional attention; the class token joins before the first block.
  * *random positions* (c): positional attention that starts random, not as a convolution; so do its
    values, which in ConViT start as the identity.
  * *gates frozen* (b): ConViT whose gates are 0 throughout, so that content and position have the
    same weight.
* Data: 28 x 28 pixels, cropped at random after padding by 2 and flipped; {fractions} of the 60,000
  training images, the same part of each class. The score is top-1 on the 10,000 test images after
  the last step.
* Tokens: {tokens}.
* Steps: {steps} in every run, of {batch} images. So, as in the paper, a smaller part of the
  training set is seen more often: {passes}. AdamW, one cosine, no dropout.
* Pairs: a seed chooses the part of the training set, the order and the augmentation of its images,
  and the first weights. The networks of a pair share them; of the weights, whatever two networks
  have in common. They are drawn by Xavier's rule, because the networks are narrow (the paper's
  standard deviation is 0.02), positions as in the paper.
* Learning rates: each network is tuned at each number of tokens, over the same {rates} rates with
  the same number of steps, on {tuned_at:.0%} of 55,000 training images, scored on the other 5,000,
  with a seed of its own. (The paper used one rate.)
* Intervals: Student's t over the differences of the pairs, 95 %. With so few pairs a bootstrap has
  no interval of that confidence. They do not count that the test images are a sample too (a
  standard error of at most half a point for one network, less for the difference of two on the same
  images). There are {comparisons} of them: of so many, about {expected:g} miss the true difference
  if all is as assumed.
"""
_TRAINING_SET = 60_000


def page(results: Results, plan: Plan) -> str:
    """The page, of as many runs as are finished."""
    parts = [_HEAD.format(state=_state(results, plan)), _method(plan)]
    if any(run["is_tuning"] for run in results.runs):
        parts.append(_tuning(results, plan))
    for tokens in plan.rows:
        if any(not run["is_tuning"] and run["tokens"] == tokens for run in results.runs):
            parts.append(_row(results, plan, tokens))
    if any(not run["is_tuning"] for run in results.runs):
        parts.append("![Top-1 over the part of the training set](images/study_accuracy.png)\n")
    parts += _gates(results)
    return "\n".join(parts)


def _state(results: Results, plan: Plan) -> str:
    done, about = len(results.runs), results.about
    where = f"{about['processor']}; Paddle {about['paddlepaddle']}; {about['date']}"
    if done == results.planned:
        return f"All {done} runs are finished ({where})."
    return (
        f"**The study has not been run in full: {done} of {results.planned} runs are finished** "
        f"({where}). What follows is of these; differences need two pairs."
    )


def _method(plan: Plan) -> str:
    cfg = plan.config(next(iter(plan.rows)))
    architecture, sampler = cfg.model.architecture, cfg.dataloader.train.sampler
    comparisons = len(plan.rows) * len(plan.fractions) * (len(NETWORKS) - 1)
    tokens = [
        f"{tokens} (patches of {row.patch_size} x {row.patch_size}, {row.seeds} pairs)"
        for tokens, row in plan.rows.items()
    ]
    passes = [
        f"{sampler.samples / (_TRAINING_SET * fraction):.3g} times at {fraction:.0%}"
        for fraction in plan.fractions
    ]
    return _METHOD.format(
        passes=", ".join(passes),
        depth=architecture.depth,
        width=architecture.embed_dim,
        heads=architecture.num_heads,
        local=architecture.local_up_to_layer,
        fractions=", ".join(f"{fraction:.0%}" for fraction in plan.fractions),
        tokens=" and ".join(tokens),
        steps=f"{sampler.samples // sampler.batch_size:,}",
        batch=sampler.batch_size,
        rates=len(plan.rates),
        tuned_at=plan.tuned_at,
        comparisons=comparisons,
        expected=comparisons / 20,
    )


def _tuning(results: Results, plan: Plan) -> str:
    """The table of learning rates, and whether one of the best is at the end of its range."""
    best = best_rates(plan, results.runs)
    lines = [
        "## Learning rates\n",
        "Top-1 on the held-out training images; the chosen rate is bold. Images per second are "
        "those of training, by one thread.\n",
        f"| tokens | network | {' | '.join(f'{lr:g}' for lr in plan.rates)} | images/s |",
        f"|---:|:---|{'---:|' * (len(plan.rates) + 1)}",
    ]
    at_end = []
    for tokens in plan.rows:
        for name, network in NETWORKS.items():
            tuned, chosen = results.tuned(tokens, name), best.get((tokens, name))
            cells = [_cell(tuned.get(lr), is_bold=lr == chosen) for lr in plan.rates]
            speed = results.throughput(tokens, name)
            cells.append("" if speed is None else f"{speed:.0f}")
            lines.append(f"| {tokens} | {network.title} | {' | '.join(cells)} |")
            if chosen in (min(plan.rates), max(plan.rates)):
                at_end.append(f"{network.title} at {tokens} tokens")
    if at_end:
        listed = ", ".join(at_end)
        lines.append(f"\nThe best rate is the lowest or highest that was tried for: {listed}.")
    return "\n".join(lines) + "\n"


def _cell(value: float | None, is_bold: bool) -> str:
    if value is None:
        return ""
    return f"**{value:.1f}**" if is_bold else f"{value:.1f}"


def _row(results: Results, plan: Plan, tokens: int) -> str:
    """Accuracies and differences at a number of tokens."""
    titles = [network.title for network in NETWORKS.values()]
    others = [name for name in NETWORKS if name != "convit"]
    lines = [
        f"## {tokens} tokens\n",
        f"| part | {' | '.join(titles)} |",
        f"|---:|{'---:|' * len(titles)}",
    ]
    for fraction in plan.fractions:
        cells = [_score(results, tokens, name, fraction) for name in NETWORKS]
        lines.append(f"| {fraction:.0%} | {' | '.join(cells)} |")
    lines += [
        "\nConViT less the other, in points, with its interval:\n",
        f"| part | {' | '.join(NETWORKS[name].title for name in others)} |",
        f"|---:|{'---:|' * len(others)}",
    ]
    for fraction in plan.fractions:
        cells = [_difference(results, tokens, name, fraction) for name in others]
        lines.append(f"| {fraction:.0%} | {' | '.join(cells)} |")
    lines.append("")
    lines += [_verdict(results, plan, tokens, name) for name in others]
    return "\n".join(lines) + "\n"


def _score(results: Results, tokens: int, name: str, fraction: float) -> str:
    values = list(results.scores(tokens, name, fraction).values())
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f} (one run)"
    return "{:.1f} ± {:.1f}".format(*mean_and_deviation(values))


def _interval(
    results: Results, tokens: int, name: str, fraction: float
) -> tuple[float, float, float] | None:
    """Difference of ConViT and another network, and both ends of its interval; null for fewer than
    two pairs.
    """
    ours, theirs = results.pairs(tokens, "convit", name, fraction)
    if len(ours) < 2:
        return None
    mean, half = paired_difference(ours, theirs)
    return mean, mean - half, mean + half


def _difference(results: Results, tokens: int, name: str, fraction: float) -> str:
    found = _interval(results, tokens, name, fraction)
    return "" if found is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(*found)


def _verdict(results: Results, plan: Plan, tokens: int, name: str) -> str:
    """Where the interval of the difference excludes 0, in words."""
    places: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
    for fraction in plan.fractions:
        found = _interval(results, tokens, name, fraction)
        if found is not None:
            _, low, high = found
            place = "better" if low > 0 else "worse" if high < 0 else "open"
            places[place].append(f"{fraction:.0%}")
    if not any(places.values()):
        return f"* Against {NETWORKS[name].title}: no two pairs are finished."
    texts = {
        "better": "ConViT is better at {}",
        "worse": "ConViT is worse at {}",
        "open": "the interval holds 0 at {}",
    }
    said = [texts[key].format(", ".join(found)) for key, found in places.items() if found]
    return f"* Against {NETWORKS[name].title}: {'; '.join(said)}."


def _gates(results: Results) -> Iterator[str]:
    """A figure of the gates for each number of tokens, and where they begin and end."""
    by_tokens: dict[int, list[Any]] = {}
    for gates in results.gates:
        by_tokens.setdefault(gates["tokens"], []).append(gates)
    if by_tokens:
        yield (
            "## Gates\n\nHow much attention each head of ConViT pays to position rather than "
            "content over a run (the paper's figure 6), of the first pair; black is the mean of "
            "the heads.\n"
        )
    for tokens, found in by_tokens.items():
        lines = [f"![Gates at {tokens} tokens](images/study_gates_{tokens}.png)\n"]
        blocks = range(1, len(found[0]["values"][0]) + 1)
        lines += [
            f"| {tokens} tokens, part | {' | '.join(f'block {block}' for block in blocks)} |",
            f"|---:|{'---:|' * len(blocks)}",
        ]
        for gates in found:
            ends = zip(gates["values"][0], gates["values"][-1], strict=True)
            cells = [f"{_mean(first):.2f} to {_mean(last):.2f}" for first, last in ends]
            lines.append(f"| {gates['fraction']:.0%} | {' | '.join(cells)} |")
        yield "\n".join(lines) + "\n"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
