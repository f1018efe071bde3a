"""The stopwatch, by a clock of our own; memory, by amounts that are known."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import paddle
import pytest
from paddle import nn
from PIL import Image

from benchmarks import speed, workloads
from benchmarks.speed import measure, rounded, summary
from benchmarks.synthetic import write_images
from passl import machine
from passl.modeling.backbones.convit import ConViT


@pytest.mark.parametrize(
    ("values", "median"), [([3.0], 3.0), ([5.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 9.0, 2.0], 3.0)]
)
def test_summary(values, median):
    found = summary(values)
    assert found == {
        "median": median,
        "low": min(values),
        "high": max(values),
        "count": len(values),
    }


def test_a_summary_of_nothing():
    with pytest.raises(ValueError, match="at least one value"):
        summary([])


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
    found = measure(clock.work, images=4, warmup=2, repeats=3)
    assert clock.calls == 5
    assert found["cpu_ms"] == {"median": 20, "low": 10, "high": 30, "count": 3}
    assert found["wall_ms"] == {"median": 40, "low": 20, "high": 60, "count": 3}
    assert (found["rate"], found["wall_rate"]) == (200, 100)


@pytest.mark.parametrize(("warmup", "repeats"), [(-1, 1), (0, 0)])
def test_nothing_to_measure(warmup, repeats):
    with pytest.raises(ValueError, match=f"warmup {warmup} .* repeats {repeats}"):
        measure(lambda: None, 1, warmup, repeats)


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
print(json.dumps(measure(lambda: len(bytearray(b"1") * (60 << 20)), 1, 1, 2)))
"""
    if speed.memory("VmHWM") is None:
        pytest.skip("this operating system does not tell")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert 59 < found["peak_mib"] < 62
    assert 30 < found["idle_mib"] < 80


def test_where_the_system_tells_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "STATUS", tmp_path / "status")
    monkeypatch.setattr(speed, "RESET", tmp_path / "not" / "there")
    found = measure(lambda: None, 1, 0, 1)
    assert (found["idle_mib"], found["peak_mib"]) == (None, None)


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


def small_convit() -> nn.Layer:
    net = ConViT(img_size=16, patch_size=8, embed_dim=16, depth=2, local_up_to_layer=1)
    return nn.Sequential(("backbone", net), ("head", nn.Linear(16, 3)))


def test_modules():
    model = small_convit()
    assert list(workloads.modules(model, 1)) == ["backbone", "head"]
    names = ["patch_embed", "pos_drop", "token_drop", "blocks.0", "blocks.1", "norm"]
    assert list(workloads.modules(model, 2)) == [*(f"backbone.{name}" for name in names), "head"]
    assert "backbone.blocks.0.attn.qk" in workloads.modules(model, 4)


def test_time_of_modules(monkeypatch):
    """A clock that ticks once whenever it is read: a module without others takes one tick for each
    time that it runs, the whole two for each module inside and one more.
    """

    class Twice(nn.Layer):
        def __init__(self):
            super().__init__()
            self.once, self.twice = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.twice(self.twice(self.once(x)))

    ticks = itertools.count()
    monkeypatch.setattr(workloads.time, "process_time", lambda: next(ticks) / 1000)
    found = workloads.time_of_modules(Twice(), paddle.zeros([1, 3]), 1, warmup=1, repeats=3)
    assert found == pytest.approx({"once": 1, "twice": 2, "": 7})


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
