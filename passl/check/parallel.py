"""Probes of two processes: NCCL on two GPUs, Gloo on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from passl.check.findings import Findings, Row, Setup
from passl.check.golden import GRADIENTS, VALUES
from passl.distributed import ranks as distributed
from passl.distributed.ranks import STATISTICS, Ranks
from passl.engine.learner import Learner, build_learner
from passl.engine.step import train_step
from passl.modeling import Model
from passl.modeling.tf32 import tf32
from passl.utils.config import get_config

_ELEMENTS = 5_717_416
"""Of the buffer that is summed for its time: the gradients of ConViT-Ti."""
_BATCH = 16
"""Images of a step over both ranks."""
_STEPS = 3
_COMMON = (
    "model.architecture.drop_path_rate=0.0",
    "lr_scheduler={name: Constant}",
    "loss={name: CrossEntropy}",
)
MOMENTUM = "optimizer={name: Momentum, lr: 0.1}"
"""Moves a weight in proportion to its gradient; AdamW would turn rounding into steps."""


def collectives(setup: Setup) -> Findings:
    """Sums, broadcasts and gathered arrays of two ranks, exact; and the time of a sum of as many
    numbers as ConViT-Ti has gradients.
    """
    with distributed.start(setup.device) as ranks:
        world, rank = ranks.world, ranks.rank
        sums = ranks.sum([1.0, rank, 2.0**40 * rank])
        expected = [world, world * (world - 1) / 2, 2.0**40 * world * (world - 1) / 2]
        wrong_sums = sum(a != b for a, b in zip(sums, expected, strict=True))
        own = {"numbers": np.arange(7, dtype=np.int64) + rank, "flag": np.array(rank == 0)}
        wrong_arrays = 0
        for other, found in enumerate(ranks.gather(own)):
            wrong_arrays += int((found["numbers"] != np.arange(7) + other).sum())
            wrong_arrays += bool(found["flag"]) != (other == 0)
        texts = ranks.gather_texts([f"rank {rank}", "图"])
        wrong_texts = sum(t != [f"rank {i}", "图"] for i, t in enumerate(texts))
        buffer = paddle.full([_ELEMENTS], float(rank + 1))
        ranks.all_reduce(buffer)
        wrong_large = int((buffer != world * (world + 1) / 2).sum())
        spent = []
        for _ in range(3 if setup.quick else 10):
            ranks.wait()
            start = time.perf_counter()
            ranks.all_reduce(buffer)
            buffer[0].item()  # waits for the device
            spent.append(time.perf_counter() - start)
        seconds = statistics.median(spent)
        backend = paddle.distributed.get_backend()
    return Findings(
        [
            Row("wrong sums of 3 numbers", wrong_sums, 0),
            Row("wrong values of gathered arrays", wrong_arrays, 0),
            Row("wrong gathered texts", wrong_texts, 0),
            Row(f"wrong values in a sum of {_ELEMENTS:,}", wrong_large, 0),
            Row("ranks missing", 2 - world, 0, note=f"backend {backend}, {world} ranks"),
            Row("time of that sum", 1000 * seconds, unit="ms"),
            Row("bytes summed in a second", 4 * _ELEMENTS / seconds / 1e9, unit="GB/s"),
        ]
    )


def two_ranks(setup: Setup) -> Findings:
    """Three steps of two ranks on half a batch each, against one process on the whole batch; and
    the weights of both ranks, bit for bit.
    """
    with tf32(False), distributed.start(setup.device) as ranks:
        options = (*_COMMON, MOMENTUM)
        whole = _learner("digits/convit", options, Ranks())
        split = _learner("digits/convit", options, ranks)
        before = _weights(whole)
        losses = [[_step(one, step) for one in (whole, split)] for step in range(_STEPS)]
        ranks.check_same(split.model, _STEPS)
        found, expected = _weights(split), _weights(whole)
        rows = [
            Row("losses", max(abs(b - a) / abs(a) for a, b in losses), VALUES),
            Row("updates of the weights", _of_updates(found, expected, before), GRADIENTS),
            Row("weights that differ between the ranks", _differing(ranks, found), 0),
            Row("ranks missing", 2 - ranks.world, 0),
        ]
    return Findings(rows)


def batch_norm(setup: Setup) -> Findings:
    """BatchNorm of CvT. On GPUs `sync_bn` takes the statistics of both ranks' images: three steps
    equal those of one process on the whole batch. On a CPU, for which Paddle has no such kernel,
    each rank has its own, which are averaged.
    """
    with tf32(False), distributed.start(setup.device) as ranks:
        options = (*_COMMON, MOMENTUM)
        split = _learner("digits/cvt", (*options, f"sync_bn={str(setup.on_gpu).lower()}"), ranks)
        whole = _learner("digits/cvt", options, Ranks())
        before = _weights(whole)
        losses = [[_step(one, step) for one in (whole, split)] for step in range(_STEPS)]
        own = _statistics(split)
        mean = {name: np.mean([part[name] for part in ranks.gather(own)], axis=0) for name in own}
        if setup.on_gpu:
            found, expected = _weights(split), _weights(whole)
            rows = [
                Row("losses", max(abs(b - a) / abs(a) for a, b in losses), VALUES),
                Row("updates of the weights", _of_updates(found, expected, before), GRADIENTS),
                Row("running statistics", _largest(own, _statistics(whole)), GRADIENTS),
            ]
        else:
            ranks.average_statistics(dict(split.model.named_parameters()))
            error = _largest(_statistics(split), mean)
            rows = [
                Row("averaged statistics", error, VALUES),
                Row("spread of the ranks' own statistics", _largest(own, mean)),
            ]
        averaged = _statistics(split)
        rows.append(Row("statistics that differ between the ranks", _differing(ranks, averaged), 0))
    return Findings(rows)


def sharding(setup: Setup) -> Findings:
    """Three steps of AdamW with its state divided among the ranks, against those without."""
    with tf32(False), distributed.start(setup.device) as ranks:
        plain = _learner("digits/convit", _COMMON, ranks)
        sharded = _learner("digits/convit", (*_COMMON, "sharding.stage=1"), ranks)
        for step in range(_STEPS):
            for learner in (plain, sharded):
                _step(learner, step)
        ranks.check_same(sharded.model, _STEPS)
        found, expected = _weights(sharded), _weights(plain)
        states = [sum(t.size for t in _state(one)) for one in (sharded, plain)]
        rows = [
            Row("weights", _largest(found, expected), 0 if not setup.on_gpu else VALUES),
            Row("weights that differ between the ranks", _differing(ranks, found), 0),
            Row("part of the optimizer's state on rank 0", states[0] / states[1], 0.75),
        ]
    return Findings(rows)


# --------------------------------------------------------------------------------------------------
# Learners, batches and comparisons
# --------------------------------------------------------------------------------------------------
def _learner(config: str, options: Sequence[str], ranks: Ranks) -> Learner:
    cfg = get_config(config, options)
    paddle.seed(0)
    learner = build_learner(cfg, Model(cfg), ranks, _BATCH, steps_per_epoch=100)
    learner.begin_epoch(0)
    return learner


def _step(learner: Learner, step: int) -> float:
    """Make a step on this process's part of the batch, and return the loss of the whole batch."""
    rng = np.random.default_rng(step)
    images = rng.standard_normal((_BATCH, 3, 32, 32), dtype=np.float32)
    labels = rng.integers(10, size=_BATCH)
    part = slice(learner.ranks.rank, None, learner.ranks.world)
    return train_step(
        learner, paddle.to_tensor(images[part]), paddle.to_tensor(labels[part]), step
    ).loss


def _weights(learner: Learner) -> dict[str, np.ndarray]:
    named = learner.model.named_parameters()
    return {name: p.numpy() for name, p in named if not name.endswith(STATISTICS)}


def _statistics(learner: Learner) -> dict[str, np.ndarray]:
    named = learner.model.named_parameters()
    return {name: p.numpy() for name, p in named if name.endswith(STATISTICS)}


def _state(learner: Learner) -> list[Any]:
    state = learner.optimizer.state_dict()
    return [value for value in state.values() if isinstance(value, paddle.Tensor)]


def _largest(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """The largest difference of a tensor, of its largest value."""
    errors = [np.abs(found[n] - a).max() / max(np.abs(a).max(), 1e-30) for n, a in expected.items()]
    return float(np.max(errors))


def _of_updates(
    found: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray],
) -> float:
    """The largest difference, of the largest change that the steps have made to any weight."""
    moved = np.max([np.abs(array - before[name]).max() for name, array in expected.items()])
    return float(np.max([np.abs(found[n] - a).max() for n, a in expected.items()]) / moved)


def _differing(ranks: Ranks, own: Mapping[str, np.ndarray]) -> int:
    """Number of values whose bits differ from rank 0's on any rank."""
    parts = ranks.gather(own)
    return sum(
        int((part[name].view(np.uint32) != array.view(np.uint32)).sum())
        for part in parts[1:]
        for name, array in parts[0].items()
    )
