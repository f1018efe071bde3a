"""How long training waits for a checkpoint, with and without checkpoint.asynchronous:
python benchmarks/saving.py -c configs/convit/convit_base.yaml --rounds 5

The state is that of a network with its optimizer, as after some steps. Each round saves it once in
each way. What training waits for is the time in `save`, by the wall and in the thread's own
processor time. The last line on stdout is the result as JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation

from passl.cli.options import add_config_options, as_path, at_least, read_config
from passl.errors import ConfigError

WAYS = {"while training waits": False, "asynchronous": True}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how long training waits for checkpoints.")
    add_config_options(parser)
    parser.add_argument("--rounds", type=at_least(1), default=5, help="default: 5")
    parser.add_argument("--folder", type=as_path, help="to write to (default: a temporary one)")
    args = parser.parse_args()
    if args.folder is not None and not args.folder.is_dir():
        raise ConfigError(f"--folder: {args.folder} is not a folder; make it first")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(json.dumps(measure(read_config(args), Path(folder), args.rounds)))


def measure(cfg, folder: Path, rounds: int) -> dict[str, object]:
    """Seconds of every round, and the size of the checkpoint."""
    from passl.engine.metrics import MetricLog
    from passl.engine.progress import Progress
    from passl.engine.saver import Saver

    learner = learner_of(cfg)
    seconds: dict[str, dict[str, list[float]]] = {
        way: {"wait": [], "processor": [], "written": []} for way in WAYS
    }
    with closing(MetricLog(None)) as metrics:
        savers = {
            way: Saver(folder, learner, metrics, cfg.to_dict(), ["a"], asynchronous=asynchronous)
            for way, asynchronous in WAYS.items()
        }
        for number in range(1 + rounds):  # the first round is not counted
            for way, saver in savers.items():
                begin, own = time.perf_counter(), time.thread_time()
                saver.save(Progress(step=number))
                wait, processor = time.perf_counter() - begin, time.thread_time() - own
                saver.wait()
                times = {"wait": wait, "processor": processor}
                times["written"] = time.perf_counter() - begin
                if number:
                    for name, value in times.items():
                        seconds[way][name].append(value)
    size = (folder / "last.safetensors").stat().st_size
    print(f"{size / 2**20:.0f} MiB, {rounds} rounds; median seconds (low to high)")
    for way, times in seconds.items():
        shown = [f"{name} {_range(values)}" for name, values in times.items()]
        print(f"{way + ':':22}{', '.join(shown)}")
    return {"benchmark": "saving", "bytes": size, "seconds": seconds}


def learner_of(cfg):
    """A learner with the optimizer's state, which is created in the first step otherwise."""
    from passl.distributed.ranks import start
    from passl.engine.learner import build_learner
    from passl.engine.optimizer_state import create_state
    from passl.modeling import Model

    cfg = cfg.filled(("model", "head", "num_classes"), 1000)
    ranks = start(cfg.get("device", "auto"))
    learner = build_learner(cfg, Model(cfg), ranks, global_batch=256, steps_per_epoch=1000)
    create_state(learner, learner.optimizer._parameter_list)
    return learner


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    from passl.cli.dispatch import run

    run(main)
