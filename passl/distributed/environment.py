"""Read from the environment which process of a run this is: Paddle's launcher, MPI and Slurm each
set variables of their own.

Paddle's `init_parallel_env` needs PADDLE_TRAINER_ID, PADDLE_TRAINERS_NUM, PADDLE_CURRENT_ENDPOINT
and PADDLE_MASTER, the address where rank 0 listens; with GPUs also FLAGS_selected_gpus. `join` sets
them. Nothing here imports paddle.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import socket
import struct
import zlib
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from passl.errors import ConfigError

LOOPBACK = "127.0.0.1"
MASTER = "PADDLE_MASTER"
SECRET = "PASSL_SECRET"
"""Variable with the secret of a run, which its processes prove to each other that they know."""
PORTS = range(20000, 30000)
"""Ports for rank 0. Systems choose from 32768 or 49152 up, so none of these is taken by chance."""
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables that name the network interface to talk over."""
_SIOCGIFADDR = 0x8915  # linux/sockios.h


@dataclass(frozen=True)
class Place:
    """Which process of a run this is.

    Args:
        local_world: number of processes on each machine; null where it is unknown.
        secret: of the run, empty if it has none; see `SECRET`.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int | None = None
    secret: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class _Starter:
    """The variables that one way to start processes sets.

    Args:
        name: for messages.
        rank, world, local_rank: of this process.
        local_world: number of processes on this machine.
        job: variables that are the same for all processes of a job and differ between jobs.
        nodes: variables that list the machines; the first one that is set counts.
    """

    name: str
    rank: str
    world: str
    local_rank: str
    local_world: str = ""
    job: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


_PADDLE = _Starter(
    "Paddle", "PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "PADDLE_LOCAL_RANK", "PADDLE_LOCAL_SIZE"
)
_OPEN_MPI = _Starter(
    "Open MPI",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
)
_MPICH = _Starter("MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
_SLURM = _Starter(
    "Slurm",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_LOCALID",
    job=("SLURM_JOB_ID", "SLURM_STEP_ID"),
    nodes=("SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"),
)


def join(environ: MutableMapping[str, str]) -> Place:
    """Find this process's place in the run, and set the variables that Paddle needs. Calling it
    again changes nothing.

    Args:
        environ: `os.environ`; variables that are set stay.

    Raises:
        ConfigError: a variable is missing or no number, or the rank is not below the size; or the
            run has several machines, and nothing says where rank 0 is.
    """
    starter = _starter(environ)
    if starter is None:
        return Place()
    place = _place(starter, environ)
    if place.world == 1:
        return place
    master = environ.get(MASTER) or _agreed_master(starter, environ)
    host, port = parse_address(MASTER, master)
    settings = {
        _PADDLE.rank: str(place.rank),
        _PADDLE.world: str(place.world),
        _PADDLE.local_rank: str(place.local_rank),
        MASTER: master,
        "PADDLE_CURRENT_ENDPOINT": f"{host}:{port}",
    }
    is_one_machine = place.local_world == place.world or host in (LOOPBACK, "localhost")
    if is_one_machine and Path("/sys/class/net/lo").exists():
        settings |= dict.fromkeys(INTERFACES, "lo")
    for name, value in settings.items():
        environ.setdefault(name, value)
    return place


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address; null if it is unknown. By default Gloo takes
    the interface of the machine's name, on many machines the loopback.
    """
    for _, name in socket.if_nameindex():
        request = struct.pack("256s", name.encode()[:15])
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            found = fcntl.ioctl(asked, _SIOCGIFADDR, request)
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None


def remove_environment_dumps(environ: MutableMapping[str, str]) -> None:
    """Remove the copies of the environment, passwords included, that Paddle's launcher writes to
    its log folder, readable by all: `envlog.N`, `backup_env.N.json` and `JOB.POD.log`. Does nothing
    under another launcher, nor the second time.
    """
    if environ.pop("PADDLE_BACKUP_ENV_PATH", None) is None:  # Paddle would look for the file
        return
    folder, pod = environ["PADDLE_LOG_DIR"], environ["POD_NAME"]
    found = glob.glob(f"{glob.escape(folder)}/*.{glob.escape(pod)}.log")
    found.append(os.path.join(folder, f"envlog.{environ['PADDLE_LOCAL_RANK']}"))
    found.append(os.path.join(folder, f"backup_env.{environ['PADDLE_TRAINER_ID']}.json"))
    for path in found:
        Path(path).unlink(missing_ok=True)


def parse_address(name: str, address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; `name` is the option or variable that has it, for messages."""
    host, _, port = address.rpartition(":")
    if not host or ":" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"{name}={address}: an address is HOST:PORT, with a port from 1 to 65535 and no IPv6 "
            "numbers (which Paddle cannot read); give the machine's name or its IPv4 number"
        )
    return host, int(port)


def first_of(nodes: str) -> str:
    """The first host of a Slurm node list: `gpu[07-09,12],cpu1` gives gpu07."""
    found = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert found is not None  # the pattern matches an empty text
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", found[0])


def _starter(environ: Mapping[str, str]) -> _Starter | None:
    """The starter of this process. MPI's processes may run in a Slurm job, not the other way."""
    for starter in (_PADDLE, _OPEN_MPI):
        if starter.rank in environ or starter.world in environ:
            return starter
    is_task = _is_slurm_task(environ)
    # srun sets PMI's variables too, for programs that use it, but not the local rank.
    if _MPICH.local_rank in environ or (_MPICH.rank in environ and not is_task):
        return _MPICH
    if "SLURM_STEP_NUM_TASKS" in environ:  # of this srun; SLURM_NTASKS may be the batch script's
        return replace(_SLURM, world="SLURM_STEP_NUM_TASKS") if is_task else None
    return _SLURM if is_task else None


def _is_slurm_task(environ: Mapping[str, str]) -> bool:
    """Whether srun has started this process: not the shell of salloc, which has no rank, nor a
    batch script, which has rank 0 and the size of what it may start.
    """
    if _SLURM.rank not in environ:
        return False
    if "SLURM_STEP_NUM_TASKS" in environ:
        return True
    is_sized = _SLURM.world in environ or environ[_SLURM.rank] != "0"
    return is_sized and environ.get("ENVIRONMENT") != "BATCH"


def _place(starter: _Starter, environ: Mapping[str, str]) -> Place:
    names = [starter.rank, starter.world, starter.local_rank]
    if starter is _PADDLE:
        names.pop()  # paddle.distributed.spawn does not set it
    missing = [name for name in names if name not in environ]
    present = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
    if missing:
        raise ConfigError(
            f"{present}, but {' and '.join(missing)} not set: {starter.name} sets all of them. "
            "Start the processes by it, or unset what is left of another start"
        )
    for name in names:
        if not environ[name].isdecimal():
            raise ConfigError(f"{name}={environ[name]} must be a whole number, from 0 up")
    rank, world = int(environ[starter.rank]), int(environ[starter.world])
    if rank >= world:
        raise ConfigError(
            f"{starter.rank}={rank} must be below {starter.world}={world}: ranks go from 0 to the "
            "size less one"
        )
    local_world = environ.get(starter.local_world, "")
    return Place(
        rank,
        world,
        int(environ.get(starter.local_rank, rank)),
        int(local_world) if local_world.isdecimal() else None,
        environ.get(SECRET) or _job(starter, environ),
    )


def _agreed_master(starter: _Starter, environ: Mapping[str, str]) -> str:
    """The address that every process computes by itself: the port follows from the job's name, or
    from the process that has started all of them on this machine.
    """
    first, _, _ = environ.get("PADDLE_TRAINER_ENDPOINTS", "").partition(",")
    if first:
        return first
    nodes = next((environ[name] for name in starter.nodes if name in environ), "")
    size = environ[starter.world]
    if re.search(r"[,\[]", nodes):
        host = first_of(nodes)
    elif starter is not _PADDLE and environ.get(starter.local_world, size) == size:
        host = LOOPBACK
    else:
        raise ConfigError(
            f"{starter.rank}={environ[starter.rank]}, {starter.world}={size}: nothing says where "
            f"rank 0 is; set {MASTER}=HOST:PORT for every process, a free port of the machine that "
            "rank 0 runs on"
        )
    job = _job(starter, environ) or str(os.getppid())
    return f"{host}:{PORTS[zlib.crc32(job.encode()) % len(PORTS)]}"


def _job(starter: _Starter, environ: Mapping[str, str]) -> str:
    return ".".join(environ[name] for name in starter.job if name in environ)
