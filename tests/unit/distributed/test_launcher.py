"""The launcher starts, watches and ends processes together."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from passl.cli.launch import add_options
from passl.distributed import launcher
from passl.distributed.launcher import Job
from passl.utils.config import get_config, leaves
from passl.utils.paths import is_path

ROOT = Path(__file__).resolve().parents[3]

LAUNCH = """
import sys
from pathlib import Path
from passl.distributed import launcher as module
from passl.distributed.launcher import Job, launch
module._SETTLE = 1.0  # the test waits for it
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


def test_output_of_first_process_goes_to_stdout_and_others_to_private_files(start, tmp_path):
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


def test_variables_of_each_process(start, tmp_path):
    names = [
        "PADDLE_TRAINER_ID",
        "PADDLE_TRAINERS_NUM",
        "PADDLE_LOCAL_RANK",
        "PADDLE_LOCAL_SIZE",
        "PADDLE_MASTER",
        "PASSL_SECRET",
    ]
    process = start(f"Path(sys.argv[1], rank).write_text(' '.join(os.environ[n] for n in {names}))")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    zero, one = ((tmp_path / rank).read_text().split() for rank in "01")
    assert (zero[:4], one[:4]) == (["0", "2", "0", "2"], ["1", "2", "1", "2"])
    assert zero[4] == one[4]
    assert zero[4].startswith("127.0.0.1:")
    assert zero[5] == one[5]
    assert len(zero[5]) == 64


def test_exception_in_one_process_ends_all(start, tmp_path):
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
def test_workers_of_a_killed_process_are_killed(start, tmp_path):
    """They hold its connections. The other processes are killed even if they ignore SIGTERM."""
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
def test_after_a_signal_all_save_and_exit_code_is_75(start, tmp_path, number):
    process = start(STOPS, restarts=3)
    for rank in "01":
        wait_for(tmp_path / rank)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75, err
    assert (tmp_path / "saved_0").exists()
    assert (tmp_path / "saved_1").exists()
    assert "launch: restart" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_processes_stop_when_launcher_is_killed(start, tmp_path):
    process = start(STOPS)
    for rank in "01":
        wait_for(tmp_path / rank)
    process.kill()
    process.communicate(timeout=30)
    for rank in "01":
        wait_for(tmp_path / f"saved_{rank}")


def test_second_signal_kills(start, tmp_path):
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
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL, err


def test_no_restart_after_a_wrong_config(start, tmp_path):
    """The exit code is 2, though the other rank fails first."""
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
    assert "launch: restart" not in err


FAILS_TWICE = """
tries = Path(sys.argv[1], 'tries_' + rank)
text = (tries.read_text() if tries.exists() else '') + ' '.join(sys.argv[2:]) + '\\n'
tries.write_text(text)
sys.exit(0 if text.count('\\n') == 3 else 5)
"""


def test_restart_after_a_failure_resumes(start, tmp_path):
    process = start(FAILS_TWICE, restarts=3)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert (tmp_path / "tries_0").read_text() == "\n--resume auto\n--resume auto\n"
    assert [line for line in err.splitlines() if "launch: restart" in line] == [
        "launch: restart 1 of 3 in 0.1 s, with --resume auto",
        "launch: restart 2 of 3 in 0.2 s, with --resume auto",
    ]


def test_exit_code_is_that_of_the_last_failure(start, tmp_path):
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


def test_ranks_over_machines():
    job = Job(["x"], 4, Path("logs"), machines=2, machine=1, master="gpu07:29500")
    variables = [job.environment(local, "gpu07:29500") for local in range(4)]
    assert [each["PADDLE_TRAINER_ID"] for each in variables] == ["4", "5", "6", "7"]
    assert {each["PADDLE_TRAINERS_NUM"] for each in variables} == {"8"}
    assert {each["PADDLE_LOCAL_SIZE"] for each in variables} == {"4"}


# --------------------------------------------------------------------------------------------------
# The examples of docs/distributed.md
# --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (75, True)])
def test_slurm_script_requeues_after_exit_code_75(tmp_path, code, requeued):
    """With a stub of srun that records its arguments and returns the exit code of the ranks."""
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
def test_the_manifests_call_the_launcher_rightly(manifest):
    job, first_pod = manifest()
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    bash, script, config, processes, *options = container["command"]
    assert (bash, script) == ("bash", "tools/dist_train.sh")
    assert (ROOT / config).is_file()
    options = [option.replace("$(JOB_COMPLETION_INDEX)", "1") for option in options]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser)
    call = ["train", "--nproc_per_node", processes, "-c", config, *options]
    args, rest = parser.parse_known_args(call)
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


def test_the_paddle_job_runs_the_same_pod():
    """Fields of Kubeflow's v1 types; its pod is one of Kubernetes. What the operator gives a pod is
    its index as a label, and the address of worker 0 at the port `master` as PADDLE_MASTER.
    """
    job = yaml.safe_load((ROOT / "docs" / "examples" / "paddlejob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PaddleJob")
    assert job["spec"].keys() == {"runPolicy", "paddleReplicaSpecs"}
    assert job["spec"]["runPolicy"].keys() == {"backoffLimit", "cleanPodPolicy"}
    (kind, worker), *others = job["spec"]["paddleReplicaSpecs"].items()
    assert (kind, others, worker["restartPolicy"]) == ("Worker", [], "OnFailure")
    assert worker.keys() == {"replicas", "restartPolicy", "template"}
    pod = worker["template"]["spec"]
    # The operator sets the pod's own policy to that of the workers.
    plain = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod}
    kubernetes_validate.validate(plain, "1.37", strict=True)

    expected, first = kubernetes_job()
    (container,) = pod["containers"]
    assert container.pop("name") == "paddle"
    (index,) = container.pop("env")
    label = "metadata.labels['training.kubeflow.org/replica-index']"
    assert index["valueFrom"] == {"fieldRef": {"fieldPath": label}}
    assert container.pop("ports") == [{"name": "master", "containerPort": 29500}]
    assert f"--nnodes={worker['replicas']}" in container["command"]
    expected_pod = expected["template"]["spec"]
    del expected_pod["containers"][0]["name"], expected_pod["restartPolicy"]
    text = json.dumps(expected_pod).replace("JOB_COMPLETION_INDEX", index["name"])
    assert json.loads(text.replace(f"{first}:29500", "$(PADDLE_MASTER)")) == pod
