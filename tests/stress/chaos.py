"""Kill training runs and go on with them: python tests/stress/chaos.py --kills 50 --seed 0

Tiny networks train on the digits with everything that is random. Each run is killed by SIGKILL, or
stopped by SIGTERM or SIGINT, several times, at moments that the seed decides: after a time, during
evaluation, and before or after each step of writing a file. In the end it must equal the run that
was never killed, bit for bit. The exit code is 1 if one does not.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout needs no installation

from passl.cli.dispatch import run, run_command

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "tools" / "train.py"
STARTED = "steps an epoch"
"""In the last line of the log before the first epoch."""
SPEED = ("time", "ips", "ips_per_rank", "bound_by", "slowest_rank")
"""Of a row of metrics, beside its costs."""
SECONDS = 120
"""In which a process must end, by itself or after a signal."""
ORPHANS = 12.0
"""Seconds in which the workers of a killed process must end."""

# --------------------------------------------------------------------------------------------------
# The process that dies
# --------------------------------------------------------------------------------------------------
DIE = "CHAOS_DIE"
"""Environment variable of the victim, COUNT:before or COUNT:after: it is killed before or after the
COUNT-th call that changes files on the disk.
"""


def victim(arguments: list[str]) -> None:
    """`tools/train.py` with those arguments, a transform that spoils images, and a kill."""
    import numpy as np

    from passl.data import TRANSFORMS

    class Spoiled:
        """Replaces some images by infinities."""

        on_arrays = True

        def __init__(self, *, probability: float):
            self.probability = probability

        def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return image * np.float32("inf") if rng.random() < self.probability else image

    TRANSFORMS.register(Spoiled)
    if place := os.environ.get(DIE):
        count, _, when = place.partition(":")
        _die_at(int(count), when)
    sys.argv = [str(TRAIN), *arguments]
    run_command("train")


def _die_at(count: int, when: str) -> None:
    calls, main = 0, os.getpid()

    def deadly(name: str):
        call = getattr(os, name)

        def called(*arguments, **options):
            nonlocal calls
            calls += os.getpid() == main
            if calls == count and when == "before":
                die(arguments)
            result = call(*arguments, **options)
            if calls == count:
                die(arguments)
            return result

        def die(arguments) -> None:
            named = [Path(a).name for a in arguments if isinstance(a, str | os.PathLike)]
            target = next((n for n in reversed(named)), "")
            target = ".".join(part for part in target.split(".") if part and not part.isdecimal())
            os.write(2, f"dies {when} {name} {target}".strip().encode() + b"\n")
            os.kill(main, signal.SIGKILL)

        return called

    for name in ("fsync", "link", "replace"):
        setattr(os, name, deadly(name))


# --------------------------------------------------------------------------------------------------
# The runs
# --------------------------------------------------------------------------------------------------
ASYNCHRONOUS = {"interval": 7, "asynchronous": True}


def configs(epochs: int) -> dict[str, dict[str, object]]:
    """A small config of each network with everything random that recipes have, and one in which
    losses are not finite.
    """
    networks = {
        "ConViT": {
            "img_size": 32,
            "patch_size": 8,
            "embed_dim": 16,
            "depth": 2,
            "num_heads": 4,
            "local_up_to_layer": 1,
        },
        "CvT": {"embed_dim": [8, 12, 16], "depth": [1, 1, 1], "num_heads": [1, 2, 4]},
    }
    return {
        "ConViT": _config(
            "ConViT", networks["ConViT"], epochs, amp={"level": "O2", "dtype": "bfloat16"}
        ),
        "CvT": _config("CvT", networks["CvT"], epochs, checkpoint=ASYNCHRONOUS),
        "CvT, spoiled": _config(
            "CvT",
            networks["CvT"],
            epochs,
            [{"name": "Spoiled", "probability": 0.002}],
            on_nonfinite="skip",
            max_nonfinite=1000,
        ),
    }


def _config(name, network, epochs, transforms=(), **root) -> dict[str, object]:
    drops = {"drop_rate": 0.1, "drop_path_rate": 0.1}
    normalize = {"name": "Normalize"}
    augmented = [
        {"name": "RandomResizedCrop", "size": 32},
        {"name": "RandAugment", "policy": "rand-m9-mstd0.5-inc1"},
        normalize,
        {"name": "RandomErasing", "mode": "pixel"},
        *transforms,
    ]
    return {
        "epochs": epochs,
        "model": {
            "architecture": {"name": name, **drops, **network},
            "head": {"name": "ClsHead", "num_classes": 10, "in_channels": 16},
        },
        "dataloader": {
            "train": {
                "dataset": {"name": "Digits", "split": "train", "transforms": augmented},
                "sampler": {"batch_size": 128, "shuffle": True, "drop_last": True, "repeats": 3},
                "loader": {"num_workers": 2},
                "mixup": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
            },
            "val": {
                "dataset": {"name": "Digits", "split": "val", "transforms": [normalize]},
                "sampler": {"batch_size": 16},
            },
        },
        "loss": {"name": "CrossEntropy", "label_smoothing": 0.1},
        "lr_scheduler": {"name": "Cosine", "warmup_epochs": 1},
        "optimizer": {"name": "AdamW", "lr": 2e-3},
        "ema": {"decay": 0.9},
        "checkpoint": {"interval": 7},  # an epoch has 11 steps
        "log_config": {"interval": 2},
        **root,
    }


@dataclass(frozen=True)
class Attempt:
    """How one process of a run ends.

    Args:
        kind: `time`, `evaluation` or `write`.
        number: the signal.
        to_group: whether its workers get the signal too, as from Slurm and a terminal.
        fraction: the moment, as a fraction of the time; of `write`, of the calls.
        when: `before` or `after` a call that writes.
    """

    kind: str
    number: signal.Signals
    to_group: bool
    fraction: float
    when: str

    @classmethod
    def draw(cls, rng: random.Random) -> "Attempt":
        kind = rng.choice(["time", "time", "evaluation", "write", "write"])
        is_stop = kind != "write" and rng.random() < 0.3
        number = rng.choice([signal.SIGTERM, signal.SIGINT]) if is_stop else signal.SIGKILL
        to_group = is_stop and rng.random() < 0.5
        return cls(kind, number, to_group, rng.random(), rng.choice(["before", "after"]))


@dataclass
class Family:
    """One config, and the results of its runs."""

    name: str
    config: Path
    straight: Path
    start_up: float = 0.0
    seconds: float = 0.0
    phases: Counter = field(default_factory=Counter)
    runs: int = 0
    slowest_stop: float = 0.0
    differences: list[str] = field(default_factory=list)


class Process:
    """A run's process, in a process group of its own; its output goes to `log`."""

    def __init__(self, family: Family, folder: Path, log: Path, place: str | None = None):
        command = [sys.executable, "-W", "ignore", __file__, "victim", "-c", family.config]
        command += ["--resume", "auto", "-o", f"output_dir={folder}"]
        self.folder, self.log = folder, log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env=os.environ | ({DIE: place} if place else {}),
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, condition) -> bool:
        """Wait until the condition holds; false if the process ends before."""
        while not condition():
            if self.process.poll() is not None:
                return False
            time.sleep(0.002)
        return True

    def started(self) -> bool:
        return self.wait_for(lambda: STARTED in self.text())

    def wait(self) -> int:
        try:
            return self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def phase(self) -> str:
        """What it is doing, from what it has written."""
        text = self.text()
        if STARTED not in text:
            return "start-up"
        if any(self.folder.glob(".last*.tmp")):
            return "saving"
        lines = [line for line in text.splitlines() if "[Train]" in line or "[Eval]" in line]
        if not lines:
            return "first steps"
        return "evaluation" if "[Iter: 11/11]" in lines[-1] else "steps"

    def members(self) -> list[int]:
        """The processes of its group that live."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.process.pid and state != "Z":
                    found.append(int(stat.parent.name))
        return found

    def orphans(self) -> int:
        """How many workers do not end by themselves, after which they are ended."""
        end = time.monotonic() + ORPHANS
        while (left := self.members()) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(left)


def run_straight(family: Family) -> None:
    """The run that nobody kills, and its times."""
    from passl.errors import RunError

    begin = time.monotonic()
    process = Process(family, family.straight, family.straight.with_suffix(".log"))
    process.started()
    family.start_up = time.monotonic() - begin
    if process.wait() != 0:
        raise RunError(f"{family.name} does not even run:\n{process.text()}")
    family.seconds = time.monotonic() - begin - family.start_up


def end(family: Family, folder: Path, attempt: Attempt) -> bool:
    """Start the run, or go on with it, and end it so. False if it has come to its own end."""
    place = f"{1 + int(40 * attempt.fraction)}:{attempt.when}" if attempt.kind == "write" else None
    process = Process(family, folder, folder.with_suffix(".log"), place)
    if attempt.kind == "write":
        code = process.wait()
        lines = [line for line in process.text().splitlines() if line.startswith("dies ")]
        if lines:
            family.phases[lines[-1].removeprefix("dies ")] += 1
        return _ended(family, process, attempt, code, "in writing")
    if attempt.kind == "evaluation":
        process.wait_for(lambda: process.phase() == "evaluation")
        time.sleep(0.05 * attempt.fraction)
    elif attempt.fraction < 0.1:
        time.sleep(10 * attempt.fraction * family.start_up)
    else:
        process.started()
        time.sleep((attempt.fraction - 0.1) * 0.6 * family.seconds)
    if process.process.poll() is None:
        phase = process.phase()
        begin = time.monotonic()
        with suppress(ProcessLookupError):
            (os.killpg if attempt.to_group else os.kill)(process.process.pid, attempt.number)
        code = process.wait()
        if code == 75:
            family.slowest_stop = max(family.slowest_stop, time.monotonic() - begin)
        if code != 0:
            whom = " to all" if attempt.to_group else ""
            family.phases[f"{phase}: {attempt.number.name}{whom}"] += 1
    else:
        phase, code = "after the end", process.wait()
    return _ended(family, process, attempt, code, phase)


def _ended(family: Family, process: Process, attempt: Attempt, code: int, phase: str) -> bool:
    allowed = {0, -attempt.number}
    if attempt.number != signal.SIGKILL:
        # Where nothing is lost yet, it may end as any program does.
        allowed = {0, 75, *((-attempt.number, 130) if phase == "start-up" else ())}
    if code not in allowed:
        family.differences.append(
            f"{attempt} in {phase}: exit code {code}:\n{process.text()[-3000:]}"
        )
    if left := process.orphans():
        family.differences.append(f"{attempt} in {phase}: {left} workers are left")
    return code != 0


def differences(ours: Path, theirs: Path) -> list[str]:
    """The differences between two finished runs."""
    import numpy as np

    from passl.engine.checkpoint import read_checkpoint
    from passl.engine.metrics import read_metrics

    found = []
    for name in ("last.safetensors", "best.safetensors"):
        stored, straight = (read_checkpoint(folder / name) for folder in (ours, theirs))
        arrays, expected = stored.arrays, straight.arrays
        progress, expected_progress = stored.metadata["progress"], straight.metadata["progress"]
        if progress != expected_progress:
            found.append(f"{name}: {progress}, straight {expected_progress}")
        if arrays.keys() != expected.keys():
            found.append(f"{name}: other arrays")
        found += [
            f"{name}: {key}"
            for key in arrays.keys() & expected.keys()
            if not np.array_equal(arrays[key], expected[key])
        ]
    read_checkpoint(ours / "previous.safetensors")
    rows, straight = (
        [
            {k: v for k, v in row.items() if k not in SPEED and not k.endswith("_cost")}
            for row in read_metrics(folder)
        ]
        for folder in (ours, theirs)
    )
    if rows != straight:
        other = [pair for pair in zip(rows, straight, strict=False) if pair[0] != pair[1]]
        found.append(f"metrics.jsonl: {len(rows)} rows, straight {len(straight)}: {other[:1]}")
    if len({(row["phase"], row["step"]) for row in rows}) != len(rows):
        found.append("metrics.jsonl: a step comes twice")
    left = [path.name for path in ours.iterdir() if path.suffix == ".tmp"]
    return found + [f"{name} is left" for name in left]


# --------------------------------------------------------------------------------------------------
# The program
# --------------------------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description="Kill training runs and go on with them.")
    parser.add_argument("--kills", type=int, default=50, help="over all runs (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments (default: 0)")
    parser.add_argument("--epochs", type=int, default=8, help="of a run (default: 8)")
    parser.add_argument("--folder", type=Path, help="for the runs, kept (default: a temporary one)")
    args = parser.parse_args()
    if args.folder is not None:
        return chaos(args.kills, args.seed, args.epochs, args.folder)
    with tempfile.TemporaryDirectory() as folder:
        return chaos(args.kills, args.seed, args.epochs, Path(folder))


def chaos(kills: int, seed: int, epochs: int, folder: Path) -> None:
    """Run all attempts, and print the table."""
    from passl.errors import RunError
    from passl.utils.yaml import to_yaml

    rng = random.Random(seed)
    families = []
    for number, (name, config) in enumerate(configs(epochs).items()):
        place = folder / str(number)
        place.mkdir(parents=True)
        path = place / "config.yaml"
        path.write_text(to_yaml(config | {"output_dir": str(place / "straight")}))
        families.append(Family(name, path, place / "straight"))
    for number, family in enumerate(families):
        left = kills // len(families) + (number < kills % len(families))
        if left:
            run_straight(family)
        while left:
            place = family.config.parent / f"killed_{family.runs}"
            for _ in range(rng.randint(3, 8)):
                if not left or not end(family, place, Attempt.draw(rng)):
                    break
                left -= 1
            last = Process(family, place, place.with_suffix(".log"))
            if last.wait() != 0:
                family.differences.append(f"{place}: not resumed:\n{last.text()[-3000:]}")
            else:
                found = differences(place, family.straight)
                family.differences += [f"{place}: {one}" for one in found]
            family.runs += 1
        _print(family)
    if any(family.differences for family in families):
        raise RunError("runs that were killed differ from runs that were not")


def _print(family: Family) -> None:
    print(
        f"{family.name}: {family.phases.total()} kills in {family.runs} runs, "
        f"{len(family.differences)} differences; slowest stop {family.slowest_stop:.1f} s",
        flush=True,
    )
    for phase, count in sorted(family.phases.items()):
        print(f"  {count:3d}  {phase}", flush=True)
    for difference in family.differences:
        print(f"  DIFFERS  {difference}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["victim"]:
        victim(sys.argv[2:])
    else:
        run(main)
