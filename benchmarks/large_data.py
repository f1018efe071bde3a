"""How long datasets of millions of images take to start, and the memory of an epoch.

    python benchmarks/large_data.py make FOLDER --kind list --count 1281167
    python benchmarks/large_data.py measure FOLDER --kind list --epoch

`make` writes data of one kind: `folder` (one folder per class, with empty files or, with --links,
links to one file), `list` (a text file; one image exists), or `tar` (shards of 1,000 samples of 16
bytes; with --linked-shards, links to one shard, which bounds the disk). `measure` builds the
dataset in this process and prints one line of JSON: seconds of processor and wall time until the
dataset can be read and its fingerprint is known, and memory. With `--epoch`, two workers then read
the name of each sample once, and of a shard its content; nothing is decoded.

Memory is in MiB: `resident` is all that the process has mapped and touched, `private` what it
shares with no other process and no file (Private_Dirty of /proc/PID/smaps_rollup).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IN_SHARD = 1000
CLASSES = 1000
WORKERS = 2
BATCH = 256


# --------------------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------------------
def make(kind: str, folder: Path, count: int, *, links: bool, linked_shards: bool) -> None:
    folder.mkdir(parents=True)
    (folder / "classes.txt").write_text("".join(f"n{c:08d}\n" for c in range(CLASSES)))
    if kind == "list":
        _make_list(folder, count)
    elif kind == "folder":
        _make_folder(folder / "data", count, links)
    else:
        _make_shards(folder, count, linked_shards)
    past = time.time() - 60  # data that changed in the last seconds has no index
    for path in (folder, *folder.glob("*"), *folder.glob("data/*")):
        os.utime(path, (past, past))


def _name(index: int, count: int) -> str:
    label = index * CLASSES // count
    return f"n{label:08d}/n{label:08d}_{index}.JPEG"


def _make_list(folder: Path, count: int) -> None:
    first = folder / _name(0, count)
    first.parent.mkdir()
    first.touch()
    with (folder / "list.txt").open("w") as lines:
        for index in range(count):
            lines.write(f"{_name(index, count)} {index * CLASSES // count}\n")


def _make_folder(folder: Path, count: int, links: bool) -> None:
    for label in range(CLASSES):
        (folder / f"n{label:08d}").mkdir(parents=True)
    target = folder.parent / "image"
    target.touch()
    for index in range(count):
        path = folder / _name(index, count)
        if links:
            os.symlink(target, path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def _make_shards(folder: Path, count: int, linked: bool) -> None:
    shards = -(-count // IN_SHARD)
    for shard in range(shards):
        path = folder / f"train-{shard:06d}.tar"
        if linked and shard:
            os.symlink("train-000000.tar", path)
            continue
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for index in range(shard * IN_SHARD, min((shard + 1) * IN_SHARD, count)):
                label = b"%d" % (index * CLASSES // count)
                for suffix, content in (("jpg", b"\xff\xd8" + b"." * 14), ("cls", label)):
                    member = tarfile.TarInfo(f"{index:08d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


# --------------------------------------------------------------------------------------------------
# Measurement
# --------------------------------------------------------------------------------------------------
def measure(kind: str, folder: Path, *, epoch: bool) -> dict[str, Any]:
    """Build the dataset of a folder that `make` has written, and read an epoch of it."""
    sys.path.insert(0, os.environ.get("PASSL_CHECKOUT", str(ROOT)))
    from passl.data.datasets.fingerprint import fingerprint
    from passl.data.samplers import BatchSampler
    from passl.data.workers import Workers

    before = _memory("self")
    cpu, wall = sum(os.times()[:4]), time.perf_counter()  # with the processes that it starts
    dataset = _dataset(kind, folder)
    indexed = time.perf_counter() - wall
    facts = fingerprint(dataset)
    found: dict[str, Any] = {
        "kind": kind,
        "samples": len(dataset),
        "fingerprint": facts["sample names"],
        "indexed_s": indexed,
        "start_s": time.perf_counter() - wall,
        "start_cpu_s": sum(os.times()[:4]) - cpu,
        "start": _grown(_memory("self"), before),
        "peak_resident": (_status("VmHWM") - before["resident"]) / 2**20,
    }
    if epoch:
        sampler = BatchSampler(dataset, 0, 0, 1, True, batch_size=BATCH, shuffle=True)
        found |= _epoch(Workers, sampler, dataset, before)
    return {key: _rounded(value) for key, value in found.items()}


def _epoch(workers: Any, sampler: Any, dataset: Any, before: dict[str, int]) -> dict[str, Any]:
    import numpy as np

    read_bytes = dataset.source if isinstance(dataset.source(0), bytes) else dataset.name

    def read(keys: Any) -> list[Any]:
        total = 0
        for _, _, index in keys:
            total += len(dataset.name(index)) + len(read_bytes(index))
        return [np.asarray([total, *(index for *_, index in keys)])]

    loader = workers(
        read,
        sampler,
        count=WORKERS,
        prefetch_factor=2,
        use_shared_memory=True,
        warn_after=60.0,
        timeout=600.0,
    )
    cpu, wall = time.process_time(), time.perf_counter()
    first: list[dict[str, int]] = []
    last: list[dict[str, int]] = []
    seen, batches = 0, len(sampler)
    for number, (batch,) in enumerate(loader.batches(lambda: None)):
        seen += len(batch) - 1
        if number in (8, batches - 8) or number % 500 == 0:
            last = [_memory(pid) for pid in _children()] or last
            first = first or last
    assert seen == len(dataset), (seen, len(dataset))
    return {
        "epoch_s": time.perf_counter() - wall,
        "epoch_cpu_s": time.process_time() - cpu,
        "main_after_epoch": _grown(_memory("self"), before),
        "peak_resident": (_status("VmHWM") - before["resident"]) / 2**20,
        "worker_grew": [_grown(end, begin) for begin, end in zip(first, last, strict=False)],
    }


def _dataset(kind: str, folder: Path) -> Any:
    from passl.data.datasets.image_folder import ImageFolder
    from passl.data.datasets.image_list import ImageList
    from passl.data.datasets.tar_shards import TarShards

    if kind == "list":
        return ImageList(
            dataroot=str(folder),
            list_file=str(folder / "list.txt"),
            class_file=str(folder / "classes.txt"),
        )
    if kind == "folder":
        return ImageFolder(dataroot=str(folder / "data"))
    return TarShards(shards=str(folder / "train-*.tar"), class_file=str(folder / "classes.txt"))


def _children() -> list[str]:
    own = os.getpid()
    return Path(f"/proc/{own}/task/{own}/children").read_text().split()


def _memory(pid: str) -> dict[str, int]:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = {"resident": "Rss", "private": "Private_Dirty"}
    return {
        name: 1024 * int(re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
        for name, field in fields.items()
    }


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]


def _grown(now: dict[str, int], before: dict[str, int]) -> dict[str, float]:
    return {name: (now[name] - before[name]) / 2**20 for name in now}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 2) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("make", "measure"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        command.add_argument("--kind", choices=("folder", "list", "tar"), required=True)
        if name == "make":
            command.add_argument("--count", type=int, default=1_281_167)
            command.add_argument("--links", action="store_true", help="links instead of files")
            command.add_argument("--linked-shards", action="store_true", help="one shard, linked")
        else:
            command.add_argument("--epoch", action="store_true", help="also read an epoch")
    options = vars(parser.parse_args())
    if options.pop("command") == "make":
        make(**options)
    else:
        print(json.dumps(measure(**options)))


if __name__ == "__main__":
    main()
