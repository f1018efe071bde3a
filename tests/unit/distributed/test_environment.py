"""The place of a process by the variables of each launcher."""

from __future__ import annotations

import sys

import pytest

from passl.distributed.environment import (
    PORTS,
    Place,
    first_of,
    join,
    parse_address,
    remove_environment_dumps,
)
from passl.errors import ConfigError

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
def test_all_processes_compute_the_same_address(variables):
    rank = next(
        name for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID") if name in variables
    )
    found = set()
    for number in range(4):
        environ = variables | {rank: str(number)}
        assert join(environ).rank == number
        found.add(environ["PADDLE_MASTER"])
    assert len(found) == 1


def test_jobs_have_different_addresses():
    found = set()
    for job in ({"SLURM_JOB_ID": "4711"}, {"SLURM_JOB_ID": "4712"}, {"SLURM_STEP_ID": "1"}):
        environ = SRUN | job
        join(environ)
        found.add(environ["PADDLE_MASTER"])
    assert len(found) == 3


@pytest.mark.parametrize("variables", [OPEN_MPI, SRUN], ids=["openmpi", "slurm"])
def test_the_secret_is_the_users_or_the_job(variables):
    secret = join(dict(variables)).secret
    assert secret
    assert join(variables | {"SLURM_STEP_ID": "7", "PMIX_NAMESPACE": "x"}).secret != secret
    place = join(variables | {"PASSL_SECRET": "hunter2"})
    assert place.secret == "hunter2"
    assert "hunter2" not in repr(place)


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


def test_variables_of_the_user_are_kept():
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
def test_single_process(variables):
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
    """Only those of this process; without Paddle's launcher none."""
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
