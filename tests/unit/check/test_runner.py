"""Probes are isolated: one that fails, crashes or hangs does not end the others."""

from __future__ import annotations

import json

import pytest

from passl.check import probes, report
from passl.check.probes import FACTS, Probe
from passl.check.runner import Plan, run_all

FAKES = """
import os, signal, time
from passl.check.facts import GPUS
from passl.check.findings import Findings, NotRun, Row

def facts(setup):
    return Findings([Row(GPUS, int(os.environ.get("FAKE_GPUS", 0)))])

def good(setup):
    (setup.folder / "file").write_text("x")
    return Findings([Row("error", 0.5, 1.0), Row("rate", 3, unit="images/s")])

def silent(setup):
    return Findings([Row("error", float("nan"), 1.0)])

def raising(setup):
    print("a word before the end")
    raise ValueError("first line\\nthe last line")

def crashing(setup):
    os.kill(os.getpid(), signal.SIGSEGV)

def leaving(setup):
    raise SystemExit(3)

def stuck(setup):
    time.sleep(600)

def absent(setup):
    raise NotRun("no such hardware")

def of_two(setup):
    rank = int(os.environ["PADDLE_TRAINER_ID"])
    if rank == 1:
        raise ValueError("rank 1 is broken")
    return Findings([Row("world", 2 - int(os.environ["PADDLE_TRAINERS_NUM"]), 0)])
"""
TWO = ("of_two",)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(names, gpus=0, ...)` runs those fakes: outcomes by (probe, device)."""
    (tmp_path / "fake_probes.py").write_text(FAKES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def call(*names, gpus=0, **options):
        monkeypatch.setenv("FAKE_GPUS", str(gpus))
        fakes = {
            name: Probe(f"fake_probes:{name}", "", 2 if name in TWO else 1)
            for name in (FACTS, *names)
        }
        plan = Plan(list(fakes), probes=fakes, **options)
        seen = []
        outcomes = run_all(plan, lambda found, known: seen.append(list(known)))
        assert [len({each["probe"] for each in known}) for known in seen] == [len(fakes)] * len(
            fakes
        )
        return {(each["probe"], each["device"]): each for each in outcomes}

    return call


def test_a_probe_that_fails_does_not_end_the_others(run):
    found = run("raising", "crashing", "leaving", "silent", "absent", "of_two", "good")
    raising = found["raising", "cpu"]
    assert (raising["status"], raising["error"]) == ("failed", "the last line")
    assert "Traceback" in raising["output"]
    assert "in raising" in raising["output"]
    assert "a word before the end" in raising["output"]
    assert "signal 11" in found["crashing", "cpu"]["error"]
    assert "in crashing" in found["crashing", "cpu"]["output"]
    assert "code 3" in found["leaving", "cpu"]["error"]
    silent = found["silent", "cpu"]
    assert silent["status"] == "failed"
    assert json.dumps(silent, allow_nan=False)
    assert found["absent", "cpu"] | {"seconds": 0} == {
        "probe": "absent",
        "device": "cpu",
        "seconds": 0,
        "status": "not run",
        "reason": "no such hardware",
    }
    assert "rank 1 is broken" in found["of_two", "cpu"]["error"]
    good = found["good", "cpu"]
    assert (good["status"], len(good["rows"])) == ("passed", 2)
    for (name, device), outcome in found.items():
        assert device != "gpu" or outcome["status"] == "not run", name

    text = "\n".join(report.as_markdown(facts_of(list(found.values()))))
    assert "**FAILED** | " in text
    assert "the last line" in text
    gpu_rows = [line for line in text.splitlines() if "| gpu |" in line]
    assert len(gpu_rows) == 7
    assert all("| not run |" in line for line in gpu_rows)


def test_a_probe_that_hangs_is_ended(run):
    found = run("stuck", timeout=4)
    outcome = found["stuck", "cpu"]
    assert outcome["status"] == "failed"
    assert "time limit of 4 s" in outcome["error"]


def test_devices(run):
    assert ("good", "gpu") in run("good", gpus=1)
    assert ("good", "cpu") not in run("good", gpus=1)
    found = run("good", gpus=1, device="cpu")
    assert found["good", "cpu"]["status"] == "passed"
    assert found["good", "gpu"]["reason"] == "--device cpu"
    found = run("good", gpus="unknown")
    assert found["facts", "-"]["status"] == "failed"
    assert found["good", "cpu"]["status"] == "passed"
    assert "not known" in found["good", "gpu"]["reason"]
    found = run("of_two", gpus=1)
    assert "2 GPUs are needed, there is 1" in found["of_two", "gpu"]["reason"]


def facts_of(outcomes: list[dict]) -> dict:
    return {
        "passl": "0",
        "date": "today",
        "options": {},
        "failed": report.failures(outcomes),
        "outcomes": outcomes,
    }


def test_every_probe_names_a_function():
    import importlib

    for name, probe in probes.PROBES.items():
        module, function = probe.function.split(":")
        assert callable(getattr(importlib.import_module(module), function)), name


def test_cells_of_the_report_stay_cells():
    rows = [{"name": "a|b", "value": "x\ny<z", "limit": None, "unit": "", "note": "", "failed": 0}]
    outcome = {"probe": "p", "device": "cpu", "status": "measured", "seconds": 1, "rows": rows}
    lines = report.as_markdown(facts_of([outcome]))
    assert "| a\\|b | x y&lt;z |  |  |" in lines
