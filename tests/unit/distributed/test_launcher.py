"""Places in a job by the variables of each launcher, and processes that live and die together."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from passl.distributed import launcher
from passl.distributed.environment import (
    PORTS,
    Place,
    first_of,
    join,
    parse_address,
    remove_environment_dumps,
)
from passl.distributed.launcher import Job, resumed
from passl.errors import ConfigError
from passl.utils.config import get_config, leaves
from passl.utils.paths import is_path

ROOT = Path(__file__).resolve().parents[3]

OPEN_MPI = {  # as mpirun 5.0 sets them
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "PMIX_NAMESPACE": "prterun-host-29262@1",
    "PMIX_RANK": "3",
}
MPICH = {  # as Hydra of MPICH 4 sets them
    "PMI_RANK": "3",
    "PMI_SIZE": "4",
    "PMI_FD": "11",
    "MPI_LOCALRANKID": "3",
    "MPI_LOCALNRANKS": "4",
}
ALLOCATION = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "4",
    "SLURM_NODELIST": "gpu[07-08]",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
}
BATCH = ALLOCATION | {
    "ENVIRONMENT": "BATCH",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
SRUN = BATCH | {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu07",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
}


@pytest.mark.parametrize(
    ("variables", "local_world"),
    [(OPEN_MPI, 4), (MPICH, 4), (SRUN, None)],
    ids=["openmpi", "mpich", "slurm"],
)
def test_one_machine(variables, local_world):
    """Paddle gets its variables, and everything stays on the loopback."""
    environ = dict(variables)
    assert join(environ) == Place(3, 4, 3, local_world)
    assert environ["PADDLE_TRAINER_ID"] == "3"
    assert environ["PADDLE_TRAINERS_NUM"] == "4"
    host, port = parse_address("PADDLE_MASTER", environ["PADDLE_MASTER"])
    assert host == "127.0.0.1"
    assert port in PORTS
    assert environ["PADDLE_CURRENT_ENDPOINT"] == environ["PADDLE_MASTER"]
    if sys.platform == "linux":
        assert environ["GLOO_SOCKET_IFNAME"] == environ["NCCL_SOCKET_IFNAME"] == "lo"
    assert {name: environ[name] for name in variables} == variables


@pytest.mark.parametrize("variables", [OPEN_MPI, MPICH, SRUN], ids=["openmpi", "mpich", "slurm"])
def test_all_processes_come_to_the_same_address(variables):
    rank = next(
        name for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID") if name in variables
    )
    found = set()
    for number in range(4):
        environ = variables | {rank: str(number)}
        assert join(environ).rank == number
        found.add(environ["PADDLE_MASTER"])
    assert len(found) == 1


def test_two_jobs_come_to_two_addresses():
    found = set()
    for job in ({"SLURM_JOB_ID": "4711"}, {"SLURM_JOB_ID": "4712"}, {"SLURM_STEP_ID": "1"}):
        environ = SRUN | job
        join(environ)
        found.add(environ["PADDLE_MASTER"])
    assert len(found) == 3


def test_joining_twice_changes_nothing():
    environ = dict(SRUN)
    place = join(environ)
    once = dict(environ)
    assert join(environ) == place
    assert environ == once


def test_several_machines():
    """Slurm names the host of rank 0; MPI does not, the user must."""
    slurm = SRUN | {"SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_LOCALID": "1"}
    assert join(slurm) == Place(rank=3, world=4, local_rank=1)
    assert slurm["PADDLE_MASTER"].startswith("gpu07:")
    assert "GLOO_SOCKET_IFNAME" not in slurm
    for variables, size in ((OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE"), (MPICH, "MPI_LOCALNRANKS")):
        with pytest.raises(ConfigError, match="nothing says where rank 0 is; set PADDLE_MASTER="):
            join(variables | {size: "2"})
        environ = variables | {size: "2", "PADDLE_MASTER": "gpu07:29500"}
        join(environ)
        assert environ["PADDLE_MASTER"] == "gpu07:29500"
        assert "GLOO_SOCKET_IFNAME" not in environ


def test_what_the_user_sets_stays():
    environ = SRUN | {"PADDLE_MASTER": "127.0.0.1:1234", "GLOO_SOCKET_IFNAME": "eth0"}
    join(environ)
    assert environ["PADDLE_MASTER"] == "127.0.0.1:1234"
    assert environ["GLOO_SOCKET_IFNAME"] == "eth0"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        ALLOCATION,  # the shell of salloc
        BATCH,  # a batch script that starts python without srun
        BATCH | {"SLURM_NTASKS": "1"},
        {name: value for name, value in BATCH.items() if name != "SLURM_NTASKS"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # srun --pty bash
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"},
        OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_a_single_process_stays_one(variables):
    environ = dict(variables)
    place = join(environ)
    assert (place.rank, place.world) == (0, 1)
    assert environ == variables


def test_mpi_in_a_slurm_job():
    """mpirun in a batch script, and srun --mpi=pmi2, which sets PMI_RANK without the local rank."""
    assert join(BATCH | OPEN_MPI) == Place(3, 4, 3, 4)
    assert join(BATCH | MPICH) == Place(3, 4, 3, 4)
    assert join(SRUN | {"PMI_RANK": "3", "PMI_SIZE": "4"}) == Place(3, 4, 3)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            "OMPI_COMM_WORLD_RANK=1, OMPI_COMM_WORLD_LOCAL_RANK=1, but OMPI_COMM_WORLD_SIZE not",
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "PMI_RANK=1, PMI_SIZE=2, but MPI_LOCALRANKID not set"),
        ({"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, "but SLURM_NTASKS not set: Slurm sets all"),
        ({"PADDLE_TRAINERS_NUM": "2"}, "PADDLE_TRAINERS_NUM=2, but PADDLE_TRAINER_ID not set"),
        (
            {"PADDLE_TRAINER_ID": "2", "PADDLE_TRAINERS_NUM": "2"},
            "PADDLE_TRAINER_ID=2 must be below PADDLE_TRAINERS_NUM=2",
        ),
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "4"}, "OMPI_COMM_WORLD_RANK=4 must be below"),
        (SRUN | {"SLURM_PROCID": "x"}, "SLURM_PROCID=x must be a whole number"),
        (SRUN | {"PADDLE_MASTER": "gpu07"}, "PADDLE_MASTER=gpu07: an address is HOST:PORT"),
        (SRUN | {"PADDLE_MASTER": "::1:29500"}, "PADDLE_MASTER=::1:29500: an address is HOST:PORT"),
        (
            {"PADDLE_TRAINER_ID": "0", "PADDLE_TRAINERS_NUM": "2"},
            "PADDLE_TRAINER_ID=0, PADDLE_TRAINERS_NUM=2: nothing says where rank 0 is",
        ),
    ],
)
def test_wrong_variables_are_named(variables, message):
    environ = dict(variables)
    with pytest.raises(ConfigError) as error:
        join(environ)
    assert message in str(error.value)
    assert environ == variables


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("cpu1,gpu[07-09]", "cpu1"),
        ("rack[2,5]node[10-11]", "rack2node10"),
        ("a-b.example.org", "a-b.example.org"),
    ],
)
def test_first_host_of_a_slurm_list(nodes, first):
    assert first_of(nodes) == first


def test_environment_dumps_are_removed(tmp_path):
    """Those of this process, and nothing else; without Paddle's launcher nothing at all."""
    names = ["envlog.1", "backup_env.3.json", "default.abcdef.log"]
    others = ["envlog.0", "workerlog.1", "backup_env.2.json", "default.other.log"]
    for name in names + others:
        (tmp_path / name).write_text("SECRET=1")
    environ = {
        "PADDLE_LOG_DIR": str(tmp_path),
        "POD_NAME": "abcdef",
        "PADDLE_TRAINER_ID": "3",
        "PADDLE_LOCAL_RANK": "1",
    }
    remove_environment_dumps(dict(environ))
    assert {path.name for path in tmp_path.iterdir()} == {*names, *others}
    environ["PADDLE_BACKUP_ENV_PATH"] = str(tmp_path / "backup_env.3.json")
    remove_environment_dumps(environ)
    assert {path.name for path in tmp_path.iterdir()} == set(others)
    assert "PADDLE_BACKUP_ENV_PATH" not in environ
    remove_environment_dumps(environ)


# --------------------------------------------------------------------------------------------------
# Processes
# --------------------------------------------------------------------------------------------------
LAUNCH = """
import sys
from pathlib import Path
from passl.distributed import launcher as module
from passl.distributed.launcher import Job, launch
module._KILL_AFTER = 1.0  # the test waits for it
job = Job([sys.executable, "-u", *sys.argv[4:]], int(sys.argv[2]), Path(sys.argv[1]), grace=5.0,
          checkpoint=Path(sys.argv[1], "last"))
sys.exit(launch(job, int(sys.argv[3]), [0.1, 0.2]))
"""
RANK = """
import os, signal, sys, time
from pathlib import Path
rank = os.environ["PADDLE_TRAINER_ID"]
"""


@pytest.fixture
def start(tmp_path):
    """Start processes of a little script: start(text, processes, restarts) -> Popen. The folder is
    the script's first argument.
    """
    started = []

    def go(text: str, processes: int = 2, restarts: int = 0) -> subprocess.Popen[str]:
        script = tmp_path / "rank.py"
        script.write_text(RANK + text)
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", LAUNCH, tmp_path / "launch", str(processes), str(restarts)),
                *(script, tmp_path),
            ],
            cwd=ROOT,
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
            process.communicate(timeout=30)


def wait_for(path: Path) -> str:
    """The text of a file that another process writes."""
    end = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.05)
    return path.read_text()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < end, f"process {pid} still runs"
        time.sleep(0.05)


def test_results_go_to_stdout_and_other_output_to_files_of_the_owner(start, tmp_path):
    old = os.umask(0)
    try:
        process = start("print('result' if rank == '0' else 'other', rank)", processes=3)
        out, err = process.communicate(timeout=30)
    finally:
        os.umask(old)
    assert process.returncode == 0, err
    assert (out, err) == ("result 0\n", "")
    folder = tmp_path / "launch"
    logs = {path.name: path.read_text() for path in folder.iterdir()}
    assert logs == {"rank_1.log": "other 1\n", "rank_2.log": "other 2\n"}
    assert [path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())] == [
        0o700,
        0o600,
        0o600,
    ]


def test_every_process_is_told_its_place(start, tmp_path):
    names = [
        "PADDLE_TRAINER_ID",
        "PADDLE_TRAINERS_NUM",
        "PADDLE_LOCAL_RANK",
        "PADDLE_LOCAL_SIZE",
        "PADDLE_MASTER",
    ]
    process = start(f"Path(sys.argv[1], rank).write_text(' '.join(os.environ[n] for n in {names}))")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    zero, one = ((tmp_path / rank).read_text().split() for rank in "01")
    assert (zero[:4], one[:4]) == (["0", "2", "0", "2"], ["1", "2", "1", "2"])
    assert zero[4] == one[4]
    assert zero[4].startswith("127.0.0.1:")


def test_an_exception_of_one_ends_all_with_its_traceback(start, tmp_path):
    process = start(
        "Path(sys.argv[1], rank).write_text(str(os.getpid()))\n"
        "if rank == '1': raise ValueError('the reason')\n"
        "time.sleep(100)"
    )
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "ValueError: the reason" in err
    assert "rank 1 (process" in err
    assert "ending what still runs: rank 0" in err
    wait_until_gone(int((tmp_path / "0").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_process_takes_what_it_started_with_it(start, tmp_path):
    """Loader workers of a killed process hold its connections; they must go first, and the rest is
    killed even if it does not listen to SIGTERM.
    """
    process = start(
        "import subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "Path(sys.argv[1], rank).write_text(f'{os.getpid()} {child.pid}')\n"
        "time.sleep(100)"
    )
    pids = [int(pid) for rank in "01" for pid in wait_for(tmp_path / rank).split()]
    os.kill(pids[2], signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL
    assert f"rank 1 (process {pids[2]}) was killed by signal 9" in err
    for pid in pids:
        wait_until_gone(pid)


STOPS = """
def stop(number, frame):
    time.sleep(0.5 if rank == '0' else 0.0)
    Path(sys.argv[1], f"saved_{rank}").write_text('1')
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
Path(sys.argv[1], rank).write_text('1')
time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_all_save_and_75_comes_through(start, tmp_path, number):
    process = start(STOPS, restarts=3)
    for rank in "01":
        wait_for(tmp_path / rank)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75, err
    assert (tmp_path / "saved_0").exists()
    assert (tmp_path / "saved_1").exists()
    assert "restart" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_a_killed_launcher_stops_its_processes(start, tmp_path):
    process = start(STOPS)
    for rank in "01":
        wait_for(tmp_path / rank)
    process.kill()
    process.communicate(timeout=30)
    for rank in "01":
        wait_for(tmp_path / f"saved_{rank}")


def test_a_stop_that_takes_too_long_is_a_failure(start, tmp_path):
    process = start(
        "if rank == '1': signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "else: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "Path(sys.argv[1], rank).write_text('1')\n"
        "time.sleep(100)"
    )
    for rank in "01":
        wait_for(tmp_path / rank)
    process.terminate()
    time.sleep(0.5)
    process.terminate()  # the second time it is meant at once
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL, err


def test_a_wrong_config_of_one_is_not_tried_again(start, tmp_path):
    """Exit code 2 comes through, though the others fail of losing that one."""
    process = start(
        "if rank == '1': sys.exit('lost rank 0')\n"
        "time.sleep(0.3)\n"
        "print('error: epochs', file=sys.stderr)\n"
        "sys.exit(2)",
        restarts=3,
    )
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err.count("error: epochs") == 1
    assert "restart" not in err


FAILS_TWICE = """
tries = Path(sys.argv[1], 'tries_' + rank)
text = (tries.read_text() if tries.exists() else '') + ' '.join(sys.argv[2:]) + '\\n'
tries.write_text(text)
sys.exit(0 if text.count('\\n') == 3 else 5)
"""


def test_a_failure_is_tried_again_with_resume_auto(start, tmp_path):
    process = start(FAILS_TWICE, restarts=3)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert (tmp_path / "tries_0").read_text() == "\n--resume auto\n--resume auto\n"
    assert [line for line in err.splitlines() if "restart" in line] == [
        "launch: restart 1 of 3 in 0.1 s, with --resume auto",
        "launch: restart 2 of 3 in 0.2 s, with --resume auto",
    ]


def test_the_last_failure_is_the_exit_code(start, tmp_path):
    process = start(FAILS_TWICE, processes=1, restarts=1)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 5, err
    assert (tmp_path / "tries_0").read_text() == "\n--resume auto\n"


def test_restarts_are_counted_from_the_last_checkpoint(start, tmp_path):
    """Three failures, each with a new checkpoint, and two without."""
    process = start(
        "count = len(list(Path(sys.argv[1]).glob('try_*')))\n"
        "Path(sys.argv[1], f'try_{count}').touch()\n"
        "Path(sys.argv[1], 'launch').mkdir(exist_ok=True)\n"
        "if count < 3: Path(sys.argv[1], 'launch', 'last').write_text(str(count))\n"
        "sys.exit(5)",
        processes=1,
        restarts=1,
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    assert len(list(tmp_path.glob("try_*"))) == 4
    assert err.count("restart 1 of 1") == 3


def test_a_restart_resumes_once():
    assert resumed(["train.py", "--resume", "a.safetensors", "-o", "epochs=1"]) == [
        *("train.py", "-o", "epochs=1", "--resume", "auto")
    ]
    assert resumed(["train.py", "--resume=auto"]) == ["train.py", "--resume", "auto"]


def test_ranks_over_machines():
    job = Job(["x"], 4, Path("logs"), machines=2, machine=1, master="gpu07:29500")
    told = [job.environment(local, "gpu07:29500") for local in range(4)]
    assert [each["PADDLE_TRAINER_ID"] for each in told] == ["4", "5", "6", "7"]
    assert {each["PADDLE_TRAINERS_NUM"] for each in told} == {"8"}
    assert {each["PADDLE_LOCAL_SIZE"] for each in told} == {"4"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 0}, "0 processes on 1 machines"),
        ({"machines": 2}, "--nnodes 2 needs --master HOST:PORT"),
        ({"machines": 2, "machine": 2, "master": "a:1"}, "--rank 2 must be from 0 to 1"),
        ({"master": "29500"}, "--master=29500: an address is HOST:PORT"),
    ],
)
def test_wrong_jobs(options, message):
    with pytest.raises(ConfigError, match=message):
        Job(**{"command": ["x"], "processes": 1, "logs": Path("logs")} | options)


# --------------------------------------------------------------------------------------------------
# The examples of docs/distributed.md
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (75, True)])
def test_the_slurm_script_goes_on_after_an_orderly_stop(tmp_path, code, requeued):
    """With an srun that only notes its arguments and returns what the ranks would."""
    for tool, exit_code in (("srun", code), ("scontrol", 0)):
        stub = tmp_path / tool
        stub.write_text(f'#!/bin/sh\necho "{tool} $@" >> {tmp_path}/calls\nexit {exit_code}\n')
        stub.chmod(0o755)
    done = subprocess.run(
        ["bash", ROOT / "docs" / "examples" / "train.slurm", "c.yaml", "runs/x"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711"},
        check=False,
    )
    assert done.returncode == code
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].endswith(" -c c.yaml -o output_dir=runs/x --resume auto")
    assert calls[1:] == (["scontrol requeue 4711"] if requeued else [])


def kubernetes_job() -> tuple[dict, str]:
    """The Job of the manifest, and the name of its first pod: Kubernetes gives the pods of an
    Indexed Job the names JOB-INDEX within their subdomain.
    """
    text = (ROOT / "docs" / "examples" / "kubernetes.yaml").read_text()
    service, job = yaml.safe_load_all(text)
    subdomain = job["spec"]["template"]["spec"].pop("subdomain")
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == subdomain
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    return job["spec"], f"{job['metadata']['name']}-0.{subdomain}"


def jobset_job() -> tuple[dict, str]:
    """The same of the JobSet, which names its Jobs JOBSET-REPLICATEDJOB-NUMBER, and their subdomain
    as itself.
    """
    text = (ROOT / "docs" / "examples" / "jobset.yaml").read_text()
    jobset = yaml.safe_load(text)
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    assert jobset["spec"]["network"]["enableDNSHostnames"]
    # A wrong config fails the Job for this reason; other failures restart the set.
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    job, name = replicated["template"]["spec"], jobset["metadata"]["name"]
    assert job["backoffLimit"] == 0
    return job, f"{name}-{replicated['name']}-0-0.{name}"


@pytest.mark.parametrize("manifest", [kubernetes_job, jobset_job])
def test_the_manifests_call_the_launcher_rightly(monkeypatch, manifest):
    job, first_pod = manifest()
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    bash, script, config, processes, *options = container["command"]
    assert (bash, script) == ("bash", "tools/dist_train.sh")
    assert (ROOT / config).is_file()
    options = [option.replace("$(JOB_COMPLETION_INDEX)", "1") for option in options]
    call = ["launch.py", "train.py", "--nproc_per_node", processes, "-c", config, *options]
    monkeypatch.setattr(sys, "argv", call)
    args, rest = importlib.import_module("passl.cli.launch").parse()
    assert (args.nproc_per_node, args.nnodes, args.rank) == (8, job["completions"], 1)
    assert job["parallelism"] == job["completions"]
    assert args.grace < pod["terminationGracePeriodSeconds"]
    assert args.master.partition(":")[0] == first_pod
    assert rest[:4] == ["-c", config, "--resume=auto", "-o"]
    # Whatever the run reads and writes is on a volume.
    mounts = {Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    cfg = get_config(ROOT / config, rest[4:])
    found = [value for keys, value in leaves(cfg) if is_path(keys, value)]
    assert len(found) == 3
    assert all(mounts.intersection(Path(value).parents) for value in found)
    assert mounts - {Path("/dev/shm")} <= {Path(value).parents[-2] for value in found}
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    # What the exit codes of the launcher lead to.
    rules = job["podFailurePolicy"]["rules"]
    assert all(rule["onExitCodes"]["containerName"] == container["name"] for rule in rules)
    codes = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules}
    assert codes == {"FailJob": [launcher.EXIT_WRONG_CALL], "Ignore": [launcher.EXIT_STOPPED]}
    assert (job["completionMode"], pod["restartPolicy"]) == ("Indexed", "Never")


def test_both_manifests_run_the_same_pod():
    (one, first), (other, second) = kubernetes_job(), jobset_job()
    pods = json.dumps(one["template"]).replace(first, second), json.dumps(other["template"])
    assert pods[0] == pods[1]
