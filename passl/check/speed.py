"""Probes of speed: the published networks, the data pipeline, the kernels of attention."""

from __future__ import annotations

import gc
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.profiler import Profiler, ProfilerTarget

from passl.accelerate import accelerate
from passl.analysis.trace import Event, read_trace
from passl.check.findings import Findings, NotRun, Row, Setup
from passl.check.numerics import BF16, FP16, FP32, Format, has
from passl.check.photos import write_images
from passl.data.loader import build_loader
from passl.distributed.ranks import Ranks
from passl.engine.learner import build_learner
from passl.engine.precision import Precision
from passl.engine.step import train_step
from passl.errors import RunError, is_of_memory
from passl.machine import usable_processors
from passl.modeling import Model
from passl.utils.config import Config, get_config

_NETWORKS = {"ConViT-Ti": "convit/convit_tiny", "CvT-13": "cvt/cvt_13_224"}
_LARGEST = {"gpu": {224: 1024, 384: 512}, "cpu": {224: 8, 384: 4}}
"""Images of the first batch that is tried, by size. On a CPU, where a system may end a process
rather than refuse memory, it is one that fits.
"""
_KERNELS = re.compile(r"flash|fmha", re.IGNORECASE)
"""In the names of CUDA kernels of fused attention: flash attention's, and those of its memory
efficient sister in cuDNN and CUTLASS.
"""
_FLASH = "flash"
_READ = 16
"""Images of a batch of the data pipeline."""


def throughput_224(setup: Setup) -> Findings:
    """Training and inference at 224 x 224: images/s and memory, with the largest batch that fits,
    found by halving.
    """
    return _throughput(setup, 224)


def throughput_384(setup: Setup) -> Findings:
    """The same at 384 x 384."""
    return _throughput(setup, 384)


def _throughput(setup: Setup, size: int) -> Findings:
    rows: list[Row] = []
    for name, config in list(_NETWORKS.items())[: 1 if setup.quick else None]:
        kinds = [FP32, *(kind for kind in (FP16, BF16) if setup.on_gpu and has(setup, kind))]
        for kind in kinds:
            cfg = _config(config, size, kind)
            for task, build in (("training", _training), ("inference", _inference)):
                rows += _measured(f"{name}, {kind.name}, {task}", setup, cfg, build, size)
    return Findings(rows)


def _measured(what: str, setup: Setup, cfg: Config, build: Callable, size: int) -> Iterator[Row]:
    """Time and memory of the largest batch that fits."""
    batch = _LARGEST[setup.device][size] // (4 if setup.quick else 1)
    while True:
        try:
            seconds, memory = _time(build(cfg, batch, size, setup), setup)
            break
        except (MemoryError, RuntimeError) as error:
            if not is_of_memory(error):
                raise
        batch //= 2
        if not batch:
            raise RunError(f"{what}: not even one image fits into memory")
        gc.collect()
        paddle.device.cuda.empty_cache()
    yield Row(f"{what}: throughput", batch / seconds, unit="images/s", note=f"batch {batch}")
    yield Row(f"{what}: memory", memory, unit="MiB")


def _time(step: Callable[[], float], setup: Setup) -> tuple[float, float]:
    """Median seconds of a step, which returns a number that must be finite, and the most memory."""
    warmup, repeats = (1, 2) if setup.quick or not setup.on_gpu else (5, 20)
    spent = []
    if setup.on_gpu:
        paddle.device.cuda.reset_max_memory_allocated()
    for run in range(warmup + repeats):
        start = time.perf_counter()
        value = step()  # reads a number, so it waits for the device
        if not np.isfinite(value):
            raise RunError(f"a result is {value}")
        if run >= warmup:
            spent.append(time.perf_counter() - start)
    memory = paddle.device.cuda.max_memory_allocated() if setup.on_gpu else _resident()
    return statistics.median(spent), memory / 2**20


def _resident() -> int:
    """The most memory of this process so far, in bytes; 0 where it is unknown."""
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0  # not Linux
    found = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _config(name: str, size: int, kind: Format) -> Config:
    amp = f"{{level: O1, dtype: {kind.dtype}}}" if kind.dtype else "{level: O0}"
    options = [f"amp={amp}"]
    if name.startswith("convit"):
        options.append(f"model.architecture.img_size={size}")
    return get_config(name, options)


def _training(cfg: Config, batch: int, size: int, setup: Setup) -> Callable[[], float]:
    learner = build_learner(cfg, Model(cfg), Ranks(), batch, steps_per_epoch=1000)
    learner.begin_epoch(0)
    images = paddle.randn([batch, 3, size, size])
    labels = paddle.randint(0, learner.model.num_classes, [batch])
    steps = count()
    return lambda: train_step(learner, images, labels, next(steps)).loss


def _inference(cfg: Config, batch: int, size: int, setup: Setup) -> Callable[[], float]:
    model = accelerate(Model(cfg))
    model.eval()
    images = paddle.randn([batch, 3, size, size])
    precision = Precision(setup.on_gpu, **cfg.get("amp", {}))

    @paddle.no_grad()
    def step() -> float:
        with precision.autocast():
            return float(model(images).astype("float32").mean().item())

    return step


def data(setup: Setup) -> Findings:
    """Images a second of the training and the validation transforms of ConViT's recipe, on made-up
    photographs, in one process and in one worker per processor.
    """
    folder, workers = setup.folder / "images", usable_processors()
    write_images(folder, 16)
    for path in sorted(folder.rglob("*.jpg")):
        for copy in range(3 if setup.quick else 15):
            shutil.copyfile(path, path.with_stem(f"{path.stem}_{copy}"))
    rows = []
    for part in ("train", "val"):
        for number in (0, workers):
            section = get_config("convit/convit_tiny").to_dict()["dataloader"][part]
            section["dataset"]["dataroot"] = str(folder)
            section["sampler"]["batch_size"] = _READ
            section["loader"] = {"num_workers": number}
            where = f"{number} workers" if number else "this process"
            rows.append(Row(f"{part}, {where}", _rate(section), unit="images/s"))
    return Findings(rows)


def _rate(section: dict[str, Any]) -> float:
    """Images a second of an epoch, after a first batch, for which processes start."""
    loader = build_loader(section, 0, even=True)
    batches, read, start = loader.epoch(0), 0, 0.0
    for number, batch in enumerate(batches):
        if not np.isfinite(batch.images.numpy()).all():
            raise RunError("an image has values that are not finite")
        if number == 0:
            start = time.perf_counter()
        else:
            read += len(batch.images)
    return read / (time.perf_counter() - start)


def flash(setup: Setup) -> Findings:
    """The attention kernels of a forward and backward pass, by the profiler: flash attention is
    reached in float16 and in bfloat16. On a CPU there is none; the operators are listed.
    """
    kinds = [kind for kind in (FP16, BF16) if setup.on_gpu and has(setup, kind)]
    if setup.on_gpu and not has(setup, BF16):
        raise NotRun("Paddle's flash attention needs compute capability 8.0")
    rows = []
    for name, config in _NETWORKS.items():
        for kind in [FP32, *kinds]:
            events = _profiled(config, kind, setup)
            names = attention_kernels(events)
            shown = ", ".join(names) or "none"
            what = f"{name}, {kind.name}"
            if kind is FP32:
                rows.append(Row(f"{what}: fused kernels of attention", shown))
            else:
                missing = not any(_FLASH in kernel.lower() for kernel in names)
                rows.append(Row(f"{what}: flash attention is missed", missing, 0, note=shown))
    return Findings(rows)


def attention_kernels(events: Sequence[Event]) -> list[str]:
    """The names of the CUDA kernels of fused attention among the events of a trace, without their
    template arguments.
    """
    found = {event.name for event in events if event.kind == "Kernel"}
    names = {re.sub(r"^void |<.*", "", name) for name in found if _KERNELS.search(name)}
    return sorted(names)


def _profiled(config: str, kind: Format, setup: Setup) -> list[Event]:
    """The events of a training step."""
    step = _training(_config(config, 224, kind), 2 if setup.on_gpu else 1, 224, setup)
    step()
    devices = [ProfilerTarget.CPU] + [ProfilerTarget.GPU] * setup.on_gpu
    profiler = Profiler(targets=devices, on_trace_ready=lambda _: None)
    profiler.start()
    step()
    profiler.stop()
    out = setup.folder / "trace.json"
    profiler.export(str(out), "json")
    return read_trace(out)
