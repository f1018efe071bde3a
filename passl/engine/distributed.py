"""The processes of a run. One process takes the same path as many, with operations that do nothing.

Processes are started from outside (`python -m paddle.distributed.launch`); they talk over NCCL on
GPUs and Gloo on CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import distributed as dist
from paddle import nn

from passl.utils.errors import ConfigError, RunError

STATISTICS = ("._mean", "._variance")
"""How the names of BatchNorm's running statistics end."""


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and log lines for all."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add up each number over the ranks, in double precision."""
        if self.world == 1:
            return list(values)
        total = paddle.to_tensor(np.asarray(values, dtype=np.float64))
        dist.all_reduce(total)  # SUM; Gloo has no average
        return total.tolist()

    def mean(self, value: float) -> float:
        """The mean of the ranks' values."""
        return self.sum([value])[0] / self.world

    def any(self, value: object) -> bool:
        """Whether the value is true on any rank."""
        return self.sum([float(bool(value))])[0] > 0

    def wrap(self, model: nn.Layer) -> nn.Layer:
        """The model as training calls it: gradients are averaged over the ranks, weights start as
        rank 0 has them.
        """
        return model if self.world == 1 else paddle.DataParallel(model)

    def synchronised(self, wrapped: nn.Layer, last: bool) -> AbstractContextManager:
        """The context of one forward and backward pass. Gradients of several passes add up, and are
        averaged over the ranks with the last.
        """
        return nullcontext() if self.world == 1 or last else wrapped.no_sync()

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """The array of every rank, in order of rank. The lengths may differ."""
        if self.world == 1:
            return [array]
        found: list[np.ndarray] = []
        dist.all_gather_object(found, array)
        return found

    def average_statistics(self, state: Mapping[str, Any]) -> None:
        """Give every rank the mean of the ranks' BatchNorm statistics, which DataParallel leaves
        apart.

        Args:
            state: tensors by name, of which those of BatchNorm are changed.
        """
        if self.world == 1:
            return
        for name, statistic in state.items():
            if name.endswith(STATISTICS):
                dist.all_reduce(statistic)
                statistic.set_value(statistic / self.world)

    def check_same(self, model: nn.Layer, step: int) -> None:
        """Stop the run if the ranks' weights have drifted apart. Running statistics may differ.

        Raises:
            RunError: a parameter differs; it is named.
        """
        if self.world == 1:
            return
        names, sums = [], []
        for name, parameter in model.named_parameters():
            if not name.endswith(STATISTICS):
                weights = parameter.numpy().astype(np.float64)
                names.append(name)
                sums.append([weights.sum(), np.abs(weights).sum(), np.square(weights).sum()])
        own = paddle.to_tensor(np.asarray(sums))
        highest, lowest = own.clone(), own.clone()
        dist.all_reduce(highest, op=dist.ReduceOp.MAX)
        dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
        # Updates of the same gradients may round differently on different processors.
        far = (highest - lowest).numpy().max(1) > 1e-6 * own.numpy()[:, 1] + 1e-12
        if not far.any() and np.isfinite(sums).all():
            return
        name = names[int(np.argmax(far))] if far.any() else names[0]
        raise RunError(
            f"the {self.world} processes no longer have the same weights after step {step}: "
            f"{name} differs (rank {self.rank}); the last checkpoint is kept. Go on from it by "
            "--resume auto, and look for a process with other software, data or a broken device"
        )

    def wait(self) -> None:
        """Wait for the others."""
        if self.world > 1:
            dist.barrier()


def start(device: str) -> Ranks:
    """Choose the device and join the other processes, if there are any.

    Args:
        device: `auto` (a GPU if there is one), `cpu` or `gpu`.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if device == "gpu" and not has_gpu:
        raise ConfigError(
            "device: gpu, but this machine has none that paddle can use; set device to cpu or auto"
        )
    world = dist.get_world_size()
    if device == "cpu" or not has_gpu:
        paddle.set_device("cpu")
    else:
        paddle.set_device(f"gpu:{dist.ParallelEnv().device_id}")
    if world > 1:
        dist.init_parallel_env()
    return Ranks(dist.get_rank(), world)
