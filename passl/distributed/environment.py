"""What the environment says of the processes of a run: Paddle's launcher, MPI and Slurm each have
variables of their own.

Paddle's `init_parallel_env` needs few: PADDLE_TRAINER_ID, PADDLE_TRAINERS_NUM,
PADDLE_CURRENT_ENDPOINT (which it only asks for), and PADDLE_MASTER, the address where rank 0
listens and the others find each other; with GPUs also FLAGS_selected_gpus. `join` sets them.
Nothing here imports paddle.
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
from dataclasses import dataclass, replace
from pathlib import Path

from passl.errors import ConfigError

LOOPBACK = "127.0.0.1"
MASTER = "PADDLE_MASTER"
PORTS = range(20000, 30000)
"""Where ports are taken from. Systems give their own choice of ports from 32768 or 49152 up, so
nobody gets one of these by chance.
"""
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables that name the network interface to talk over."""
_SIOCGIFADDR = 0x8915  # linux/sockios.h


@dataclass(frozen=True)
class Place:
    """Which process this is, of how many, and which of those on its machine.

    Args:
        local_world: how many processes each machine has; null where the starter does not say.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int | None = None


@dataclass(frozen=True)
class _Starter:
    """The variables that one way to start processes sets.

    Args:
        name: for messages.
        rank, world, local_rank: of this process.
        local_world: how many processes this machine has; where it is missing they are all on it.
        job: names the job, the same for all its processes and another for each job.
    """

    name: str
    rank: str
    world: str
    local_rank: str
    local_world: str = ""
    job: tuple[str, ...] = ()

    def spread(self, environ: Mapping[str, str]) -> bool:
        """Whether the variables say that there are several machines."""
        return environ.get(self.local_world, environ[self.world]) != environ[self.world]

    def first_host(self, environ: Mapping[str, str]) -> str | None:
        """The machine of rank 0, if the variables tell."""
        return None


class _Slurm(_Starter):
    def spread(self, environ: Mapping[str, str]) -> bool:
        return re.search(r"[,\[]", _node_list(environ)) is not None

    def first_host(self, environ: Mapping[str, str]) -> str | None:
        return first_of(_node_list(environ))


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
_SLURM = _Slurm(
    "Slurm",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_LOCALID",
    job=("SLURM_JOB_ID", "SLURM_STEP_ID"),
)


def join(environ: MutableMapping[str, str]) -> Place:
    """Find this process's place among those that were started together, and set the variables that
    Paddle needs to find the others. Doing it again changes nothing.

    Args:
        environ: `os.environ`; what is set there already stays.

    Raises:
        ConfigError: a variable is missing or no number, or the rank is not below the size; or the
            processes are on several machines, and nothing says where rank 0 is.
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
    is_alone = environ.get(starter.local_world) == environ[starter.world]
    if (is_alone or host in (LOOPBACK, "localhost")) and Path("/sys/class/net/lo").exists():
        settings |= dict.fromkeys(INTERFACES, "lo")
    for name, value in settings.items():
        environ.setdefault(name, value)
    return place


def interface_of(address: str) -> str | None:
    """The network interface that has that IPv4 address; null where it cannot be found out.

    Gloo else takes the one that the machine's name leads to, which on many machines is the
    loopback.
    """
    for _, name in socket.if_nameindex():
        request = struct.pack("256s", name.encode()[:15])
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            found = fcntl.ioctl(asked, _SIOCGIFADDR, request)
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None


def remove_environment_dumps(environ: MutableMapping[str, str]) -> None:
    """Remove the copies of the whole environment, passwords included, that Paddle's launcher leaves
    in its log folder, readable by all: `envlog.N`, `backup_env.N.json` and `JOB.POD.log`. Under
    another launcher nothing happens, nor the second time.
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
    """Host and port of HOST:PORT; `name` is what it was given by."""
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
    assert found is not None  # it matches nothing at least
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", found[0])


def _starter(environ: Mapping[str, str]) -> _Starter | None:
    """Who started this process. Processes of MPI may run in a Slurm job, not the other way."""
    if _PADDLE.rank in environ or _PADDLE.world in environ:
        return _PADDLE
    if _OPEN_MPI.rank in environ or _OPEN_MPI.world in environ:
        return _OPEN_MPI
    is_task = _is_slurm_task(environ)
    # srun sets PMI's variables too, for programs that use it, but not the local rank.
    if _MPICH.local_rank in environ or (_MPICH.rank in environ and not is_task):
        return _MPICH
    if not is_task:
        return None
    if "SLURM_STEP_NUM_TASKS" in environ:
        # Of this srun; SLURM_NTASKS may be that of the batch script.
        return replace(_SLURM, world="SLURM_STEP_NUM_TASKS")
    return _SLURM


def _is_slurm_task(environ: Mapping[str, str]) -> bool:
    """Whether this is one of srun's processes: not the shell of salloc, which has no rank, nor a
    batch script, which has rank 0 and the size of what it may start.
    """
    if _SLURM.rank not in environ:
        return False
    if "SLURM_STEP_NUM_TASKS" in environ:
        return True
    return environ.get("ENVIRONMENT") != "BATCH" and (
        _SLURM.world in environ or environ[_SLURM.rank] != "0"
    )


def _place(starter: _Starter, environ: Mapping[str, str]) -> Place:
    names = [starter.rank, starter.world, starter.local_rank]
    if starter is _PADDLE:
        names.pop()  # paddle.distributed.spawn does not set it
    missing = [name for name in names if name not in environ]
    said = ", ".join(f"{name}={environ[name]}" for name in names if name in environ)
    if missing:
        raise ConfigError(
            f"{said}, but {' and '.join(missing)} not set: {starter.name} sets all of them. Start "
            "the processes by it, or unset what is left of another start"
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
    )


def _agreed_master(starter: _Starter, environ: Mapping[str, str]) -> str:
    """An address that every process comes to by itself: the port follows from the job's name, or
    from the process that started all of them on this machine.
    """
    first, _, _ = environ.get("PADDLE_TRAINER_ENDPOINTS", "").partition(",")
    if first:
        return first
    host = starter.first_host(environ) if starter.spread(environ) else LOOPBACK
    if host is None or starter is _PADDLE:
        raise ConfigError(
            f"{starter.rank}={environ[starter.rank]}, {starter.world}={environ[starter.world]}: "
            f"nothing says where rank 0 is; set {MASTER}=HOST:PORT for every process, a free port "
            "of the machine that rank 0 runs on"
        )
    job = [environ[name] for name in starter.job if name in environ] or [str(os.getppid())]
    return f"{host}:{PORTS[zlib.crc32('.'.join(job).encode()) % len(PORTS)]}"


def _node_list(environ: Mapping[str, str]) -> str:
    names = ("SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST")
    return next((environ[name] for name in names if name in environ), "")
