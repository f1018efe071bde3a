"""Checkpoints in object storage: fsspec's memory:// with faults."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from passl.engine.checkpoint import read_checkpoint
from passl.engine.metrics import MetricLog
from passl.engine.progress import Progress
from passl.engine.remote_folder import RemoteFolder
from passl.engine.saver import Saver
from passl.errors import ConfigError, RunError
from passl.io import remote
from tests.learners import learner_of


class Storage(MemoryFileSystem):
    """Has faults: `cut` files of that name are cut short, `failing` writes are refused, and with
    `late` listings know nothing yet.
    """

    cachable = False

    def __init__(self):
        super().__init__()
        self.cut, self.failing, self.late, self.puts = [], False, False, 0

    def put_file(self, lpath, rpath, **options):
        self.puts += 1
        self._write(rpath, Path(lpath).read_bytes())

    def pipe_file(self, path, value, **options):
        self._write(path, value)

    def _write(self, path, content):
        if self.failing:
            raise OSError("no connection")
        if any(name in path for name in self.cut):
            self.cut.pop()
            super().pipe_file(path, content[: len(content) // 2])
            raise OSError("the connection was cut")
        super().pipe_file(path, content)

    def ls(self, path, detail=True, **options):
        return [] if self.late else super().ls(path, detail, **options)


@pytest.fixture
def storage(monkeypatch):
    found = Storage()
    monkeypatch.setattr(remote, "_system_of", lambda url: found)
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))
    return found


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    """One for all tests: none of them trains it."""
    import yaml

    from tests.stress.chaos import configs

    path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_text(yaml.safe_dump(configs(1)["CvT"] | {"output_dir": "unused"}))
    return learner_of(path)


@pytest.fixture
def url(tmp_path):
    return f"memory://{tmp_path}"


@pytest.fixture
def machine(tmp_path, storage, learner, url):
    """machine("a") -> saver of a run on that machine, whose disk is its own."""

    def make(name: str, **options) -> Saver:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Saver(folder, learner, MetricLog(None), {}, ["a"], url=url, **options)

    return make


def steps(folder: Path) -> dict[str, int]:
    """The step of each checkpoint in a folder."""
    found = {path.stem: read_checkpoint(path).metadata for path in folder.glob("*.safetensors")}
    return {name: json.loads(data["progress"])["step"] for name, data in found.items()}


def restored(tmp_path: Path, url: str, name: str = "new") -> dict[str, int]:
    RemoteFolder(tmp_path / name, url).restore()
    return steps(tmp_path / name)


def objects(url: str) -> int:
    return len(remote.names_at(f"{url}/objects"))


def test_another_machine_continues(machine, tmp_path, url):
    one = machine("a")
    (one.folder / "metrics.jsonl").write_text('{"phase": "train", "step": 1}\n')
    for step in (1, 2, 3):
        one.save(Progress(step=step), (-1.0, 0) if step == 1 else None)
    assert steps(one.folder) == {"last": 3, "previous": 2, "best": 1}
    assert restored(tmp_path, url) == steps(one.folder)
    assert (tmp_path / "new" / "metrics.jsonl").read_text().startswith('{"phase"')
    other = machine("new")
    other.save(Progress(step=4))
    # The first machine comes back: what it has is older.
    assert restored(tmp_path, url, "a") == {"last": 4, "previous": 3, "best": 1}


def test_local_files_are_used_if_they_are_newer(machine, tmp_path, url, storage):
    one = machine("a", on_error="continue")
    one.save(Progress(step=1))
    storage.failing = True
    one.save(Progress(step=2))
    assert not one.wait()
    assert restored(tmp_path, url) == {"last": 1}
    assert restored(tmp_path, url, "a") == {"last": 2, "previous": 1}
    storage.failing = False
    one.save(Progress(step=3))
    assert one.wait()
    assert restored(tmp_path, url, "b") == {"last": 3, "previous": 2}


@pytest.mark.parametrize("cut", ["objects/", "last.json", "previous.json"])
def test_write_that_is_cut_is_repeated(machine, tmp_path, url, storage, cut):
    one = machine("a")
    one.save(Progress(step=1))
    storage.cut = [cut]
    one.save(Progress(step=2))
    assert storage.cut == []
    assert restored(tmp_path, url) == {"last": 2, "previous": 1}


@pytest.mark.parametrize("cut", ["objects/", "last.json", "previous.json"])
def test_run_killed_in_a_write_has_a_complete_state(machine, tmp_path, url, storage, cut):
    """Every attempt is cut, which leaves what a kill leaves."""
    one = machine("a")
    one.save(Progress(step=1))
    storage.cut = [cut] * 4
    with pytest.raises(RunError, match=r"step 2 is in .*after 4 attempts.*--resume auto"):
        one.save(Progress(step=2))
    assert restored(tmp_path, url, "other")["last"] in (1, 2)
    # The same machine has more.
    assert restored(tmp_path, url, "a") == {"last": 2, "previous": 1}
    machine("a").save(Progress(step=3))
    assert restored(tmp_path, url, "third") == {"last": 3, "previous": 2}


def test_first_manifest_that_is_cut(machine, tmp_path, url, storage):
    """Only the machine that wrote it knows whose it is."""
    storage.cut = ["last.json"] * 4
    with pytest.raises(RunError, match="step 1 is in"):
        machine("a").save(Progress(step=1))
    with pytest.raises(ConfigError, match=r"last.json is damaged"):
        restored(tmp_path, url)
    assert restored(tmp_path, url, "a") == {"last": 1}
    machine("a").save(Progress(step=2))
    assert restored(tmp_path, url) == {"last": 2, "previous": 1}


def test_late_listings_do_no_harm(machine, tmp_path, url, storage):
    one = machine("a")
    storage.late = True
    for step in (1, 2, 3):
        one.save(Progress(step=step))
    assert restored(tmp_path, url) == {"last": 3, "previous": 2}


def test_missing_object_leads_to_the_checkpoint_before(machine, tmp_path, url, storage):
    one = machine("a")
    for step in (1, 2):
        one.save(Progress(step=step))
    manifest = json.loads(remote.read_url(f"{url}/last.json"))
    storage.rm_file(f"{tmp_path}/objects/{manifest['files']['last.safetensors']['sha256']}")
    assert restored(tmp_path, url) == {"previous": 1}
    storage.rm_file(f"{tmp_path}/objects/{manifest['files']['previous.safetensors']['sha256']}")
    with pytest.raises(RunError, match=r"none of them is there.*another checkpoint.url"):
        restored(tmp_path, url, "b")


def test_objects_are_stored_once_and_removed(machine, tmp_path, url, storage):
    """`best`, `last` and `recent_N` are one object; old ones, and those of killed runs, go."""
    one = machine("a", keep_last=2, keep_interval=2)
    storage.pipe_file(f"{tmp_path}/objects/{'0' * 64}", b"of a killed run")
    for step in range(1, 8):
        one.save(Progress(step=step), (-1.0, 0))
    assert storage.puts == 7
    assert objects(url) == len({2, 4, 6, 7} | {5})  # 5 is in the manifest before
    # A machine that does not have the kept ones does not drop them.
    restored(tmp_path, url)
    machine("new", keep_last=2, keep_interval=2).save(Progress(step=8))
    files = json.loads(remote.read_url(f"{url}/last.json"))["files"]
    kept = {f"step_{step}.safetensors" for step in (2, 4, 6, 8)}
    assert {name for name in files if "_" in name} == kept | {
        "recent_7.safetensors",
        "recent_8.safetensors",
    }


def test_files_on_a_disk_and_a_folder_that_is_missing(tmp_path):
    """With fsspec's own file system."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "last.safetensors").write_bytes(b"some")
    RemoteFolder(tmp_path / "a", f"file://{tmp_path}/store").publish(1)
    RemoteFolder(tmp_path / "b", f"file://{tmp_path}/store").restore()
    assert (tmp_path / "b" / "last.safetensors").read_bytes() == b"some"
    with pytest.raises(OSError, match=r"no/such: .*make what it is in first"):
        RemoteFolder(tmp_path / "a", f"file://{tmp_path}/no/such").publish(1)


def test_two_runs_do_not_share_an_address(machine, tmp_path, url):
    one = machine("a")
    one.save(Progress(step=1))
    with pytest.raises(ConfigError, match=r"holds a run already.*--resume auto"):
        RemoteFolder(tmp_path / "b", url).check_unused()
    with pytest.raises(ConfigError, match="holds another run"):
        machine("b").save(Progress(step=1))
    restored(tmp_path, url, "c")
    machine("c").save(Progress(step=2))
    with pytest.raises(RunError, match="another process has written generation 2"):
        one.save(Progress(step=2))


def test_crafted_manifest_is_not_followed(tmp_path, url, storage):
    """A name of a file cannot lead out of the folder."""
    file = {"sha256": "0" * 64, "size": 1}
    manifest = {"format": 1, "id": "x", "generation": 1, "files": {"../last.safetensors": file}}
    storage.pipe_file(f"{tmp_path}/last.json", json.dumps(manifest).encode())
    with pytest.raises(ConfigError, match=r"last.json is damaged.*another checkpoint.url"):
        restored(tmp_path, url)
    assert not list(tmp_path.glob("**/*.safetensors"))


def test_what_is_no_address_and_a_missing_package_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"checkpoint.url: bucket/run is not an address"):
        RemoteFolder(tmp_path, "bucket/run")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[remote\]'"):
        RemoteFolder(tmp_path, "s3://no-such-bucket/run").check_unused()
