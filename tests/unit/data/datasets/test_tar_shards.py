"""TarShards: tar files of several makers, in order, in part, and damaged."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl.data import DATASETS
from passl.data.datasets.tar_shards import TarShards, expand_braces
from passl.data.loader import build_loader
from passl.errors import ConfigError, RunError


def encoded(index: int, kind: str = "PNG") -> bytes:
    """Encode an image whose first pixel is its index."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (index % 256, index // 256, 77)).save(
        file, kind, **LOSSLESS.get(kind, {})
    )
    return file.getvalue()


LOSSLESS = {"WEBP": {"lossless": True}}


def index_of(image: Image.Image) -> int:
    red, green, blue = image.getpixel((0, 0))
    assert blue == 77
    return red + 256 * green


def write(path: Path, members, format: int = tarfile.PAX_FORMAT, **changes) -> None:
    """A tar of (name, content); a content of None is a folder."""
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
                continue
            member.size = len(content)
            for key, value in changes.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))


def sample(index: int, label: int | None = None, key: str | None = None):
    key = key or f"{index:06d}"
    return [
        (f"{key}.png", encoded(index)),
        (f"{key}.cls", str(label if label is not None else index % 3).encode()),
    ]


@pytest.fixture
def class_file(tmp_path) -> str:
    path = tmp_path / "classes.txt"
    path.write_text("a\nb\nc\n")
    return str(path)


@pytest.fixture
def shards(tmp_path, class_file):
    """Arguments for shards of so many samples each."""

    def make(*counts: int) -> dict:
        index = 0
        for shard, count in enumerate(counts):
            members = [m for i in range(index, index + count) for m in sample(i)]
            write(tmp_path / f"train-{shard:03d}.tar", members)
            index += count
        last = len(counts) - 1
        return {
            "shards": f"{tmp_path}/train-{{000..{last:03d}}}.tar",
            "class_file": class_file,
        }

    return make


def read(dataset) -> list[tuple[int, int]]:
    return [(index_of(dataset[i][0]), dataset[i][1]) for i in range(len(dataset))]


# -------------------------------------------------------------------------------------------------
# What is read
# -------------------------------------------------------------------------------------------------
def test_samples_are_in_the_order_of_the_shards(shards):
    arguments = shards(3, 1, 5)
    dataset = TarShards(**arguments)
    assert read(dataset) == [(index, index % 3) for index in range(9)]
    assert dataset.labels.tolist() == [index % 3 for index in range(9)]
    assert dataset.classes == TarShards.class_names(**arguments) == ["a", "b", "c"]
    assert dataset.name(4).endswith("train-002.tar: 000004.png")
    assert len(DATASETS.build({"name": "TarShards", **arguments})) == 9


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["", "train/", "x" * 90 + "/" + "y" * 90 + "/", "Käse/"])
def test_tar_formats_of_the_standard_library(tmp_path, class_file, format, folder):
    if format == tarfile.USTAR_FORMAT and "ä" in folder:
        folder = "Kaese/"
    members = [m for i in range(4) for m in sample(i, key=f"{folder}{i}")]
    write(tmp_path / "a.tar", members, format, mtime=1.5e9 + 0.123, uname="somebody")
    dataset = TarShards(shards=str(tmp_path / "a.tar"), class_file=class_file)
    assert read(dataset) == [(0, 0), (1, 1), (2, 2), (3, 0)]
    assert dataset.name(1).endswith(f"a.tar: {folder}1.png")


@pytest.mark.parametrize("format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_tar_formats_of_the_tar_command(tmp_path, class_file, format):
    if shutil.which("tar") is None:
        pytest.skip("needs tar")
    for index in range(4):
        for name, content in sample(index):
            (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "in" / name).write_bytes(content)
    command = ["tar", f"--format={format}", "--sort=name", "-cf", "a.tar", "-C", "in", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("not GNU tar")
    assert done.returncode == 0, done.stderr
    dataset = TarShards(shards=str(tmp_path / "a.tar"), class_file=class_file)
    assert read(dataset) == [(0, 0), (1, 1), (2, 2), (3, 0)]


@pytest.mark.parametrize(("ending", "kind"), [("jpg", "JPEG"), ("JPEG", "JPEG"), ("webp", "WEBP")])
def test_suffixes(tmp_path, class_file, ending, kind):
    write(tmp_path / "a.tar", [(f"x.{ending}", encoded(0, kind)), ("x.cls", b" 2\n")])
    dataset = TarShards(shards=str(tmp_path / "a.tar"), class_file=class_file)
    image, label = dataset[0]
    assert (image.mode, image.size, label) == ("RGB", (8, 8), 2)


def test_other_members_are_ignored(tmp_path, class_file):
    members = [
        ("deep", None),
        *sample(1, 2, "deep/x"),
        ("deep/x.txt", b"a caption"),
        ("deep/x.seg.png", encoded(9)),  # of another ending: the key ends at the first dot
        ("deep/._x.png", b"macOS"),
        ("deep/.cls", b"hidden"),
    ]
    write(tmp_path / "a.tar", members)
    dataset = TarShards(shards=str(tmp_path / "a.tar"), class_file=class_file)
    assert read(dataset) == [(1, 2)]


def test_image_and_label_need_not_be_adjacent(tmp_path, class_file):
    members = [m for i in range(3) for m in sample(i)]
    write(tmp_path / "a.tar", [*members[1::2], *members[::2]])
    dataset = TarShards(shards=str(tmp_path / "a.tar"), class_file=class_file)
    assert read(dataset) == [(0, 0), (1, 1), (2, 2)]


def test_image_keys_and_label_key(tmp_path, class_file):
    members = [
        ("x.seg.png", encoded(5)),
        ("x.jpg", b"another image"),
        ("x.json", json.dumps({"label": 2, "caption": "x"}).encode()),
        ("x.cls", b"0"),
    ]
    write(tmp_path / "a.tar", members)
    dataset = TarShards(
        shards=str(tmp_path / "a.tar"),
        class_file=class_file,
        image_keys=["seg.png"],
        label_key=".json",
    )
    assert read(dataset) == [(5, 2)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a.tar", ["a.tar"]),
        ("a{08..11}.tar", ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]),
        ("a{8..10}.tar", ["a8.tar", "a9.tar", "a10.tar"]),
        ("a{3..3}", ["a3"]),
        ("{b,a}-{0..1}.tar", ["b-0.tar", "b-1.tar", "a-0.tar", "a-1.tar"]),
        ("{a,}.tar", ["a.tar", ".tar"]),
        ("", [""]),
    ],
)
def test_braces_expand_as_in_bash(pattern, found):
    assert expand_braces(pattern) == found
    if pattern and "{3..3}" not in pattern and shutil.which("bash"):
        done = subprocess.run(
            ["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == found


@pytest.mark.parametrize(
    "pattern",
    ["a{1..", "a{1}", "a{}", "a{2..1}", "a{0..999999999999}", "{0..999}{0..999}", "{a,{b}}"],
)
def test_wrong_braces_are_errors(class_file, pattern):
    with pytest.raises(ValueError, match="^shards "):
        expand_braces(pattern)
    with pytest.raises(ConfigError, match="^shards "):
        DATASETS.build({"name": "TarShards", "shards": pattern, "class_file": class_file})


def test_wildcards_are_sorted(tmp_path, class_file):
    for index, name in enumerate("bca"):
        write(tmp_path / f"{name}.tar", sample(index))
    for pattern, found in (("*.tar", [2, 0, 1]), ("{b,[ac]}.tar", [0, 2, 1])):
        dataset = TarShards(shards=f"{tmp_path}/{pattern}", class_file=class_file)
        assert [index for index, _ in read(dataset)] == found


def test_existing_file_with_wildcards_in_its_name(tmp_path, class_file):
    write(tmp_path / "[1].tar", sample(0))
    assert len(TarShards(shards=str(tmp_path / "[1].tar"), class_file=class_file)) == 1


# -------------------------------------------------------------------------------------------------
# Orders
# -------------------------------------------------------------------------------------------------
def shard_of(dataset, samples) -> np.ndarray:
    return np.searchsorted(dataset.names.begins, samples, side="right") - 1


def shuffled(dataset, seed: int = 0) -> np.ndarray:
    return dataset.shuffled(np.random.default_rng(seed))


@pytest.mark.parametrize("buffer_size", [1, 2, 7, 30, 1000])
def test_order_has_every_sample_once(shards, buffer_size):
    dataset = TarShards(**shards(3, 1, 5, 20, 1), buffer_size=buffer_size)
    orders = [shuffled(dataset, seed) for seed in (0, 0, 1)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(30))
    np.testing.assert_array_equal(orders[0], orders[1])
    assert orders[0].tolist() != orders[2].tolist()


def test_buffer_of_one_reads_each_shard_in_order(shards):
    dataset = TarShards(**shards(3, 4, 5), buffer_size=1)
    firsts = set()
    for seed in range(20):
        order = shuffled(dataset, seed)
        runs = np.split(order, np.flatnonzero(np.diff(shard_of(dataset, order))) + 1)
        assert sorted(map(tuple, runs)) == [(0, 1, 2), (3, 4, 5, 6), (7, 8, 9, 10, 11)]
        firsts.add(int(order[0]))
    assert firsts == {0, 3, 7}


def test_order_stays_close_to_the_shards(shards):
    dataset = TarShards(**shards(*[40] * 12), buffer_size=50)
    order = shuffled(dataset)
    met = dict.fromkeys(shard_of(dataset, order).tolist())
    sequence = {shard: place for place, shard in enumerate(met)}
    # Place in the unshuffled order of the shards, to within the order in which they are first met.
    due = np.array([sequence[int(shard_of(dataset, i))] * 40 + i % 40 for i in order])
    early = due - np.arange(len(order))
    assert early.max() <= 50 + 40
    windows = [set(shard_of(dataset, order[at : at + 40])) for at in range(0, 440, 40)]
    assert max(map(len, windows)) < 12
    assert np.corrcoef(due, np.arange(len(due)))[0, 1] > 0.9


def test_large_buffer_shuffles_uniformly(shards):
    """Every place sees every sample alike: the mean place of each is the middle."""
    dataset = TarShards(**shards(5, 5), buffer_size=10)
    places = np.array([np.argsort(shuffled(dataset, seed)) for seed in range(2000)])
    deviation = np.sqrt((10**2 - 1) / 12 / 2000)
    assert np.abs(places.mean(axis=0) - 4.5).max() < 5 * deviation


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2), (3, 0)])
def test_ranks_and_workers_share_an_epoch(shards, world, workers):
    arguments = shards(5, 9, 4, 6)

    def indices(world, workers, start=0):
        section = {
            "dataset": {
                "name": "TarShards",
                **arguments,
                "buffer_size": 6,
                "transforms": [{"name": "Normalize", "mean": [0, 0, 0], "std": [1, 1, 1]}],
            },
            "sampler": {"batch_size": 2, "shuffle": True},
            "loader": {"num_workers": workers},
        }
        found = []
        for rank in range(world):
            for batch in build_loader(section, 3, rank, world).epoch(1, start):
                pixels = np.asarray(batch.images)[:, 0, 0, 0] * 255
                np.testing.assert_array_equal(pixels.round(), np.asarray(batch.indices))
                found.append(np.asarray(batch.indices).tolist())
        return found

    got = indices(world, workers)
    assert sorted(sum(got, [])) == list(range(24))
    if world == 1:
        assert got == indices(1, 0)
        assert indices(1, workers, start=7) == got[7:]


def test_fork_and_parent_read_at_the_same_time(shards):
    dataset = TarShards(**shards(30, 30))
    expected = read(dataset)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(read(dataset) == expected for _ in range(5)) else 1)
    for _ in range(5):
        assert read(dataset) == expected
    assert os.waitpid(child, 0)[1] == 0


# -------------------------------------------------------------------------------------------------
# What is refused
# -------------------------------------------------------------------------------------------------
IMAGE = encoded(0)
BAD = {
    "no label": ([("x.png", IMAGE)], r"x: has no label \(cls\)"),
    "no image": ([("x.cls", b"0")], r"x: has no image \(jpeg, jpg, png, webp\)"),
    "two images": (
        [("x.png", IMAGE), ("x.jpg", IMAGE), ("x.cls", b"0")],
        r"x\.jpg: the second image of x; a sample has one",
    ),
    "a key again": ([*sample(0, key="x"), *sample(1, key="x")], r"x\.png: the second image of x"),
    "two labels": (
        [("x.png", IMAGE), ("x.cls", b"0"), ("x.cls", b"1")],
        r"x\.cls: the second label of x",
    ),
    "label too large": (sample(0, 3, "x"), r"x\.png: label 3 is above the 3 classes of .*classes"),
    "negative": (sample(0, -1, "x"), r"x\.cls: the label '-1' is not a number of at least 0"),
    "a word": ([("x.png", IMAGE), ("x.cls", b"cat")], "the label 'cat' is not a number"),
    "empty label": ([("x.png", IMAGE), ("x.cls", b"")], "the label '' is not a number"),
    "bytes": ([("x.png", IMAGE), ("x.cls", b"\xff\x00")], "is not a number"),
    "empty": ([], "no sample; a shard has images with suffixes jpeg, jpg, png, webp"),
    "other files": ([("x.txt", b"0")], "no sample"),
}


def refusal(tmp_path, class_file, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        TarShards(shards=str(tmp_path / "a.tar"), class_file=class_file, **options)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.tar'}: ")
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("case", BAD)
def test_bad_sample_is_a_one_line_error(tmp_path, class_file, case):
    members, rule = BAD[case]
    write(tmp_path / "a.tar", members)
    assert re.search(rule, refusal(tmp_path, class_file))


@pytest.mark.parametrize("text", [b"", b"3", b'{"label": "cat"}', b'{"label": true}', b"[" * 10**5])
def test_json_without_label_is_an_error(tmp_path, class_file, text):
    write(tmp_path / "a.tar", [("x.png", IMAGE), ("x.json", text)])
    message = refusal(tmp_path, class_file, label_key="json")
    assert re.search(r"x\.json: the label '.*' is not a number", message)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_link_member_is_an_error(tmp_path, class_file, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("x.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    assert "x.png: is a link or sparse" in refusal(tmp_path, class_file)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_compressed_shard_is_an_error(tmp_path, class_file, mode):
    with tarfile.open(tmp_path / "a.tar", f"w:{mode}") as archive:
        archive.addfile(tarfile.TarInfo("x.png"))
    assert "is compressed, so that no image of it can be read alone" in refusal(
        tmp_path, class_file
    )


def test_truncated_shard_is_an_error(tmp_path, class_file):
    write(tmp_path / "whole.tar", [m for i in range(3) for m in sample(i)])
    whole = (tmp_path / "whole.tar").read_bytes()
    end = len(whole.rstrip(b"\0"))
    assert end > 3000
    for length in [*range(0, end, 128), *range(512, end, 512)]:
        (tmp_path / "a.tar").write_bytes(whole[:length])
        message = refusal(tmp_path, class_file)
        assert "download it again" in message


def test_damaged_header_is_an_error(tmp_path, class_file):
    write(tmp_path / "whole.tar", [m for i in range(3) for m in sample(i)], tarfile.USTAR_FORMAT)
    whole = bytearray((tmp_path / "whole.tar").read_bytes())
    second = whole.index(b"000001.png")
    for place in (0, second, second + 124, second + 148):
        content = bytearray(whole)
        content[place] ^= 0x55
        (tmp_path / "a.tar").write_bytes(content)
        assert "download it again" in refusal(tmp_path, class_file)


@pytest.mark.parametrize("content", [b"x", b"no tar" * 1000, bytes(range(256)) * 10])
def test_file_that_is_not_a_tar_is_an_error(tmp_path, class_file, content):
    (tmp_path / "a.tar").write_bytes(content)
    assert "damaged, or not a tar file" in refusal(tmp_path, class_file)


def test_missing_shards_are_an_error(shards, tmp_path, class_file):
    shards(1, 1)
    for call in (TarShards, TarShards.class_names):
        with pytest.raises(ConfigError, match=r"train-002\.tar: there is no such shard; 2 more"):
            call(shards=f"{tmp_path}/train-{{000..004}}.tar", class_file=class_file)
        with pytest.raises(ConfigError, match=r"val-\*\.tar: there is no such shard"):
            call(shards=f"{tmp_path}/val-*.tar", class_file=class_file)


def test_folder_or_pipe_is_not_reported_as_missing(shards, tmp_path, class_file):
    shards(1, 1)
    os.mkfifo(tmp_path / "pipe-1.tar")
    (tmp_path / "folder-1.tar").mkdir()
    for name, what in (("pipe", "is not a regular file"), ("folder", "is a folder, not a shard")):
        for pattern in ("-*.tar", "-1.tar", "-{1,2}.tar"):
            with pytest.raises(ConfigError, match=rf"{name}-1\.tar.*: {what}"):
                TarShards(shards=f"{tmp_path}/{name}{pattern}", class_file=class_file)


def test_links_to_shards_are_followed(shards, tmp_path, class_file):
    """One that leads nowhere is found before any shard is read."""
    shards(1, 1)
    os.symlink(tmp_path / "train-000.tar", tmp_path / "linked-0.tar")
    pattern = f"{tmp_path}/linked-*.tar"
    assert len(TarShards(shards=pattern, class_file=class_file)) == 1
    os.symlink(tmp_path / "gone.tar", tmp_path / "linked-1.tar")
    for call in (TarShards, TarShards.class_names):
        with pytest.raises(ConfigError, match=r"linked-1\.tar: there is no such shard"):
            call(shards=pattern, class_file=class_file)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"buffer_size": 0}, "buffer_size: must be a whole number of at least 1"),
        ({"image_keys": []}, "must be endings"),
        ({"image_keys": [""]}, "must be endings"),
        ({"label_key": ""}, "must be endings"),
        ({"label_key": "PNG"}, "not the same ones"),
    ],
    ids=str,
)
def test_wrong_options_are_errors(shards, options, rule):
    with pytest.raises(ConfigError, match=f"dataset TarShards: .*{rule}"):
        DATASETS.build({"name": "TarShards", **shards(1), **options})


def test_unreadable_image_is_an_error(tmp_path, class_file):
    write(tmp_path / "a.tar", [("x.jpg", b"no image"), ("x.cls", b"0"), *sample(1, key="y")])
    dataset = TarShards(shards=str(tmp_path / "a.tar"), class_file=class_file)
    rule = rf"^{re.escape(str(tmp_path))}/a\.tar: x\.jpg: cannot be read as an image"
    with pytest.raises(RunError, match=rule):
        dataset[0]
    assert index_of(dataset[1][0]) == 1


@pytest.mark.parametrize("change", ["cut", "gone"])
def test_changed_shard_is_an_error(shards, tmp_path, change):
    dataset = TarShards(**shards(4))
    path = tmp_path / "train-000.tar"
    if change == "cut":
        path.write_bytes(path.read_bytes()[:3000])
    else:
        path.unlink()
    rule = {"cut": "has become shorter", "gone": "cannot be read: No such file"}[change]
    with pytest.raises(RunError, match=rf"train-000\.tar: 000003\.png: .*{rule}"):
        dataset[3]
