"""End one rank of a run, and see that the others end too: python tests/stress/ranks.py --faults 40

Two to four ranks train a tiny network on the digits, started by our launcher, by Paddle's or by
mpirun. At a moment that the seed decides, in a step, an evaluation, a checkpoint, at the start or
at the end, one of them is killed, stopped (SIGSTOP) or cut off from the network, its main thread
hangs, or its loader's worker is stopped. Then every process must end within LIMIT, a message must
name the rank, and shared memory must be empty. The resumed run must equal a run without a fault,
bit for bit. The exit code is 1 if one does not.

Cutting a rank off needs root and `ip` of iproute2: each machine is a network namespace.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a checkout needs no installation

from passl.cli.dispatch import run_command  # noqa: E402
from tests.stress.chaos import configs, differences  # noqa: E402

FAULT = "STRESS_FAULT"
"""Environment variable of the ranks: RANK:PLACE:COUNT:KIND."""
PLACES = ("start", "step", "evaluation", "checkpoint", "end")
KINDS = ("kill", "stop", "hang", "worker", "cut")
SILENCE, LATE = 4.0, 6.0
"""Seconds until a silent rank, and a loader's worker that is stopped, end the run."""
LIMIT = 60.0
"""Seconds in which every process must be gone: Gloo gives up on a step after 30, a launcher ends
what is left after some more.
"""
SILENT = ("paddle", "start", "kill")
"""The fault that nobody reports: Paddle's launcher ends the others, which know no rank so far."""
SHARED_MEMORY = Path("/dev/shm")
HOSTS = ("passl-stress-1", "passl-stress-2")


# --------------------------------------------------------------------------------------------------
# A rank
# --------------------------------------------------------------------------------------------------
def rank(arguments: list[str]) -> None:
    """`tools/train.py` with those arguments, and the fault."""
    number, place, count, kind = os.environ.get(FAULT, "-1:::").split(":")
    if os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PADDLE_TRAINER_ID")) == number:
        _arm(place, int(count), kind)
    sys.argv = [str(ROOT / "tools" / "train.py"), *arguments]
    run_command("train")


def _arm(place: str, count: int, kind: str) -> None:
    """Let the fault happen when the place is reached for the COUNT-th time."""
    from passl.distributed import liveness
    from passl.engine import saver, train

    def before(module: Any, name: str) -> None:
        call, calls = getattr(module, name), 0

        def called(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == count:
                _happen(kind)
            return call(*given, **named)

        setattr(module, name, called)

    if place == "start":
        before(liveness.Liveness, "meet")
    elif place == "end":
        before(liveness.Liveness, "leave")
    elif place == "step":
        before(train, "train_step")
    elif place == "evaluation":
        before(train, "predict")
    else:
        before(saver.Saver, "save")


def _happen(kind: str) -> None:
    from passl.data import workers

    print("FAULT", flush=True)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "hang":
        time.sleep(10 * LIMIT)
    elif kind == "worker":
        for reading in list(workers._READINGS):
            for worker in reading._workers:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGSTOP)
    else:
        subprocess.run(["ip", "link", "set", "stress0", "down"], check=True)


# --------------------------------------------------------------------------------------------------
# Runs
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        starter: `launch`, `paddle`, `mpirun`, or `machines` for our launcher on two hosts.
        world: number of ranks.
        rank: the one that has the fault.
        place: one of PLACES.
        count: how often the rank reaches the place, with the fault at the last time.
        kind: one of KINDS.
    """

    starter: str
    world: int
    rank: int
    place: str
    count: int
    kind: str

    @classmethod
    def draw(cls, rng: random.Random, starters: list[str]) -> Fault:
        starter = rng.choice(starters)
        world = 2 if starter == "machines" else rng.randint(2, 4)
        kind = rng.choice(KINDS[:4]) if starter != "machines" else "cut"
        place = rng.choice(PLACES if kind in ("kill", "stop") else PLACES[1:4])
        count = {"step": 12, "evaluation": 3, "checkpoint": 4}.get(place, 1)
        # Only a rank on the second host can take its own network away.
        number = 1 if kind == "cut" else rng.randrange(world)
        return cls(starter, world, number, place, rng.randint(1, count), kind)

    def __str__(self) -> str:
        return (
            f"{self.starter} x {self.world}: rank {self.rank} {self.kind} in {self.place} "
            f"{self.count}"
        )


def commands(fault: Fault, config: Path, folder: Path, logs: Path) -> list[list[str]]:
    """The command that starts the run on each host."""
    train = [str(Path(__file__).resolve()), "rank", "-c", str(config), "--resume", "auto"]
    train += ["-o", f"output_dir={folder}"]
    if fault.starter == "mpirun":
        call = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(fault.world)]
        return [[*call, sys.executable, *train]]
    if fault.starter == "paddle":
        call = [sys.executable, "-m", "paddle.distributed.launch", "--log_dir", str(logs)]
        return [[*call, "--nproc_per_node", str(fault.world), *train]]
    machines = len(HOSTS) if fault.starter == "machines" else 1
    launch = [sys.executable, "-c", LAUNCH, str(logs), str(machines), str(fault.world // machines)]
    return [[*launch, str(machine), sys.executable, *train] for machine in range(machines)]


LAUNCH = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from passl.distributed.launcher import Job, launch
logs, machines, processes, machine, *command = sys.argv[1:]
job = Job(command, int(processes), Path(logs), int(machines), int(machine), grace=15.0,
          master="10.77.0.1:29500" if int(machines) > 1 else None)
sys.exit(launch(job))
"""


def run(fault: Fault, config: Path, folder: Path, armed: bool) -> tuple[list[int], float, str]:
    """Exit codes of the starters, seconds from the fault to the end, and all output."""
    logs = folder.with_suffix(".logs")
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE_", "CUDA_"))}
    environment |= {"PYTHONWARNINGS": "ignore"}
    if armed:
        environment[FAULT] = f"{fault.rank}:{fault.place}:{fault.count}:{fault.kind}"
    processes = []
    for host, command in enumerate(commands(fault, config, folder, logs)):
        inside = ["ip", "netns", "exec", HOSTS[host]] if fault.starter == "machines" else []
        with (logs / f"console_{host}").open("wb") as stream:
            processes.append(
                subprocess.Popen(
                    [*inside, *command],
                    stdout=stream,
                    stderr=stream,
                    env=environment,
                    cwd=logs,
                    start_new_session=True,
                )
            )
    happened, end = None, time.monotonic() + 240
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        time.sleep(0.05)
        if armed and happened is None and "FAULT" in output_of(logs):
            happened = time.monotonic()
            end = happened + LIMIT
    codes = [-1 if process.poll() is None else process.returncode for process in processes]
    seconds = time.monotonic() - (happened or end)
    return codes, seconds, output_of(logs)


def output_of(logs: Path) -> str:
    return "\n".join(p.read_text(errors="replace") for p in sorted(logs.rglob("*")) if p.is_file())


def alive(folder: Path) -> list[int]:
    """Processes of a run, by their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"output_dir={folder}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def judge(fault: Fault, config: Path, straight: Path, folder: Path) -> list[str]:
    """What is wrong with the run after the fault, and with its resume."""
    before = set(SHARED_MEMORY.iterdir())
    codes, seconds, text = run(fault, config, folder, True)
    if "FAULT" not in text:
        return [f"the fault did not happen: {text[-2000:]}"]
    wrong = []
    end = time.monotonic() + 5.0  # a loader's worker looks each second whether its parent lives
    while (left := alive(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    if left or -1 in codes:
        wrong.append(
            f"{len(left)} processes are left {seconds:.0f} s after the fault: {text[-3000:]}"
        )
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if fault.kind != "worker" and fault.place != "end" and 0 in codes:
        wrong.append(f"exit codes {codes}")
    # By another rank, by a launcher, or by the ranks that wait for it at the start.
    name = rf"rank {fault.rank} (on|\(process|with PID|has not joined)|waiting for rank 0"
    named = re.search(name, text) or (fault.starter, fault.place, fault.kind) == SILENT
    if any(codes) and fault.kind != "worker" and not named:
        wrong.append(f"no message names rank {fault.rank}: {text[-3000:]}")
    if fault.kind == "worker" and any(codes) and "loader workers" not in text:
        wrong.append(f"no message names the worker: {text[-3000:]}")
    _mend()
    codes, _, text = run(fault, config, folder, False)
    if any(codes):
        return [*wrong, f"not resumed, exit codes {codes}: {text[-3000:]}"]
    wrong += differences(folder, straight)
    wrong += [f"{path} is left" for path in set(SHARED_MEMORY.iterdir()) - before]
    fault_seconds.append(seconds)
    return wrong


fault_seconds: list[float] = []
"""Of each fault: seconds until all processes had ended."""


# --------------------------------------------------------------------------------------------------
# Hosts
# --------------------------------------------------------------------------------------------------
def make_hosts() -> bool:
    """Make two connected network namespaces; false where that is not allowed."""
    remove_hosts()
    first, second = HOSTS
    calls = [f"ip netns add {host}" for host in HOSTS]
    calls += [f"ip -n {host} link set lo up" for host in HOSTS]
    calls += [f"ip link add stress0 netns {first} type veth peer name stress0 netns {second}"]
    for number, host in enumerate(HOSTS, 1):
        calls += [f"ip -n {host} addr add 10.77.0.{number}/24 dev stress0"]
        calls += [f"ip -n {host} link set stress0 up"]
    try:
        for call in calls:
            subprocess.run(call.split(), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        remove_hosts()
        return False
    return True


def remove_hosts() -> None:
    for host in HOSTS:
        with suppress(OSError):
            subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)


def _mend() -> None:
    for host in HOSTS:
        with suppress(OSError):
            subprocess.run(
                ["ip", "-n", host, "link", "set", "stress0", "up"], capture_output=True, check=False
            )


# --------------------------------------------------------------------------------------------------
# The program
# --------------------------------------------------------------------------------------------------
def main() -> int:
    parser = argparse.ArgumentParser(description="End one rank of a run, see the others end.")
    parser.add_argument("--faults", type=int, default=40, help="(default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments (default: 0)")
    args = parser.parse_args()
    _take_own_shared_memory()
    from passl.utils.yaml import to_yaml

    starters = ["launch", "paddle"]
    starters += ["mpirun"] if shutil.which("mpirun") else []
    starters += ["machines"] if make_hosts() else []
    missing = {"mpirun", "machines"} - set(starters)
    if missing:
        print(f"left out, because this machine cannot: {', '.join(sorted(missing))}")
    rng, seen, failures = random.Random(args.seed), Counter(), 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = folder / "config.yaml"
        config.write_text(to_yaml(_config()))
        straight: dict[tuple[str, int], Path] = {}
        try:
            for number in range(args.faults):
                fault = Fault.draw(rng, starters)
                if fault.world not in straight:
                    path = straight[fault.world] = folder / f"straight_{fault.world}"
                    codes, _, text = run(replace(fault, starter="launch"), config, path, False)
                    if any(codes):
                        print(f"the run without a fault fails: {text[-3000:]}")
                        return 1
                run_folder = folder / f"run_{number}"
                wrong = judge(fault, config, straight[fault.world], run_folder)
                seen[f"{fault.starter}: {fault.kind} in {fault.place}"] += 1
                took = f"{fault_seconds[-1]:.1f} s" if not wrong else "WRONG"
                print(f"{number + 1:3d}  {fault}: {took}", flush=True)
                for one in wrong:
                    failures += 1
                    print(f"     {one}", flush=True)
                if not wrong:
                    shutil.rmtree(run_folder)
        finally:
            remove_hosts()
    for what, count in sorted(seen.items()):
        print(f"  {count:3d}  {what}")
    if fault_seconds:
        print(f"{args.faults} faults, {failures} wrong; all gone in {max(fault_seconds):.1f} s")
    return int(failures > 0)


def _take_own_shared_memory() -> None:
    """Start this program again with a /dev/shm of its own, so that all files there are ours."""
    if os.environ.setdefault("STRESS_MOUNT", "outside") == "inside" or os.geteuid() != 0:
        return
    mount = 'mount -t tmpfs -o size=2g tmpfs /dev/shm && exec "$@"'
    own = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode == 0:
        os.environ["STRESS_MOUNT"] = "inside"
        os.execvp(own[0], [*own, sys.executable, *sys.argv])


def _config() -> dict[str, Any]:
    """A run of a few seconds, with all that is random in a recipe."""
    config = configs(3)["CvT"]
    config["dataloader"]["train"]["sampler"]["batch_size"] = 60
    config["dataloader"]["train"]["loader"] = {"num_workers": 1, "warn_after": 2.0, "timeout": LATE}
    config["dataloader"]["val"]["loader"] = {"num_workers": 1, "warn_after": 2.0, "timeout": LATE}
    return config | {"timeouts": {"silence": SILENCE, "join": 40.0, "wait": 30.0}}


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        rank(sys.argv[2:])
    else:
        sys.exit(main())
