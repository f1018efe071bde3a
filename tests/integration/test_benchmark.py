"""The benchmark tools, as a user calls them. What they measure is not judged: a clock is noise."""

from __future__ import annotations

import json
import math
import sys

import pytest

BRIEF = ("--repeats", 1, "--warmup", 0, "--batch", 1)
FAKE = """\
#!{python}
import json, sys

task = json.loads(sys.argv[2])
if task["task"] == "packages":
    print(json.dumps({{"timm": "9.8.7", "torch": "6.5"}}))
elif task["part"] == "train":
    sys.exit("a peer that\\ncannot do this")
else:
    print("something else first")
    print(json.dumps({{"rate": 0.001}}))
"""


def result_of(done) -> dict:
    return json.loads(done.stdout.splitlines()[-1])


def is_measured(row: dict) -> bool:
    return all(math.isfinite(row[key]) for key in ("rate", "wall_rate", "idle_mib", "peak_mib"))


def test_network(tiny_config, run_tool):
    config = tiny_config()
    parts = ("inference", "training_with_data")
    done = run_tool(
        "benchmark.py", "network", "-c", config, "--parts", *parts, "--by-module", *BRIEF
    )
    found = result_of(done)
    assert set(found["parts"]) == {"inference, batch 1", "training with data, batch 1"}
    assert all(map(is_measured, found["parts"].values()))
    assert (found["size"], found["threads"]) == ([32, 32], 1)
    modules = {row["module"]: row for row in found["modules"]}
    assert {"backbone.blocks.0", "backbone.blocks.1", "head.fc_cls"} <= set(modules)
    # All but the class token and the position embedding belong to a module.
    inside = sum(row["parameters"] for row in modules.values())
    assert found["parameters"] == inside + 16 + 16 * 16
    assert found["macs"] == sum(row["macs"] for row in modules.values())
    assert f"{found['parameters']:,} parameters" in done.stdout
    assert "the whole forward pass" in done.stdout


def test_exported(tiny_config, run_tool, tmp_path):
    folder = tmp_path / "exported"
    task = {"task": "export", "config": str(tiny_config()), "overrides": [], "cpu": None}
    run_tool("../benchmarks/ours.py", json.dumps({**task, "size": [32, 32], "folder": str(folder)}))
    found = result_of(run_tool("benchmark.py", "exported", folder, *BRIEF))
    assert is_measured(found["parts"]["inference, batch 1"])
    assert (found["engine"], found["precision"]) == ("paddle", "fp32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch", 0), "--batch 0 must be at least 1"),
        (("--cpu", 4096), "--cpu 4096 is none of the processors"),
        (("--size", 1, 2, 3), "--size 1 2 3: give one side, or height and width"),
        (("--size", 64, "--parts", "data"), "the transforms fix the size of the images of data"),
        (("-o", "model.architecture.deph=3"), "'deph' is not an option of ConViT"),
    ],
)
def test_wrong_calls(tiny_config, run_tool, options, message):
    done = run_tool("benchmark.py", "network", "-c", tiny_config(), *options, expect=2)
    assert message in done.stderr


def test_peers(run_tool, tmp_path):
    """One row that runs and one that cannot, with a program in place of the peers' Python."""
    fake, page = tmp_path / "python", tmp_path / "page.md"
    fake.write_text(FAKE.format(python=sys.executable))
    fake.chmod(0o755)
    page.write_text("# Benchmarks\n\n| old |\n\n## By hand\n\nkept\n\n## More\n")
    rows = ("transform_eval", "transform_train")
    options = ("--quick", "--peers", fake, "--write", page)
    found = result_of(run_tool("../benchmarks/peers.py", "--rows", *rows, *options))
    evaluation, training = (found["rows"][row] for row in rows)
    assert evaluation["theirs"] == 0.001
    assert evaluation["ratio"] == pytest.approx(evaluation["ours"] / 0.001, rel=1e-3)
    assert evaluation["of_rounds"] == [evaluation["ratio"]]
    assert evaluation["reached"] is True
    assert training == {"error": "cannot do this"}
    text = page.read_text()
    assert "timm (9.8.7)" in text
    assert "transformers (not there)" in text
    assert "| reading and evaluation transform; timm |" in text
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
