"""Shards at an address: the samples of local ones, from a server that answers well or badly."""

from __future__ import annotations

import json
import os
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from passl.data.datasets import remote_shards
from passl.data.datasets.fingerprint import fingerprint
from passl.data.datasets.image_folder import ImageFolder
from passl.data.datasets.tar_shards import TarShards
from passl.data.loader import Loader
from passl.data.pack import Packing, pack
from passl.data.samplers import BatchSampler
from passl.errors import ConfigError, RunError
from passl.io import remote
from tests.unit.data import range_server
from tests.unit.data.range_server import serving

COUNT = 12


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Twelve images in three shards, each of several blocks."""
    folder, rng = tmp_path_factory.mktemp("packed"), np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / "images" / f"c{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(path)
    dataset = ImageFolder(dataroot=str(folder / "images"))
    pack(dataset, folder / "out", "train", Packing(format="png", samples=4), 0)
    return folder / "out"


@pytest.fixture
def server(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(remote_shards, "PIECE", 6000)
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))
    with serving(packed) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def _connections():
    yield
    remote._close_connections()


@pytest.fixture
def local(packed) -> TarShards:
    return TarShards(shards=f"{packed}/*.tar", class_file=f"{packed}/classes.txt", buffer_size=4)


def remote_dataset(server, shards: str = "*.tar", **options) -> TarShards:
    options = {"class_file": f"{server.url}/classes.txt", "buffer_size": 4, **options}
    return TarShards(shards=f"{server.url}/{shards}", **options)


def contents(dataset) -> list[bytes]:
    return [dataset.source(index) for index in range(len(dataset))]


def ranges(server) -> list[tuple[str, str | None]]:
    return [request for request in server.requests if request[0].endswith(".tar")]


def test_samples_are_those_of_local_shards(server, local):
    dataset = remote_dataset(server)
    assert {path for path, _ in server.requests} == {
        "/classes.txt",
        "/manifest.json",
        "/members.idx",
    }
    assert contents(dataset) == contents(local)
    assert dataset.classes == local.classes
    assert fingerprint(dataset) == fingerprint(local)
    order = [data.shuffled(np.random.default_rng(3)).tolist() for data in (dataset, local)]
    assert order[0] == order[1]
    # Each block is received once, and a later start receives nothing of shards and index.
    assert len(set(ranges(server))) == len(ranges(server)) > 3
    server.requests.clear()
    # As a spawned worker gets it.
    again = pickle.loads(pickle.dumps(remote_dataset(server)))  # noqa: S301
    assert contents(again) == contents(local)
    assert [path for path, _ in server.requests] == ["/classes.txt", "/manifest.json"]


def test_some_of_the_shards(server, packed):
    names = "train-{000002,000000}.tar"
    dataset = remote_dataset(server, names)
    local = TarShards(shards=f"{packed}/{names}", class_file=f"{packed}/classes.txt")
    assert contents(dataset) == contents(local)
    assert dataset.labels.tolist() == local.labels.tolist()
    assert fingerprint(dataset) == fingerprint(local)
    with pytest.raises(ConfigError, match=r"train-9\.tar: there is no such shard; .* has 3"):
        remote_dataset(server, "train-9.tar")


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_of_ranks_and_workers_are_exact(server, local, workers):
    dataset = remote_dataset(server)
    first = dataset.source(0)  # a connection of this process, which workers must not use
    seen = []
    for rank in range(2):
        loaders = [
            Loader(
                data,
                [lambda image, rng: np.asarray(image, np.float32).transpose(2, 0, 1)],
                BatchSampler(data, 0, rank, 2, True, batch_size=3, shuffle=True),
                num_workers=count,
            )
            for data, count in ((dataset, workers), (local, 0))
        ]
        for start in (0, 1):  # and resumed
            batches = [list(loader.epoch(1, start)) for loader in loaders]
            assert len(batches[0]) == len(batches[1]) == 2 - start
            for found, expected in zip(*batches, strict=True):
                np.testing.assert_array_equal(found.indices, expected.indices)
                np.testing.assert_array_equal(found.images, expected.images)
            if start == 0:
                seen += [int(i) for batch in batches[0] for i in batch.indices]
    assert sorted(seen) == list(range(COUNT))
    assert len(set(ranges(server))) == len(ranges(server))  # shared through the cache
    assert dataset.source(0) == first


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("cut", "ContentLength|payload|disconnected"),
        ("slow", "no complete answer in 0.2 s"),
        ("wrong", "are not those that were packed"),
        ("short", "bytes instead of"),
        ("busy", "the server says 503"),
    ],
)
def test_faults_are_tried_again_and_named(server, local, monkeypatch, fault, reason):
    monkeypatch.setattr(remote, "TIMEOUT", 0.2 if fault == "slow" else 30.0)
    dataset = remote_dataset(server)
    answer = getattr(range_server, fault)
    server.faults = [answer, answer]
    assert dataset.source(0) == local.source(0)
    assert len(ranges(server)) == 3
    server.always = answer
    with pytest.raises(RunError, match=reason) as raised:
        dataset.source(COUNT - 1)
    message = str(raised.value)
    assert message.startswith(f"{server.url}/train-000002.tar: ")
    assert "after 4 attempts; check the server and the network" in message
    server.always = None
    assert contents(dataset) == contents(local)  # nothing wrong was kept


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("ignored_range", "a server that supports range requests"), ("forbidden", "says 403")],
)
def test_faults_that_stay_are_not_tried_again(server, fault, reason):
    dataset = remote_dataset(server)
    server.always = getattr(range_server, fault)
    with pytest.raises(RunError, match=reason):
        dataset.source(0)
    assert len(ranges(server)) == 1


def test_other_data_at_the_address_is_not_mixed(server, packed, tmp_path):
    """A cache of earlier data at the same address is not used, and files that do not fit together
    are errors.
    """
    old = contents(remote_dataset(server))
    data, out = ImageFolder(dataroot=str(packed.parent / "images")), tmp_path / "new"
    pack(data, out, "train", Packing(format="raw", samples=4), 0)
    server.folder = out
    keys = {"image_keys": ["ppm"]}
    new = contents(remote_dataset(server, **keys))
    assert len(new) == COUNT
    assert not set(new) & set(old)
    with pytest.raises(ConfigError, match="image_keys"):
        remote_dataset(server)
    (out / "members.idx").write_bytes((packed / "members.idx").read_bytes())
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["index"]["sha256"] = "0" * 64
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"members\.idx: "):
        remote_dataset(server, **keys)
    del manifest["index"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="names no index; the same call of `passl pack`"):
        remote_dataset(server, **keys)
    (out / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="those of `passl pack`, which writes it"):
        remote_dataset(server, **keys)


def test_no_files_stay_open(server, local):
    dataset = remote_dataset(server)
    dataset.source(0)
    before = len(os.listdir("/proc/self/fd"))
    assert contents(dataset) == contents(local)
    assert contents(dataset) == contents(local)
    assert len(os.listdir("/proc/self/fd")) == before


def test_small_cache_is_warned_of_and_kept(server, local, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("passl.data.datasets.remote_shards.get_logger", lambda: caplog_logger())
    dataset = remote_dataset(server, cache_gib=8_000 / 2**30, buffer_size=12)
    assert "increase cache_gib or reduce buffer_size" in caplog.text
    assert contents(dataset) == contents(local)
    entries = [path for path in (tmp_path / "home" / "shards").glob("??/*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in entries) <= 8_000


def caplog_logger():
    import logging

    return logging.getLogger("test_remote_shards")


def test_what_is_missing_is_named(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ConfigError, match=r"needs fsspec: .*pip install '\.\[remote\]'"):
        remote.read_url("s3://bucket/manifest.json")
    monkeypatch.undo()
    for url, rule in (
        ("nothing://host/a.tar", "nothing"),
        ("https://me:secret@host/a.tar", "has a user's name"),
        ("https://[a/b.tar", "is not an address"),
    ):
        with pytest.raises(ConfigError, match=rule) as raised:
            remote.read_url(url)
        assert "secret" not in str(raised.value)
