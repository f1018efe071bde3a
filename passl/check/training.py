"""Probes of training: mixed precision beside float32, and a run that is stopped and resumed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from safetensors.numpy import load_file

from passl.check.findings import Findings, Row, Setup
from passl.check.numerics import BF16, FP16, FP32, Format, has
from passl.data.loader import build_loader
from passl.distributed.ranks import Ranks
from passl.engine.check import check_config
from passl.engine.learner import build_learner
from passl.engine.metrics import read_metrics
from passl.engine.step import train_step
from passl.engine.train import train
from passl.errors import RunError, Stopped
from passl.modeling import Model
from passl.utils.config import get_config

_LAST = 10
"""Steps at the end whose mean loss is compared."""
_LEAST_FALL = 0.9
"""Of float32's fall of the loss, what mixed precision must reach: a convention. Runs in float32
with other seeds differ by less, a lost gradient or a wrong loss scale by much more.
"""
_SHOWN = 8
"""Lines of the table of losses."""
_LOGGED = ("phase", "step", "epoch", "lr", "loss", "top1", "top5")
"""What two equal runs write to their log; the rest are times."""


def curves(setup: Setup) -> Findings:
    """Losses of the first steps on the digits with O1 and O2 beside those of float32, from the same
    weights and batches.
    """
    steps = 40 if setup.quick else 60
    rows: list[Row] = []
    formats = [kind for kind in (FP16, BF16) if has(setup, kind)]
    columns: dict[str, list[float]] = {}
    for name in ("convit",) if setup.quick else ("convit", "cvt"):
        exact = columns[f"{name} float32"] = losses(setup, name, FP32, "O0", steps)
        for kind in formats:
            for level in ("O1", "O2"):
                what = f"{name} {kind.name} {level}"
                columns[what] = losses(setup, name, kind, level, steps)
                rows += compared(what, columns[what], exact)
    places = np.unique(np.linspace(0, steps - 1, _SHOWN).astype(int))
    table: list[list[Any]] = [["step", *columns]]
    table += [[int(i) + 1, *(round(curve[i], 4) for curve in columns.values())] for i in places]
    return Findings(rows, table)


def losses(setup: Setup, name: str, kind: Format, level: str, steps: int) -> list[float]:
    """Losses of the first steps of a shipped config of the digits."""
    options = [
        "lr_scheduler={name: Constant}",
        "optimizer.lr=1e-3",
        "model.architecture.drop_path_rate=0.0",
    ]
    if kind.dtype:
        options.append(f"amp={{level: {level}, dtype: {kind.dtype}}}")
    cfg = get_config(f"digits/{name}", options)
    section = cfg.to_dict()["dataloader"]["train"]
    section["loader"] = {**section.get("loader", {}), "num_workers": 0}
    loader = build_loader(section, 0, even=True)
    paddle.seed(0)
    batch = section["sampler"]["batch_size"]
    learner = build_learner(cfg, Model(cfg), Ranks(), batch, len(loader))
    learner.begin_epoch(0)
    batches = (batch for epoch in count() for batch in loader.epoch(epoch))
    return [
        train_step(learner, batch.images, batch.labels, step).loss
        for step, batch in enumerate(islice(batches, steps))
    ]


def compared(what: str, found: Sequence[float], exact: Sequence[float]) -> list[Row]:
    """Rows of a curve beside that of float32."""
    last = min(_LAST, len(exact) // 3)
    ends = [float(np.mean(curve[-last:])) for curve in (found, exact)]
    falls = [curve[0] - end for curve, end in zip((found, exact), ends, strict=True)]
    note = f"mean loss of the last {last} steps {ends[0]:.4f}, in float32 {ends[1]:.4f}"
    lost = 1 - falls[0] / falls[1]
    apart = float(np.abs(np.subtract(found, exact)).max())
    return [
        Row(f"{what}: losses that are not finite", int((~np.isfinite(found)).sum()), 0),
        Row(f"{what}: part of the fall that is missing", lost, 1 - _LEAST_FALL, note=note),
        Row(f"{what}: largest difference of a loss", apart),
    ]


def resume(setup: Setup) -> Findings:
    """A run that is stopped by SIGTERM and resumed, against one that is not: weights, optimizer's
    state and logged losses, bit for bit, with `deterministic: true`.
    """
    straight, stopped = setup.folder / "straight", setup.folder / "stopped"
    train(_config(setup, straight))
    with suppress(Stopped), _SigtermAfter(stopped):
        train(_config(setup, stopped))
        raise RunError("the run ended before it was stopped; nothing was compared")
    done = max(row["step"] for row in read_metrics(stopped))
    train(_config(setup, stopped), "auto")
    last = [load_file(folder / "last.safetensors") for folder in (straight, stopped)]
    logs = [
        [{key: row.get(key) for key in _LOGGED} for row in read_metrics(folder)]
        for folder in (straight, stopped)
    ]
    return Findings(
        [
            Row("tensors that one checkpoint lacks", len(last[0].keys() ^ last[1].keys()), 0),
            Row("values whose bits differ", _differing(*last), 0, note=f"stopped at step {done}"),
            Row("rows of the log that differ", _unequal(*logs), 0, note=f"{len(logs[0])} rows"),
        ]
    )


def _config(setup: Setup, folder: Path):
    cfg = get_config(
        "digits/cvt",
        [
            f"output_dir={folder}",
            f"device={setup.device}",
            "deterministic=true",
            "epochs=2",
            "lr_scheduler.warmup_epochs=1",
            f"dataloader.train.dataset.fraction={0.2 if setup.quick else 0.5}",
            "dataloader.val.dataset.fraction=0.2",
            "dataloader.train.loader={num_workers: 0}",
            "dataloader.val.loader={num_workers: 0}",
            "log_config={interval: 1}",
        ],
    )
    check_config(cfg)
    return cfg


class _SigtermAfter:
    """A context that sends this process SIGTERM once a run in it has logged a step, as a scheduler
    does that needs the machine.
    """

    def __init__(self, folder: Path, poll: float = 0.002):
        self._folder, self._poll, self._is_over = folder, poll, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        log = self._folder / "metrics.jsonl"
        while not self._is_over.wait(self._poll):
            if log.is_file() and log.stat().st_size:
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _differing(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> int:
    """Number of bytes of shared tensors that differ."""
    pairs = [(ours[name], theirs[name]) for name in ours.keys() & theirs.keys()]
    return sum(
        a.size if a.shape != b.shape else int((a.view(np.uint8) != b.view(np.uint8)).sum())
        for a, b in ((np.atleast_1d(a), np.atleast_1d(b)) for a, b in pairs)
    )


def _unequal(ours: list[dict], theirs: list[dict]) -> int:
    return abs(len(ours) - len(theirs)) + sum(a != b for a, b in zip(ours, theirs, strict=False))
