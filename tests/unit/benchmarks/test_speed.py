"""The stopwatch, by a clock of our own; memory, by amounts that are known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import speed
from benchmarks.speed import measure, rounded, summary
from passl import machine
from passl.check.photos import write_images


@pytest.mark.parametrize(
    ("values", "median"), [([3.0], 3.0), ([5.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 9.0, 2.0], 3.0)]
)
def test_summary(values, median):
    found = summary(values)
    assert found == {"median": median, "low": min(values), "high": max(values)}


def test_rounding():
    assert rounded(1234567) == 1234567
    assert (rounded(123456.0), rounded(0.00123456), rounded(0.0)) == (123500.0, 0.001235, 0.0)


class Clock:
    """Time passes only where `work` says so."""

    def __init__(self, monkeypatch, milliseconds: Iterable[float]):
        self.now, self.spans, self.calls = 100.0, iter(milliseconds), 0
        monkeypatch.setattr(speed.time, "process_time", lambda: self.now)
        monkeypatch.setattr(speed.time, "perf_counter", lambda: 2 * self.now)

    def work(self):
        self.calls += 1
        self.now += next(self.spans) / 1000


def test_measure(monkeypatch):
    clock = Clock(monkeypatch, [900, 800, 30, 10, 20])
    found = measure(clock.work, {"batch": 4, "warmup": 2, "repeats": 3})
    assert clock.calls == 5
    assert found["cpu_ms"] == {"median": 20, "low": 10, "high": 30}
    assert found["wall_ms"] == {"median": 40, "low": 20, "high": 60}
    assert found["rate"] == 200


def test_peak_memory_is_that_of_the_work(root):
    """In a fresh process: 200 MiB that are gone before the work, 60 that it has for a moment, 30
    that it stands on.
    """
    code = """
import json
from benchmarks.speed import measure
before = bytearray(b"1") * (200 << 20)
del before
ground = bytearray(b"1") * (30 << 20)
task = {"batch": 1, "warmup": 1, "repeats": 2}
print(json.dumps(measure(lambda: len(bytearray(b"1") * (60 << 20)), task)))
"""
    if speed.memory("VmHWM") is None:
        pytest.skip("this operating system does not tell")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert 59 < json.loads(done.stdout)["peak_mib"] < 62


def test_where_the_system_tells_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "STATUS", tmp_path / "status")
    monkeypatch.setattr(speed, "RESET", tmp_path / "not" / "there")
    found = measure(lambda: None, {"batch": 1, "warmup": 0, "repeats": 1})
    assert found["peak_mib"] is None


def test_the_stopwatch_needs_the_standard_library_alone(root):
    """The peers' environment has no passl installed, and need not have what passl needs."""
    code = "import sys; sys.path.insert(0, sys.argv[1])\n"
    code += "import benchmarks.speed, passl.machine\n"
    code += "sys.exit(', '.join({'numpy', 'yaml', 'paddle', 'PIL'} & sys.modules.keys()) or 0)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(root)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_machine(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some 9000 CPU @ 1 GHz\nflags\t: a\n")
    assert (
        machine.processor(cpuinfo) == f"Some 9000 CPU @ 1 GHz, {machine.usable_processors()} usable"
    )
    assert set(machine.versions(["numpy", "no-such-package"])) == {"python", "numpy"}


def test_images_are_always_the_same(tmp_path):
    for name in ("one", "other"):
        write_images(tmp_path / name, 3)
    files = sorted((tmp_path / "one").rglob("*.jpg"))
    assert [str(path.relative_to(tmp_path / "one")) for path in files] == [
        str(Path("class_0") / "0000.jpg"),
        str(Path("class_0") / "0002.jpg"),
        str(Path("class_1") / "0001.jpg"),
    ]
    assert len({path.read_bytes() for path in files}) == 3
    for path in files:
        other = tmp_path / "other" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes()
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((500, 375), "RGB")
