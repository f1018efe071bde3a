"""Training and evaluation in several processes, by every way to start them, on the loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from passl.engine.run_lock import RunLock
from tests.numerics import VALUES

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("dataloader.train.dataset.fraction=0.25", "dataloader.train.sampler.batch_size=16")
ONE_EPOCH = ("epochs=1", "lr_scheduler.warmup_epochs=0", *SMALL)


@pytest.fixture
def start(tmp_path):
    """Start a command: start("bash", "tools/dist_train.sh", ..., NAME="value") -> Popen. What still
    runs at the end of the test is stopped.
    """
    started = []
    # The scripts take `python` from the path; a scheduler's variables are the test's alone.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    clean["PATH"] = f"{Path(sys.executable).parent}:{clean['PATH']}"

    def go(*command: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=tmp_path,
            env=clean | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield go
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def dist_train(config: Path, processes: int, *options: object) -> list[object]:
    return ["bash", ROOT / "tools" / "dist_train.sh", config, processes, *options]


def finish(process: subprocess.Popen[str], expect: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == expect, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 90
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.1)


def test_two_processes_train_and_evaluate(start, tiny_config, run_tool, tmp_path):
    """Each image is evaluated once, one line is written for each step, and one process comes to
    the scores of two. What is not for the user's eyes is the owner's alone.
    """
    folder, config = tmp_path / "run", tiny_config("CvT", drop=0.0)
    out, err = finish(start(*dist_train(config, 2, "-o", *ONE_EPOCH)))
    assert out == ""
    assert "2 process(es)" in err
    assert [line for line in err.splitlines() if " passl rank 0 INFO: " not in line] == []
    rows = rows_of(folder)
    (val,) = [row for row in rows if row["phase"] == "val"]
    assert val["samples"] == 360
    assert len({(row["phase"], row["step"]) for row in rows}) == len(rows)
    logs = folder / "launch"
    assert [path.name for path in logs.iterdir()] == ["rank_1.log"]
    assert (logs / "rank_1.log").read_text() == ""
    assert logs.stat().st_mode & 0o777 == 0o700
    assert (logs / "rank_1.log").stat().st_mode & 0o777 == 0o600

    weights = folder / "last.safetensors"
    script = ROOT / "tools" / "dist_eval.sh"
    out, _ = finish(start("bash", script, config, weights, 2))
    two = json.loads(out)  # nothing but the result is on stdout
    one = json.loads(run_tool("eval.py", "-c", config, "--weights", weights).stdout)
    for result in (one, two):
        assert result["samples"] == 360
        assert result["top1"] == pytest.approx(val["top1"])
        assert result["loss"] == pytest.approx(val["loss"], rel=VALUES)


def test_environment_dumps_of_paddles_launcher_are_removed(start, tiny_config, tmp_path):
    """Started by the user, it writes the whole environment, passwords included, three times."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    tool = [ROOT / "tools" / "train.py", "-c", tiny_config(), "-o", *ONE_EPOCH]
    finish(start(*command, "--log_dir", log, *tool, A_PASSWORD="hunter2"))
    assert [row["samples"] for row in rows_of(tmp_path / "run") if row["phase"] == "val"] == [360]
    assert {path.name for path in log.iterdir()} == {"workerlog.0", "workerlog.1"}
    assert not [path for path in log.iterdir() if "hunter2" in path.read_text()]


def test_two_machines(start, tiny_config, tmp_path):
    """Two launchers with one process each, as two machines that both see the run's folder."""
    config = tiny_config()
    both = ["--nnodes", "2", "--master", f"127.0.0.1:{free_port()}"]
    launchers = [
        start(*dist_train(config, 1, *both, "--rank", machine, "-o", *ONE_EPOCH))
        for machine in range(2)
    ]
    for launcher in launchers:
        finish(launcher)
    assert [row["samples"] for row in rows_of(tmp_path / "run") if row["phase"] == "val"] == [360]


def free_port() -> int:
    from passl.distributed.launcher import free_port

    return free_port()


def test_processes_of_mpi_and_slurm(fork_tool, tiny_config, tmp_path):
    """The variables of mpirun and srun, without these: two processes train by the first, and score
    the weights by the second.
    """
    config = tiny_config(drop=0.0)
    open_mpi = [
        {
            "OMPI_COMM_WORLD_RANK": str(rank),
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        }
        for rank in range(2)
    ]
    slurm = [
        {
            "SLURM_PROCID": str(rank),
            "SLURM_NTASKS": "2",
            "SLURM_LOCALID": str(rank),
            "SLURM_NODELIST": "node1",
            "SLURM_JOB_ID": str(os.getpid()),
        }
        for rank in range(2)
    ]
    fork_tool("train.py", ["-c", config, "-o", *ONE_EPOCH], open_mpi)
    (val,) = [row for row in rows_of(tmp_path / "run") if row["phase"] == "val"]
    assert val["samples"] == 360
    weights = tmp_path / "run" / "last.safetensors"
    first, second = fork_tool("eval.py", ["-c", config, "--weights", weights], slurm)
    result = json.loads(first.splitlines()[-1])
    assert result["samples"] == 360
    assert result["top1"] == pytest.approx(val["top1"])
    assert "top1" not in second


def test_wrong_variables_have_exit_code_2(start, tiny_config):
    process = start(
        *(sys.executable, ROOT / "tools" / "train.py", "-c", tiny_config()),
        OMPI_COMM_WORLD_RANK="2",
        OMPI_COMM_WORLD_SIZE="2",
        OMPI_COMM_WORLD_LOCAL_RANK="2",
    )
    _, err = finish(process, expect=2)
    assert "OMPI_COMM_WORLD_RANK=2 must be below OMPI_COMM_WORLD_SIZE=2" in err
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_restart_after_a_killed_rank(start, tiny_config, tmp_path):
    """With loader workers, which hold the killed process's connections."""
    folder = tmp_path / "run"
    options = ["-o", "epochs=12", "dataloader.train.loader={num_workers: 1}", *SMALL]
    config = tiny_config(lr_scheduler={"name": "Constant"})
    job = start(*dist_train(config, 2, "--restarts", 1, "--restart_waits", 0.1, *options))
    wait_for(folder / "last.safetensors", job)
    ranks = children(job.pid)
    assert len(ranks) == 2
    processes = [*ranks, *(child for rank in ranks for child in children(rank))]
    os.kill(ranks[1], signal.SIGKILL)
    _, err = finish(job)
    assert f"rank 1 (process {ranks[1]}) was killed by signal 9" in err
    assert "launch: restart 1 of 1 in 0.1 s, with --resume auto" in err
    assert "resumed after epoch" in err
    assert [pid for pid in processes if is_running(pid)] == []
    epochs = {row["epoch"] for row in rows_of(folder) if row["phase"] == "val"}
    assert epochs == set(range(1, 13))


def test_stop_saves_and_exit_code_is_75(start, tiny_config, tmp_path):
    job = start(*dist_train(tiny_config(), 2, "--restarts", 1, "-o", "epochs=1000"))
    wait_for(tmp_path / "run" / "last.safetensors", job)
    job.terminate()
    _, err = finish(job, expect=75)
    assert "continue with --resume auto" in err
    assert "launch: restart" not in err


def test_no_restart_after_a_config_error(start, tiny_config, tmp_path):
    job = start(*dist_train(tiny_config(), 2, "--restarts", 3, "-o", "optimizer.lr=-1"))
    _, err = finish(job, expect=2)
    assert "optimizer.lr" in err
    assert "launch: restart" not in err
    assert "Traceback" not in err


def test_folder_in_use_is_an_error_of_every_rank(start, tiny_config, tmp_path):
    """Only rank 0 takes the lock."""
    (tmp_path / "run").mkdir()
    lock = RunLock(tmp_path / "run")
    try:
        job = start(*dist_train(tiny_config(), 2, "--restarts", 3, "--resume", "auto"))
        _, err = finish(job, expect=2)
    finally:
        lock.release()
    log = (tmp_path / "run" / "launch" / "rank_1.log").read_text()
    for text in (err, log):
        assert f"in use by process {os.getpid()} on {socket.gethostname()}" in text
        assert "Traceback" not in text
    assert "launch: restart" not in err


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_eval.sh"])
def test_scripts_show_their_usage(start, script):
    _, err = finish(start("bash", ROOT / "tools" / script, "CONFIG"), expect=2)
    assert f"usage: bash tools/{script} CONFIG" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("train.py", "-o", "output_dir=5"), "output_dir: 5 must be text"),
        (("train.py", "--nproc_per_node", "0"), "0 must be at least 1"),
        (("train.py", "--nnodes", "2"), "--nnodes 2 needs --master HOST:PORT"),
        (("train.py", "--rank", "2", "--master", "a:1"), "--rank 2 must be from 0 to 0"),
        (("train.py", "--master", "29500"), "--master=29500: an address is HOST:PORT"),
        (("train.py", "--nnodes", "2", "--restarts", "1"), "own machine only"),
        (("train.py", "--restart_waits", "x"), "must be seconds"),
        (("train.py", "--restarts", "-1"), "-1 must be at least 0"),
        (("eval.py", "--restarts", "1"), "is for training"),
    ],
)
def test_wrong_calls_of_the_launcher(monkeypatch, capsys, tiny_config, tmp_path, args, message):
    from passl.cli.dispatch import run_command

    tool, *others = args
    options = ["launch.py", tool, "--nproc_per_node", "2", "-c", str(tiny_config()), *others]
    monkeypatch.setattr(sys, "argv", options)
    with pytest.raises(SystemExit, match="2"):
        run_command("launch")
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
