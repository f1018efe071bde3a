"""Measure a server beside the predictor that it runs, on loopback:
python benchmarks/serve.py EXPORTED --engine onnxruntime

Both sides get the same files and take turns. Wall time depends on the other load of the machine,
which is printed; process time (of all threads) less so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.speed import rounded, summary  # noqa: E402
from passl.check.photos import write_images  # noqa: E402
from passl.cli.dispatch import run  # noqa: E402
from passl.cli.options import as_path, at_least  # noqa: E402
from passl.deploy import Predictor  # noqa: E402
from passl.errors import RunError  # noqa: E402
from passl.logging import aligned  # noqa: E402
from passl.machine import processor, versions  # noqa: E402

NAME = "measured"
FILES = 32
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure a server. The last line on stdout is the result as JSON."
    )
    parser.add_argument("folder", type=as_path, help="what `passl export` wrote")
    parser.add_argument("--engine", default="paddle", help="paddle, onnxruntime or openvino")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--threads", type=at_least(1), default=1, help="of both sides (1)")
    parser.add_argument(
        "--clients", type=at_least(1), nargs="+", default=[1, 8, 64], help="at once (1 8 64)"
    )
    parser.add_argument("--rounds", type=at_least(2), default=5, help="of each measurement (5)")
    parser.add_argument(
        "--requests", type=at_least(1), default=5000, help="to watch the memory with (5000)"
    )
    parser.add_argument(
        "--images-per-request", type=at_least(1), default=1, help="sent as a form if several (1)"
    )
    parser.add_argument(
        "--round-seconds", type=at_least(0.1, float), default=3, help="of a round, about (3)"
    )
    parser.add_argument(
        "--files", type=as_path, nargs="+", help=f"images (default: {FILES} made ones)"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server ends too
    with tempfile.TemporaryDirectory() as folder:
        files = [str(file) for file in args.files or made_files(args.folder, Path(folder))]
        with Offline(args, files) as offline, serving(args) as server:
            result = measure(args, files, offline, server)
    machine = {"processor": processor(), "versions": versions(["paddlepaddle", "numpy", "uvicorn"])}
    options = {key: getattr(args, key) for key in ("engine", "precision", "threads")}
    print(json.dumps({"folder": str(args.folder), **options, **machine, **result}))


def made_files(exported: Path, folder: Path) -> list[Path]:
    """JPEG files as large as what users send: ImageNet's, or no larger than a small network's
    input.
    """
    from PIL import Image

    write_images(folder, FILES)
    height, width = json.loads((exported / "passl.json").read_text())["input"][1:]
    files = sorted(folder.glob("*/*.jpg"))
    if max(height, width) < 128:
        for file in files:
            Image.open(file).resize((width, height)).save(file, quality=95)
    return files


# --------------------------------------------------------------------------------------------------
# The two sides, and who asks
# --------------------------------------------------------------------------------------------------
class Spent(NamedTuple):
    """What some images have cost.

    Args:
        images: their number.
        seconds: of the wall clock.
        cpu_seconds: of the process that has computed them.
        others: processors that other processes have used meanwhile.
    """

    images: int
    seconds: float
    cpu_seconds: float
    others: float


class Offline:
    """A process with a predictor, which waits while the server is measured."""

    def __init__(self, args: argparse.Namespace, files: Sequence[str]):
        task = {
            "folder": str(args.folder),
            "options": [args.engine, args.precision, args.threads],
            "files": files,
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--offline", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(args.threads),
            text=True,
        )

    def predict(self, images: int) -> Spent:
        with busy(self._process.pid) as usage:
            self._process.stdin.write(f"{images}\n")
            self._process.stdin.flush()
            if not self._process.stdout.readline():
                raise RunError("the predictor has ended; its message is above")
        return Spent(images, **usage)

    def __enter__(self) -> Offline:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def predict_offline(task: Mapping[str, Any]) -> None:
    """Predict so many files as each line of stdin says, and answer by a line."""
    predictor = Predictor(task["folder"], *task["options"])
    contents = [Path(file).read_bytes() for file in task["files"]]
    for line in sys.stdin:
        count = int(line)
        predictor.top([contents[number % len(contents)] for number in range(count)])
        print("done", flush=True)


class Server(NamedTuple):
    """A server that runs.

    Args:
        pid: of its process.
        port: on loopback.
        each: images of a request.
    """

    pid: int
    port: int
    each: int

    @property
    def memory(self) -> float:
        """MiB that are resident."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def ask(
        self, files: Sequence[str], count: int, clients: int, rate: float | None = None
    ) -> tuple[Spent, list[list[Any]], float]:
        """Send so many images from a process of its own.

        Args:
            rate: requests per second, see `benchmarks.load.Load`.

        Returns:
            what they have cost, the answers (see `benchmarks.load.run`), and the seconds of
            processor time of that process.

        Raises:
            RunError: an answer is no success.
        """
        task = {
            **{"host": "127.0.0.1", "port": self.port, "path": f"/v1/models/{NAME}:predict"},
            **{"files": files, "each": self.each, "clients": clients, "rate": rate},
            "count": -(-count // self.each),
        }
        load = [sys.executable, str(ROOT / "benchmarks" / "load.py"), json.dumps(task)]
        with busy(self.pid) as usage:
            done = subprocess.run(load, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(f"the clients have failed: {done.stderr.strip().splitlines()[-1]}")
        found = json.loads(done.stdout)
        wrong = [answer for answer in found["answers"] if answer[1] != 200]
        if wrong:
            raise RunError(f"{len(wrong)} requests failed; the first: {wrong[0]}")
        usage["seconds"] = found["seconds"]  # without the start of that process
        usage["others"] -= found["cpu_seconds"] / found["seconds"]
        images = len(found["answers"]) * self.each
        return Spent(images, **usage), found["answers"], found["cpu_seconds"]


@contextmanager
def serving(args: argparse.Namespace) -> Iterator[Server]:
    command = [sys.executable, "-m", "passl", "serve", f"{NAME}={args.folder}", "--port", "0"]
    command += ["--engine", args.engine, "--precision", args.precision]
    command += ["--threads", str(args.threads), "--max-connections", "1024", "--timeout", "600"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**environment(args.threads), "PYTHONPATH": str(ROOT)},
        text=True,
    )
    try:
        lines = []
        while not (found := re.search(r"http://127.0.0.1:(\d+)", lines[-1] if lines else "")):
            lines.append(process.stderr.readline())
            if not lines[-1]:
                raise RunError(f"the server does not start: {''.join(lines).strip()}")
        yield Server(process.pid, int(found[1]), args.images_per_request)
    finally:
        process.terminate()
        process.communicate()


def environment(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **{name: str(threads) for name in names}}


@contextmanager
def busy(pid: int) -> Iterator[dict[str, float]]:
    """What a process and the others use meanwhile; see `Spent`."""
    usage: dict[str, float] = {}
    start, own, every = time.perf_counter(), cpu_seconds(pid), machine_seconds()
    yield usage
    usage["seconds"] = time.perf_counter() - start
    usage["cpu_seconds"] = cpu_seconds(pid) - own
    others = machine_seconds() - every - usage["cpu_seconds"]
    usage["others"] = others / usage["seconds"]


def cpu_seconds(pid: int) -> float:
    """Processor time of the threads of a process, in finer steps than /proc/PID/stat has."""
    spent = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(text.split()[0]) for text in spent) / 1e9


def machine_seconds() -> float:
    """Processor time that was used on this machine."""
    user, nice, system, _, _, irq, softirq = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / TICKS


# --------------------------------------------------------------------------------------------------
# Measurements
# --------------------------------------------------------------------------------------------------
def measure(
    args: argparse.Namespace, files: Sequence[str], offline: Offline, server: Server
) -> dict[str, Any]:
    count = max(round(args.round_seconds * offline_rate(offline)), 2 * FILES)
    print(f"{args.folder}: {args.engine}, {args.precision}, {args.threads} thread(s)")
    print(f"rounds of {count} images; median (low to high)\n")
    server.ask(files, 2 * FILES, max(args.clients))  # the first of each size are slow
    rows = {
        str(clients): throughput(args, files, offline, server, clients, count)
        for clients in args.clients
    }
    print(table(rows))
    most = rows[str(max(args.clients))]
    half_rate = most["rate"]["median"] / server.each / 2
    half = at_half_load(args, files, server, half_rate, count)
    growth, answers = memory_growth(args, files, server)
    wrong = differences(args, files, answers)
    return {"throughput": rows, "half_load": half, **growth, **wrong}


def offline_rate(offline: Offline) -> float:
    offline.predict(FILES)  # the first batch is slow
    spent = offline.predict(2 * FILES)
    return spent.images / spent.seconds


def throughput(
    args: argparse.Namespace,
    files: Sequence[str],
    offline: Offline,
    server: Server,
    clients: int,
    count: int,
) -> dict[str, Any]:
    """Images per second and processor time of both sides, in turns; and the latencies."""
    own = max(count // (4 if clients == 1 else 1), FILES)
    alone, served, asked, latencies = [], [], [], []
    for _ in range(args.rounds):
        alone.append(offline.predict(own))
        spent, answers, load = server.ask(files, own, clients)
        served.append(spent)
        asked.append(load)
        latencies += [seconds for _, _, seconds, _ in answers]
    pairs = list(zip(served, alone, strict=True))
    return {
        "rate": summary([s.images / s.seconds for s in served]),
        "offline_rate": summary([a.images / a.seconds for a in alone]),
        "ratio": summary([s.images / s.seconds / (a.images / a.seconds) for s, a in pairs]),
        "cpu_ratio": summary(
            [a.cpu_seconds / a.images / (s.cpu_seconds / s.images) for s, a in pairs]
        ),
        "cpu_ms": summary([1000 * s.cpu_seconds / s.images for s in served]),
        "offline_cpu_ms": summary([1000 * a.cpu_seconds / a.images for a in alone]),
        "client_cpu_ms": summary(
            [1000 * load / s.images for load, s in zip(asked, served, strict=True)]
        ),
        "p50_ms": rounded(1000 * statistics.median(latencies)),
        "p99_ms": rounded(1000 * percentile(latencies, 99)),
        "other_processors": rounded(statistics.mean(s.others for s in [*served, *alone])),
    }


def at_half_load(
    args: argparse.Namespace,
    files: Sequence[str],
    server: Server,
    rate: float,
    count: int,
) -> dict[str, Any]:
    """Latencies of requests that come at random times, half as many as can be answered, in turns
    with those of one client.
    """
    clients = min(64, max(2, int(2 * rate)))  # a connection is closed after 5 s without a request
    alone, half, others = [], [], []
    for _ in range(args.rounds):
        spent, answers, _ = server.ask(files, max(count // 2, FILES), clients, rate)
        half += [seconds for _, _, seconds, _ in answers]
        others.append(spent.others)
        _, answers, _ = server.ask(files, FILES, 1)
        alone += [seconds for _, _, seconds, _ in answers]
    p50, p99 = (1000 * percentile(alone, p) for p in (50, 99))
    found = {
        "rate": rounded(rate),
        "p50_ms": rounded(1000 * statistics.median(half)),
        "p99_ms": rounded(1000 * percentile(half, 99)),
        "unloaded_p50_ms": rounded(p50),
        "unloaded_p99_ms": rounded(p99),
        "other_processors": rounded(statistics.mean(others)),
    }
    found["p99_over_unloaded_p50"] = rounded(found["p99_ms"] / p50)
    found["p99_over_unloaded_p99"] = rounded(found["p99_ms"] / p99)
    print(
        f"\nhalf load, {rate:.4g} requests/s at random times: p50 {found['p50_ms']} ms, p99 "
        f"{found['p99_ms']} ms; one client: p50 {p50:.4g} ms, p99 {p99:.4g} ms; p99 over those: "
        f"{found['p99_over_unloaded_p50']} and {found['p99_over_unloaded_p99']}; other processes "
        f"used {found['other_processors']} processors"
    )
    return found


def memory_growth(
    args: argparse.Namespace, files: Sequence[str], server: Server
) -> tuple[dict[str, Any], list[list[Any]]]:
    """Memory of the server after each tenth of many requests, and all answers."""
    part, clients = max(args.requests // 10, 1), max(args.clients)
    memory, every = [server.memory], []
    for _ in range(10):
        _, answers, _ = server.ask(files, part * server.each, clients)
        memory.append(server.memory)
        every += answers
    shown = " ".join(f"{value:.1f}" for value in memory)
    print(f"\nMiB of the server after each {part} requests of {clients} clients: {shown}")
    return {"memory_mib": [rounded(value) for value in memory], "memory_step": part}, every


def differences(
    args: argparse.Namespace, files: Sequence[str], answers: Sequence[list[Any]]
) -> dict[str, Any]:
    """How far answers are from what the predictor gives for each image alone.

    Raises:
        RunError: an answer has other classes than the predictor's, but for ties.
    """
    predictor = Predictor(args.folder, args.engine, args.precision, args.threads)
    expected = predictor.predict(files, batch_size=1)
    largest = 0.0
    for index, _, _, text in answers:
        for place, prediction in enumerate(json.loads(text)["predictions"]):
            row = expected[(index + place) % len(files)]
            for rank, best in enumerate(prediction["best"]):
                own, ranked = float(row[best["label"]]), float(sorted(row, reverse=True)[rank])
                largest = max(largest, abs(best["probability"] - own), abs(ranked - own))
    print(f"{len(answers)} answers differ from the predictor's by at most {largest:.1e}")
    if largest > 1e-4 and args.precision == "fp32":
        raise RunError(f"answers differ from the predictor's by {largest:.1e}")
    return {"answers": len(answers), "largest_difference": rounded(largest)}


def percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    def span(value: Mapping[str, float]) -> str:
        return f"{value['median']} ({value['low']} to {value['high']})"

    head = ("clients", "images/s", "over offline", "process time over offline's", "process ms")
    cells = [
        (
            clients,
            span(row["rate"]),
            span(row["ratio"]),
            span(row["cpu_ratio"]),
            f"{row['cpu_ms']['median']} (offline {row['offline_cpu_ms']['median']}, "
            f"client {row['client_cpu_ms']['median']})",
            f"{row['p50_ms']}, {row['p99_ms']}",
            str(row["other_processors"]),
        )
        for clients, row in rows.items()
    ]
    return "\n".join(aligned([(*head, "p50, p99 ms", "other processors"), *cells]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--offline"]:
        predict_offline(json.loads(sys.argv[2]))
    else:
        run(main)
