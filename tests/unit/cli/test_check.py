"""passl check: its options, its files and its exit code."""

from __future__ import annotations

import json

import pytest

from passl.check.probes import FACTS, PROBES, Probe

FAKES = """
from passl.check.facts import GPUS
from passl.check.findings import Findings, Row

def facts(setup):
    return Findings([Row(GPUS, 0)])

def good(setup):
    return Findings([Row("error", 0.5, 1.0)])

def bad(setup):
    return Findings([Row("error", 2.0, 1.0)])
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """In place of the probes, in their order."""
    (tmp_path / "fake_probes.py").write_text(FAKES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name, function in ((FACTS, "facts"), ("golden-fp32", "good"), ("resume", "bad")):
        monkeypatch.setitem(PROBES, name, Probe(f"fake_probes:{function}", "It works."))
    return tmp_path


def test_reports_and_exit_code(call, fakes):
    code, out, _ = call("check", "--only", "golden-fp32", "--out", "first.md")
    assert (code, "CPU: 1 passed; GPU: 1 not run" in out) == (0, True)
    found = json.loads((fakes / "first.json").read_text())
    assert [each["status"] for each in found["outcomes"]] == ["measured", "passed", "not run"]
    assert "| golden-fp32 | gpu | not run |" in (fakes / "first.md").read_text()

    code, out, _ = call("check", "--only", "resume", "golden-fp32")
    assert (code, "1 passed, 1 failed" in out) == (1, True)
    found = json.loads((fakes / "passl-check.json").read_text())
    assert found["failed"] == ["resume"]
    assert [each["probe"] for each in found["outcomes"]][1::2] == ["golden-fp32", "resume"]


def test_wrong_calls(call, fakes):
    (fakes / "there.json").touch()
    code, _, err = call("check", "--only", "golden-fp32", "--out", "there")
    assert (code, "already" in err, "--force" in err) == (2, True, True)
    assert (fakes / "there.json").read_text() == ""
    assert call("check", "--only", "golden-fp32", "--out", "there", "--force")[0] == 0
    code, _, err = call("check", "--only", "golden-fp32", "--out", "none/x")
    assert (code, "does not exist" in err) == (2, True)
    code, _, err = call("check", "--only", "golden-fp64")
    assert (code, "golden-fp64" in err and "golden-fp32" in err) == (2, True)
    code, _, err = call("check", "--only", "resume", "--skip", "resume")
    assert (code, "leave no probe" in err) == (2, True)
    code, _, err = call("check", "--only", "golden-fp32", "--device", "gpu")
    assert (code, "none that Paddle can use" in err) == (2, True)
    assert not (fakes / "passl-check.md").exists()
