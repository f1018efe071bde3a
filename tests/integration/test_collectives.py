"""What processes tell each other, between two of them on the loopback."""

from __future__ import annotations

import json

import pytest

from passl.distributed.launcher import free_port
from passl.modeling import Model
from passl.optim.parameters import trainable
from passl.utils.config import get_config

GATHER = r"""
import pickle
import numpy as np
from passl.distributed import ranks as distributed
from passl.evaluation.predictions import Predictions

def no_pickle(*args, **kwargs):
    raise AssertionError("something was pickled")

pickle.loads = pickle.load = pickle.Unpickler = no_pickle
distributed._CHUNK = 7  # of the names and arrays below each takes several

def arrays_of(rank):
    return {
        "b": np.arange(10 * rank, dtype=np.int64).reshape(2 * rank, 5),  # empty on rank 0
        "a": np.float32([1e-45, -0.0, np.inf]) + rank,
        "yes": np.array([True, False]),
        "one": np.array(7.5 * rank),
        "columns": np.arange(6.0).reshape(2, 3).T,
        "beta1_pow_acc_0": np.full([1], 0.9, np.float32),
    }

for rank, found in enumerate(ranks.gather(arrays_of(ranks.rank))):
    expected = arrays_of(rank)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(found[name], array)
        np.testing.assert_array_equal(np.signbit(found[name]), np.signbit(array))

found = ranks.gather(arrays_of(ranks.rank), to_all=False)
assert [sorted(part) for part in found] == [sorted(arrays_of(0))] * 2 * ranks.is_first
assert not found or found[1]["one"] == 7.5

names = [["z.png", "caf\udce9.png", '"\n\\', "图"], []]
assert ranks.gather_texts(names[ranks.rank]) == names

# Samples 4, 0, 2 and 1, 3: in the dataset's order, each with its own row.
own = np.array([[4, 0, 2], [1, 3]][ranks.rank])
rows = own.repeat(2).reshape(-1, 2)
part = Predictions(own, own + 10, rows, np.float32(rows), np.float32(own) / 7, 1.5)
whole = part.of_all(ranks)
assert whole.indices.tolist() == [0, 1, 2, 3, 4]
assert whole.labels.tolist() == [10, 11, 12, 13, 14]
assert whole.classes.tolist() == [[i, i] for i in range(5)]
assert (whole.probabilities.dtype, whole.losses.dtype) == (np.float32, np.float32)
np.testing.assert_array_equal(whole.losses, np.arange(5, dtype=np.float32) / 7)
"""


def test_gathered_without_pickle(run_ranks):
    run_ranks(GATHER)


TIMES = r"""
import numpy as np
import paddle
from passl.engine.throughput import RankTimes

# Rank 1 waits less for the others.
own = {"reader": 1.0 + ranks.rank, "copy": 0.0, "compute": 3.0, "comm": 2.0 - ranks.rank}
split = RankTimes(own, ranks).split()
assert (split.rank, split.imbalance, split.world) == (1, 0.5, 2)
assert split.seconds == {"reader": 2.0, "copy": 0.0, "compute": 3.0, "comm": 1.0}

# What is timed as communication is the averaging of gradients, all of it.
layer, seen = paddle.nn.Linear(3, 2), {"begin": [], "end": []}
layer.bias.stop_gradient = True
def noted(name):
    original = getattr(ranks.times, f"{name}_communicating")
    def call():
        seen[name].append(None if layer.weight.grad is None else layer.weight.grad.numpy())
        original()
    setattr(ranks.times, f"{name}_communicating", call)
noted("begin"), noted("end")
wrapped = ranks.wrap(layer)
ranks.times.take()
images = paddle.full([1, 3], float(1 + ranks.rank))
with ranks.times.computing():
    with wrapped.no_sync():
        wrapped(images).sum().backward()
    wrapped(images).sum().backward()
for name, expected in {"begin": 2.0 * (1 + ranks.rank), "end": 3.0}.items():
    assert len(seen[name]) == 2  # one parameter is trained, in two backward passes
    assert (seen[name][1] == expected).all(), (name, seen)
spent = ranks.times.take()
assert spent["comm"] > 0 and spent["compute"] > 0
"""


def test_times_of_ranks_and_of_gradients(run_ranks):
    run_ranks(TIMES)


def test_a_benchmark_of_two_processes(fork_tool, tiny_config):
    place = {"PADDLE_MASTER": f"127.0.0.1:{free_port()}", "PADDLE_TRAINERS_NUM": "2"}
    ranks = [{**place, "PADDLE_TRAINER_ID": str(rank)} for rank in range(2)]
    path = tiny_config()
    few = ["-o", "dataloader.train.sampler.batch_size=8"]
    first, other = fork_tool("train.py", [path, "--benchmark", 3, "--json", *few], ranks)
    found = json.loads(first.splitlines()[-1])
    assert "{" not in other
    assert (found["world"], len(found["ranks"]), found["steps"]) == (2, 2, 3)
    assert found["samples_per_second"] == 2 * found["samples_per_second_per_rank"]
    model = Model(get_config(path))
    assert found["gradient_bytes"] == 4 * sum(p.size for _, p in trainable(model))
    assert found["bus_bytes_per_second"] == pytest.approx(
        found["gradient_bytes"] / (found["all_reduce_ms"]["median"] / 1000)
    )
    for row in found["ranks"]:
        assert sum(row["parts_ms"].values()) == pytest.approx(row["step_ms"])
        assert row["parts_ms"]["comm"] > 0
    slowest = found["ranks"][found["slowest_rank"]]
    assert slowest["parts_ms"] == found["parts_ms"]
    assert slowest["parts_ms"]["comm"] == min(row["parts_ms"]["comm"] for row in found["ranks"])
    assert not path.with_name("run").exists()
