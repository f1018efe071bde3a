"""The ranks of a run, and what they compute together. One process runs the same code as many, with
operations that do nothing.

Processes are started from outside (`environment.py`); they talk over NCCL on GPUs and Gloo on CPUs.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
from paddle import distributed as dist
from paddle import nn
from safetensors import numpy as safetensors

from passl.distributed import environment
from passl.distributed.liveness import Liveness, Timeouts
from passl.errors import ConfigError, RunError, Stopped
from passl.logging import name_process
from passl.step_times import StepTimes

_SELECTED = "FLAGS_selected_gpus"
_FLAGS = re.compile(r"=+ Modified FLAGS detected =+\n(FLAGS\(.*\n)*=+\n")
_CHUNK = 2**26
"""Bytes of one broadcast: few enough for Gloo's 30 s."""
STATISTICS = ("._mean", "._variance")
"""Endings of the names of BatchNorm's running statistics."""


@dataclass(frozen=True)
class Ranks:
    """Which process this is, of how many. Used as a context: when this process fails, the others
    are told, and when another one is gone, this one raises a RunError that names it.

    Attributes:
        local_world: number of processes on this machine; null where it is unknown.
        times: what this process spends its time on.
    """

    rank: int = 0
    world: int = 1
    local_world: int | None = None
    liveness: Liveness | None = None
    times: StepTimes = field(default_factory=StepTimes, compare=False)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.liveness is None:
            return
        if error is None or isinstance(error, Stopped):
            self.liveness.leave()
            return
        cause = error
        if isinstance(error, Exception) and not isinstance(error, ConfigError | RunError):
            cause = self.liveness.explain(error)
        self.liveness.leave(cause)
        if cause is not error:
            raise cause from error

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and log lines for all."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add up each number over the ranks, in double precision."""
        if self.world == 1:
            return list(values)
        total = paddle.to_tensor(np.asarray(values, dtype=np.float64))
        return self.all_reduce(total).tolist()

    def all_reduce(self, tensor: Any) -> Any:
        """The tensor, added up over the ranks in place. On GPUs the host does not wait for it."""
        if self.world > 1:
            self._begin()
            with self.times.communicating():
                dist.all_reduce(tensor)  # SUM; Gloo has no average
        return tensor

    def any(self, value: object) -> bool:
        """Whether the value is true on any rank."""
        return self.sum([float(bool(value))])[0] > 0

    def wrap(self, model: nn.Layer) -> nn.Layer:
        """The model as training calls it: all ranks start from rank 0's weights, and gradients are
        averaged over the ranks. On a CPU that is timed.
        """
        if self.world == 1:
            return model
        trained = [p for p in model.parameters() if not p.stop_gradient]
        timed = [] if self.times.is_queued else trained
        # The hooks of a gradient are called in the order in which they are registered. Those that
        # DataParallel registers reduce gradients, and return when Gloo is done.
        for parameter in timed:
            parameter._register_backward_hook(self.times.begin_communicating)
        wrapped = paddle.DataParallel(model)
        for parameter in timed:
            parameter._register_backward_hook(self.times.end_communicating)
        return wrapped

    def synchronised(self, wrapped: nn.Layer, last: bool) -> AbstractContextManager:
        """The context of one forward and backward pass. Gradients of several passes are summed, and
        averaged over the ranks with the last.
        """
        return wrapped.no_sync() if self.world > 1 and not last else nullcontext()

    def gather(
        self, arrays: Mapping[str, np.ndarray], to_all: bool = True
    ) -> list[dict[str, np.ndarray]]:
        """The named arrays of every rank, in order of rank: numbers and booleans of any shape.

        Args:
            to_all: if false, only rank 0 gets them and the others, which must call this too, get an
                empty list: the arrays may be too large for all.
        """
        if self.world == 1:
            return [dict(arrays)]
        own = safetensors.save({name: np.asarray(a, order="C") for name, a in arrays.items()})
        parts = self._gather_bytes(own, to_all or self.is_first)
        return [safetensors.load(part) for part in parts]

    def gather_texts(self, texts: Sequence[str]) -> list[list[str]]:
        """The texts of every rank, in order of rank. Surrogate escapes, of file names that are not
        UTF-8, are kept.
        """
        own = json.dumps(list(texts)).encode()
        return [json.loads(part) for part in self._gather_bytes(own, True)]

    def _gather_bytes(self, own: bytes, is_kept: bool) -> list[bytes]:
        """The bytes of every rank, in order of rank; none if they are not kept. (Paddle's
        `all_gather_object` unpickles what it receives, so anyone who reaches the ranks' store could
        run code.)
        """
        if self.world == 1:
            return [own]
        sizes = self.sum([len(own) * (rank == self.rank) for rank in range(self.world)])
        found = []
        for rank, size in enumerate(map(int, sizes)):
            chunks = []
            for start in range(0, size, _CHUNK):
                chunk = np.zeros(min(_CHUNK, size - start), np.uint8)
                if rank == self.rank:
                    chunk[:] = np.frombuffer(own, np.uint8)[start : start + _CHUNK]
                tensor = paddle.to_tensor(chunk)
                dist.broadcast(tensor, rank)
                if is_kept:
                    chunks.append(tensor.numpy().tobytes())
            found.append(b"".join(chunks))
        return found if is_kept else []

    def average_statistics(self, state: Mapping[str, Any]) -> None:
        """Average BatchNorm's running statistics over the ranks, which DataParallel does not.

        Args:
            state: tensors by name; statistics among them are changed in place.
        """
        if self.world == 1:
            return
        for name, statistic in state.items():
            if name.endswith(STATISTICS):
                self.all_reduce(statistic)
                statistic.set_value(statistic / self.world)

    def check_same(self, model: nn.Layer, step: int) -> None:
        """Stop the run if the ranks' weights differ. Running statistics may.

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
        own = np.asarray(sums)
        bounds = paddle.to_tensor(np.stack([own, -own]))
        self._begin()
        with self.times.communicating():
            dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
        spread = bounds.numpy().sum(0).max(1)
        # Updates by the same gradients may round differently on different processors.
        near = (spread <= 1e-6 * own[:, 1] + 1e-12) & np.isfinite(own).all(1)
        if not near.all():
            name = names[int(np.argmin(near))]
            raise RunError(
                f"the {self.world} processes no longer have the same weights after step {step}: "
                f"{name} differs (rank {self.rank}); the last checkpoint is kept. Go on from it by "
                "--resume auto, and look for a process with other software, data or a broken device"
            )

    def _begin(self) -> None:
        """Count a collective operation, so that the others can name this rank if it does not come
        to one.
        """
        if self.liveness is not None:
            self.liveness.begun += 1

    def wait(self) -> None:
        """Wait for the others, up to `timeouts.wait`. Call it where they may be late, before a
        collective operation, on which Gloo gives up after 30 s.

        Raises:
            RunError: another rank is gone, has failed, or does not arrive in time.
        """
        if self.liveness is not None:
            self.liveness.wait()


def start(device: str, timeouts: Mapping[str, float] | None = None) -> Ranks:
    """Choose the device and join the other processes, if there are any.

    Args:
        device: `auto` (a GPU if there is one), `cpu` or `gpu`.
        timeouts: arguments of `Timeouts`; null for its defaults.

    Returns:
        The ranks, to be used as a context.

    Raises:
        ConfigError: a GPU is asked for and there is none, or not one for each process; or the
            environment does not say which process this is.
        RunError: another process listens where rank 0 must, or a process does not come.
    """
    place = environment.join(os.environ)
    environment.remove_environment_dumps(os.environ)
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if device == "gpu" and not gpus:
        raise ConfigError(
            "device: gpu, but this machine has none that paddle can use; set device to cpu or auto"
        )
    if device == "cpu" or not gpus:
        paddle.set_device("cpu")
        os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"  # a Paddle for GPUs would take NCCL
    else:
        gpu = gpu_of(place.local_rank, gpus, os.environ.get(_SELECTED, ""))
        os.environ[_SELECTED] = str(gpu)  # Paddle's engine reads it
        paddle.set_device(f"gpu:{gpu}")
    times = StepTimes(is_queued=paddle.get_device() != "cpu")
    if place.world == 1 or dist.is_initialized():
        return Ranks(place.rank, place.world, times=times)
    limits = Timeouts(**(timeouts or {}))
    address = environment.parse_address(environment.MASTER, os.environ[environment.MASTER])
    liveness = Liveness(place, address, limits)
    liveness.meet()
    is_spread = len(set(liveness.hosts.values())) > 1
    name_process(f"rank {place.rank}" + f" on {liveness.hosts[place.rank]}" * is_spread)
    if name := environment.interface_of(liveness.own_address):
        for variable in environment.INTERFACES:
            os.environ.setdefault(variable, name)
    # If one dies now: Paddle waits for it in compiled code that lets no other thread run.
    faulthandler.dump_traceback_later(limits.silence + 60, exit=True)
    with _without_flags():
        dist.init_parallel_env()
    faulthandler.cancel_dump_traceback_later()
    return Ranks(place.rank, place.world, place.local_world, liveness, times)


@contextmanager
def _without_flags() -> Iterator[None]:
    """Remove the list of changed flags from what Paddle writes to stderr."""
    written = io.StringIO()
    try:
        with redirect_stderr(written):
            yield
    finally:
        sys.stderr.write(_FLAGS.sub("", written.getvalue()))


def gpu_of(local_rank: int, gpus: int, selected: str = "") -> int:
    """The GPU of a process.

    Args:
        local_rank: index of the process on this machine, from 0.
        gpus: how many GPUs it can see. A single one is its own: Slurm may show each process just
            that.
        selected: value of FLAGS_selected_gpus: a GPU's number, or those of all processes of this
            machine in order of rank, separated by commas.

    Raises:
        ConfigError: there is no GPU for it, or `selected` is not such a list.
    """
    numbers = [number.strip() for number in selected.split(",")] if selected.strip() else []
    for number in numbers:
        if not number.isdecimal() or int(number) >= gpus:
            raise ConfigError(
                f"{_SELECTED}={selected}: {number!r} is not the number of a GPU, from 0 to "
                f"{gpus - 1}; unset it, and choose GPUs by CUDA_VISIBLE_DEVICES"
            )
    choice = [int(number) for number in numbers] or list(range(gpus))
    if len(choice) == 1:
        return choice[0]
    if local_rank >= len(choice):
        setting = f"; {_SELECTED}={selected}" if numbers else ""
        raise ConfigError(
            f"process {local_rank + 1} of this machine has no GPU, there are {len(choice)}"
            f"{setting}; start as many processes as GPUs, or set device to cpu"
        )
    return choice[local_rank]
