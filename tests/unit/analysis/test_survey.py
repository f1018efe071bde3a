"""tools/check_data.py: every sample is read, and what is wrong with the data is found."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl.analysis.data_report import is_clean, lines, report
from passl.analysis.survey import duplicates, survey
from passl.data.build import build_dataset
from passl.data.datasets.base import ImageDataset
from passl.errors import RunError

ROOT = Path(__file__).resolve().parents[3]
RNG = np.random.default_rng(0)
BYTES_NAME = os.fsdecode(b"caf\xe9.png")


def image(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Of random pixels."""
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(RNG.integers(0, 256, shape, np.uint8))


def save(image: Image.Image, path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def folders(tmp_path):
    """Training data with a truncated JPEG, an empty file, and two images that are there twice, one
    of them in two classes; validation data with one of its images in another format.
    """
    train, val = tmp_path / "train", tmp_path / "val"
    for number in range(5):
        save(image(20 + number, 30), train / "cat" / f"{number}.png")
    for number in range(2):
        save(image(20, 30, "L"), train / "dog" / f"{number}.png")
    save(image(20, 30, "RGBA"), train / "dog" / BYTES_NAME)
    save(image(40, 40), train / "cat" / "cut.jpg")
    whole = (train / "cat" / "cut.jpg").read_bytes()
    (train / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "dog" / "empty.png").touch()
    with Image.open(train / "cat" / "0.png") as again:
        save(again, train / "dog" / "same.bmp")
    (train / "dog" / "copy.png").write_bytes((train / "dog" / "1.png").read_bytes())
    for name in ("cat", "dog"):
        save(image(8, 8), val / name / "0.png")
    with Image.open(train / "cat" / "3.png") as leaked:
        save(leaked, val / "cat" / "leaked.tiff")
    return train, val


def dataset_of(folder: Path, **options) -> ImageDataset:
    return build_dataset({"name": "ImageFolder", "dataroot": str(folder), **options})


@pytest.mark.parametrize("workers", [0, 2])
def test_every_problem_is_found(folders, workers):
    train, val = map(dataset_of, folders)
    told: list[int] = []
    parts = {
        "train": (train, survey(train, workers, told.append)),
        "val": (val, survey(val, workers, told.append)),
    }
    assert sum(told) == len(train) + len(val) == 15
    found = report(parts)
    part = found["parts"]["train"]
    root = str(folders[0])
    bad = {os.path.relpath(sample["name"], root): sample for sample in part["unreadable"]}
    assert {name: sample["class"] for name, sample in bad.items()} == {
        "cat/cut.jpg": "cat",
        "dog/empty.png": "dog",
    }
    assert "truncated" in bad["cat/cut.jpg"]["reason"]
    assert part["samples"] == 12
    assert part["modes"] == {"RGB": 6, "L": 3, "RGBA": 1}
    assert part["classes"] == {"cat": 6, "dog": 6}
    assert found["parts"]["val"]["imbalance"] == 2.0
    # Widths in order: 20 six times, 20, 21, 22, 23, 24.
    assert part["sizes"]["width"] == {"min": 20, "5%": 20, "median": 20, "95%": 24, "max": 24}
    assert part["sizes"]["distinct"] == 5
    groups = [
        [(os.path.relpath(sample["name"], root), sample["class"]) for sample in group]
        for group in part["duplicates"]
    ]
    assert sorted(groups) == [
        [("cat/0.png", "cat"), ("dog/same.bmp", "dog")],
        [("dog/1.png", "dog"), ("dog/copy.png", "dog")],
    ]
    (both,) = found["duplicates_between_parts"]
    assert [Path(sample["name"]).name for sample in both["train"]] == ["3.png"]
    assert [Path(sample["name"]).name for sample in both["val"]] == ["leaked.tiff"]
    assert not is_clean(found)
    text = "\n".join(lines(found))
    assert "train: duplicate images: 2, 1 of them in several classes" in text
    assert "in both parts: 1" in text


def test_clean_data_of_every_kind(tmp_path):
    """A list, a part of a dataset, and what is no file; a subset is read as it is."""
    for number in range(4):
        save(image(8, 8), tmp_path / "data" / f"{number}.png")
    (tmp_path / "list.txt").write_text("".join(f"{n}.png {n % 2}\n" for n in range(4)))
    listed = {"dataroot": str(tmp_path / "data"), "list_file": str(tmp_path / "list.txt")}
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for number in range(3):
            for ending, content in (
                ("png", (tmp_path / "data" / f"{number}.png").read_bytes()),
                ("cls", str(number % 2).encode()),
            ):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    (tmp_path / "classes.txt").write_text("even\nodd\n")
    shards = {"shards": str(tmp_path / "a.tar"), "class_file": str(tmp_path / "classes.txt")}
    kinds = {
        "list": ({"name": "ImageList", **listed}, 4, {"RGB": 4}),
        "shards": ({"name": "TarShards", **shards}, 3, {"RGB": 3}),
        "grey": ({"name": "ImageList", **listed, "mode": "L"}, 4, {"RGB": 4}),
        "digits": ({"name": "Digits", "split": "val", "fraction": 0.1}, 40, {"L": 40}),
    }
    surveys = {}
    for kind, (node, count, modes) in kinds.items():
        data = build_dataset(node)
        surveys[kind] = survey(data, 0, lambda n: None)
        found = report({"train": (data, surveys[kind])})
        assert is_clean(found), kind
        assert found["parts"]["train"]["samples"] == count
        assert found["parts"]["train"]["modes"] == modes, kind
        assert "in both parts" not in "\n".join(lines(found))
    # The same pixels in a shard as in a file; as grey they are others.
    digests = [surveys[kind].digests[:3].tolist() for kind in ("list", "shards", "grey")]
    assert digests[0] == digests[1] != digests[2]


def test_groups_of_the_same_digest():
    digests = np.array([[1, 2], [3, 4], [1, 2], [0, 0], [0, 0], [3, 5], [1, 2]], np.uint64)
    groups = duplicates(digests, np.array([0, 1, 2, 5, 6]))  # the fourth and fifth are bad
    assert [group.tolist() for group in groups] == [[0, 2, 6]]
    assert duplicates(digests, np.array([], int)) == []


class Deadly(ImageDataset):
    """Sample 40 ends the process that reads it, sample 41 raises, sample 42 is bad."""

    classes = ["one"]
    labels = np.zeros(100, np.int64)

    def load_image(self, index: int) -> Image.Image:
        if index == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 41:
            raise IndexError("of a reader of one's own")
        if index == 42:
            raise RunError("sample 42: bad")
        return Image.new("RGB", (index + 1, 4))

    def name(self, index: int) -> str:
        return f"sample {index}"


def test_a_file_that_kills_the_reader_is_a_bad_file():
    found = survey(Deadly(), 2, lambda n: None)
    assert list(found.bad) == [40, 41, 42]
    assert "sample 40: reading it ends the process" in found.bad[40]
    assert "sample 41: IndexError of a reader of one's own" in found.bad[41]
    assert found.bad[42] == "sample 42: bad"
    assert found.sizes[:, 0].tolist() == [0 if 40 <= i <= 42 else i + 1 for i in range(100)]


# --------------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------------
def test_the_command(run_tool, folders, tmp_path):
    file = tmp_path / "report.json"
    done = run_tool("check_data.py", *folders, "--workers", 0, "--json", file, expect=1)
    assert "train: unreadable: 2" in done.stdout
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["parts"]["train"]["samples"] == 12
    assert not is_clean(found)
    again = run_tool("check_data.py", *folders, "--json", file, expect=2)
    assert "is there already" in again.stderr
    assert json.loads(file.read_text(encoding="utf-8")) == found


def test_the_command_with_a_config(run_tool, tiny_config, tmp_path):
    """Only the data is looked at; what else the config lacks is no matter."""
    path = tmp_path / "data.yaml"
    path.write_text("dataloader: {val: {dataset: {name: Digits, split: val}}}\n")
    done = run_tool("check_data.py", "-c", path, "--part", "val", "--workers", 0)
    assert "val: 360 samples of 10 classes" in done.stdout
    failed = run_tool("check_data.py", "-c", path, expect=2)
    assert "dataloader.train.dataset is missing" in failed.stderr
    wrong = ("-o", "dataloader.val.dataset.splt=val")
    failed = run_tool("check_data.py", "-c", tiny_config(), *wrong, expect=2)
    assert "did you mean 'split'?" in failed.stderr
    for arguments in ((), (tmp_path, "-c", path), ("a", "b", "c"), (tmp_path, "--part", "val")):
        run_tool("check_data.py", *arguments, expect=2)


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_ended_leaves_no_worker(root, tmp_path, number):
    """Not the workers that read, nor those that would wait for ever."""
    for index in range(40):
        save(image(400, 400), tmp_path / "cat" / f"{index}.png", compress_level=0)
    links = tmp_path / "dog"
    links.mkdir()
    for index in range(3000):
        (links / f"{index}.png").hardlink_to(tmp_path / "cat" / f"{index % 40}.png")
    command = [sys.executable, "tools/check_data.py", str(tmp_path), "--workers", "2"]
    process = subprocess.Popen(
        command,
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's job in the background ignores interrupts, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers: list[str] = []
    while len(workers) < 2:
        assert process.poll() is None, process.communicate()
        workers = children.read_text().split()
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in told
    end = time.monotonic() + 30
    while any(map(is_running, workers)):
        assert time.monotonic() < end
        time.sleep(0.05)
