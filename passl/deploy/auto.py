"""The fastest installed engine for an exported network, found by measuring once.

Each engine is measured in a process of its own, so that no library stays in this one. What was
found is kept in the cache folder, by network, versions, processor, threads and batch size.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import passl
from passl.deploy.engines import ENGINES, TOLERANCE, load_engine
from passl.deploy.exported import DESCRIPTION, read_folder
from passl.errors import RunError
from passl.io.files import cache_folder, to_json, write_text
from passl.logging import get_logger
from passl.machine import processor, versions

_PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "onnxruntime", "openvino")
_SECONDS = 0.5
"""Time of the runs of an engine that are measured, after two that are not."""
_TIMEOUT = 120
"""Seconds that an engine may take to load and run."""
_AGREEMENT = {"fp32": TOLERANCE, "bf16": 2**-5}
"""Largest difference of the logits of two engines, relative to the largest: rounding."""


@dataclass(frozen=True)
class Choice:
    """What was found for a network.

    Args:
        engine: the fastest.
        milliseconds: of a batch, the fastest run of each engine.
        left_out: engines that did not take part, and why.
        folder, precision, threads, batch: of the measurement.
        measured: when.
    """

    engine: str
    milliseconds: Mapping[str, float]
    left_out: Mapping[str, str]
    folder: str
    precision: str
    threads: int
    batch: int
    measured: str

    def __str__(self) -> str:
        each = [f"{name} {ms:.3g} ms" for name, ms in self.milliseconds.items()]
        each += [f"{name} left out: {reason}" for name, reason in self.left_out.items()]
        return (
            f"{self.folder} ({self.precision}, batch {self.batch}, {self.threads} threads): "
            f"{self.engine} ({'; '.join(each)})"
        )


def choose_engine(
    folder: Path, precision: str, threads: int, batch: int, allow_imports: bool = False
) -> Choice:
    """Return the fastest engine for a network, from the cache if it is known.

    An engine takes part if it is installed, has its files in the folder and computes in that
    precision; and it wins only if its logits agree with those of the first one in the order of
    `ENGINES`. int8 is onnxruntime's, with which the scores of the folder were measured.

    Args:
        folder: an exported folder.
        precision, threads: checked by `engines.check_engine`.
        batch: images that are computed together.

    Raises:
        ConfigError: as `read_folder`.
        RunError: no engine can run the network.
    """
    folder = folder.absolute()
    description = read_folder(folder, (), allow_imports)
    if precision == "int8":
        return Choice("onnxruntime", {}, {}, str(folder), precision, threads, batch, "")
    path = _cached_at(folder, precision, threads, batch)
    known = _read(path)
    if known is not None:
        return known
    candidates = [
        name
        for name in installed()
        if precision in ENGINES[name].files
        and all((folder / file).is_file() for file in ENGINES[name].files[precision])
    ]
    get_logger().info("measuring %s once for %s", ", ".join(candidates), folder)
    milliseconds: dict[str, float] = {}
    left_out: dict[str, str] = {}
    reference: np.ndarray | None = None
    for name in candidates:
        try:
            spent, logits = _measure(folder, name, precision, threads, batch, description.input)
        except RunError as error:
            left_out[name] = str(error)
            continue
        reference = logits if reference is None else reference
        difference = np.abs(logits - reference).max() / max(np.abs(reference).max(), 1e-6)
        if not difference <= _AGREEMENT[precision]:
            left_out[name] = f"its logits differ by {difference:.1e} of the largest"
            continue
        milliseconds[name] = spent
    for name, reason in left_out.items():
        get_logger().warning("engine %s is left out: %s", name, reason)
    if not milliseconds:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise RunError(f"{folder}: no engine can run it ({reasons or 'none is installed for it'})")
    fastest = min(milliseconds, key=milliseconds.__getitem__)
    today = time.strftime("%Y-%m-%d")
    options = (str(folder), precision, threads, batch, today)
    choice = Choice(fastest, milliseconds, left_out, *options)
    get_logger().info("engine: %s", choice)
    _write(path, choice)
    return choice


def known_choices() -> list[Choice]:
    """Everything that is in the cache, by folder."""
    found = [_read(path) for path in sorted((cache_folder() / "engines").glob("*.json"))]
    return sorted(filter(None, found), key=lambda choice: (choice.folder, choice.batch))


def installed() -> Sequence[str]:
    """The engines that are installed."""
    return [
        name for name, kind in ENGINES.items() if importlib.util.find_spec(kind.module) is not None
    ]


# --------------------------------------------------------------------------------------------------
# Cache
# --------------------------------------------------------------------------------------------------
def _cached_at(folder: Path, precision: str, threads: int, batch: int) -> Path:
    """The file of a choice. Its name changes with everything that speed or logits depend on."""
    known = {
        "network": hashlib.sha256((folder / DESCRIPTION).read_bytes()).hexdigest(),
        "files": sorted(path.name for path in folder.iterdir()),
        "versions": {"passl": passl.__version__, **versions(_PACKAGES)},
        "processor": processor(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "options": [precision, threads, batch],
    }
    key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:24]
    return cache_folder() / "engines" / f"{key}.json"


def _read(path: Path) -> Choice | None:
    try:
        choice = Choice(**json.loads(path.read_text(encoding="utf-8")))
        str(choice)
    except (OSError, ValueError, TypeError, AttributeError):  # none, or damaged: measured again
        return None
    return choice if choice.engine in ENGINES else None


def _write(path: Path, choice: Choice) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, to_json(asdict(choice), indent=1) + "\n")
    except OSError as error:
        get_logger().warning("the choice of an engine is not kept: %s: %s", path, error.strerror)


# --------------------------------------------------------------------------------------------------
# Measurement
# --------------------------------------------------------------------------------------------------
def _measure(
    folder: Path, name: str, precision: str, threads: int, batch: int, shape: Sequence[int]
) -> tuple[float, np.ndarray]:
    """Milliseconds of a batch, and its logits, by an engine in a process of its own."""
    task = [str(folder), name, precision, threads, batch, list(shape)]
    root = str(Path(passl.__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "logits.npy"
        try:
            done = subprocess.run(
                [sys.executable, "-m", "passl.deploy.auto", json.dumps(task), str(out)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
            if done.returncode:
                lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
                raise RunError(lines[-1] if lines else f"it ended with {done.returncode}")
            return float(done.stdout.splitlines()[-1]), np.load(out, allow_pickle=False)
        except subprocess.TimeoutExpired:
            raise RunError(f"it took more than {_TIMEOUT} s") from None
        except (OSError, ValueError, IndexError) as error:
            raise RunError(f"it cannot be measured: {error}") from None


def time_engine(run: Any, images: np.ndarray, seconds: float = _SECONDS) -> float:
    """Milliseconds of the fastest run: other load of a machine only ever slows."""
    for _ in range(2):  # the first are slower
        run(images)
    spent: list[float] = []
    while len(spent) < 3 or sum(spent) < seconds:
        start = time.perf_counter()
        run(images)
        spent.append(time.perf_counter() - start)
    return 1000 * min(spent)


def _main(task: str, out: str) -> None:
    folder, name, precision, threads, batch, shape = json.loads(task)
    run = load_engine(Path(folder), name, precision, threads)
    images = np.random.default_rng(0).standard_normal([batch, *shape], dtype=np.float32)
    np.save(out, run(images))
    sys.stdout.write(f"\n{time_engine(run, images)}\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
