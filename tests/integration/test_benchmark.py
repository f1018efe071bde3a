"""The benchmark tools, as a user calls them. What they measure is not judged: a clock is noise."""

from __future__ import annotations

import json
import math
import sys

import pytest

from benchmarks import peers
from passl.check.photos import write_images
from passl.errors import RunError

BRIEF = ("--repeats", 1, "--warmup", 0, "--batch", 1)


def result_of(done) -> dict:
    return json.loads(done.stdout.splitlines()[-1])


def is_measured(row: dict) -> bool:
    return all(math.isfinite(row[key]) for key in ("rate", "peak_mib"))


def test_network(tiny_config, run_tool):
    done = run_tool("benchmark.py", "network", "-c", tiny_config(), *BRIEF)
    found = result_of(done)
    parts = ("inference", "training", "data")
    assert list(found["parts"]) == [f"{part}, batch 1" for part in parts]
    assert all(map(is_measured, found["parts"].values()))
    assert (found["size"], found["threads"]) == ([32, 32], 1)
    assert f"{found['parameters']:,} parameters" in done.stdout
    assert found["macs"] > 0


def test_exported(tiny_config, run_tool, tmp_path):
    folder = tmp_path / "exported"
    task = {"task": "export", "config": str(tiny_config()), "overrides": []}
    run_tool("../benchmarks/ours.py", json.dumps({**task, "size": [32, 32], "folder": str(folder)}))
    found = result_of(run_tool("benchmark.py", "exported", folder, *BRIEF))
    assert is_measured(found["parts"]["inference, batch 1"])
    assert (found["engine"], found["precision"]) == ("paddle", "fp32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch", 0), "--batch: 0 must be at least 1"),
        (
            ("--size", 64, 64, "--parts", "data"),
            "the transforms fix the size of the images of data",
        ),
        (("-o", "model.architecture.deph=3"), "'deph' is not an option of ConViT"),
    ],
)
def test_wrong_calls(tiny_config, run_tool, options, message):
    done = run_tool("benchmark.py", "network", "-c", tiny_config(), *options, expect=2)
    assert message in done.stderr


def test_transforms(run_tool, tmp_path):
    write_images(tmp_path, 2)
    task = {"task": "images", "config": "convit/convit_tiny", "overrides": [], "part": "val"}
    task |= {"folder": str(tmp_path), "batch": 2, "warmup": 0, "repeats": 1}
    assert is_measured(result_of(run_tool("../benchmarks/ours.py", json.dumps(task))))


def test_peers(monkeypatch, capsys, tmp_path):
    """Rows that share a measurement, and one that cannot run; the processes are replaced."""
    rates = iter([10, 5, 4, 12])  # ours, theirs; theirs, ours
    calls = []

    def measured(script, task, threads=1, python=sys.executable):
        calls.append((script.name, task["task"]))
        if task["task"] == "packages":
            return {"timm": "9.8.7"}
        if task["task"] == "inference":
            raise RunError("cannot do this")
        return {"rate": next(rates), "peak_mib": 8}

    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n\n| old |\n\n## By hand\n\nkept\n\n## More\n")
    rows = ("train_convit_384", "train_memory_384", "infer_memory_1024_eager")
    arguments = ["--rounds", "2", "--peers", sys.executable, "--write", str(page), "--rows", *rows]
    monkeypatch.setattr(peers, "measure_in_child", measured)
    monkeypatch.setattr(sys, "argv", ["peers.py", *arguments])
    peers.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    speed, memory, failed = (found[row] for row in rows)
    assert (speed["ours"], speed["theirs"], speed["ratio"]) == (12, 5, 2.4)
    assert (speed["of_rounds"], speed["verdict"]) == ([2, 3], "reached")
    assert (memory["ratio"], memory["verdict"]) == (1, "**missed**")
    assert failed == {"error": "cannot do this"}
    scripts = [script for script, task in calls if task == "training"]
    assert scripts == ["ours.py", "theirs.py", "theirs.py", "ours.py"]
    text = page.read_text()
    assert "timm (9.8.7)" in text
    assert "transformers (not there)" in text
    assert (
        "ConViT-Ti at 384, batch 4, fp32; timm, fp32 | 12 images/s | 5 images/s | 2.40 (2.00"
        in text
    )
    assert "timm: cannot run: cannot do this" in text
    assert "| old |" not in text
    assert text.endswith("has made.\n\n## By hand\n\nkept\n\n## More\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rows", "transform_evl"), "did you mean 'transform_eval'?"),
        (("--rounds", 0), "--rounds 0 must be at least 1"),
        (("--peers", "no/such/python"), "`make bench` installs the peers"),
    ],
)
def test_wrong_calls_of_the_comparison(run_tool, options, message):
    assert message in run_tool("../benchmarks/peers.py", *options, expect=2).stderr
