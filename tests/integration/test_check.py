"""The probes of `passl check` that train, on a CPU: all pass."""

from __future__ import annotations

import json

PROBES = r"""
import json
from pathlib import Path
import paddle
from passl.check import parallel, training
from passl.check.findings import Setup

for name in NAMES:
    module = training if hasattr(training, name) else parallel
    folder = Path(FOLDER) / name
    folder.mkdir(exist_ok=True)
    found = getattr(module, name)(Setup("cpu", folder, quick=True)).to_dict()
    print("FOUND", name, json.dumps(found))
"""


def run(fork_ranks, folder, names: list[str], ranks: int) -> dict[str, dict]:
    done = fork_ranks(f"NAMES, FOLDER = {names!r}, {str(folder)!r}\n{PROBES}", ranks)
    assert not any(code for code, _ in done), "\n".join(output for _, output in done)
    found = {}
    for _, output in done:
        for line in output.splitlines():
            if line.startswith("FOUND "):
                _, name, text = line.split(" ", 2)
                found.setdefault(name, []).append(json.loads(text))
    assert {name: len(each) for name, each in found.items()} == dict.fromkeys(names, ranks)
    for name, outcomes in found.items():
        assert [each["status"] for each in outcomes] == ["passed"] * ranks, (name, outcomes)
    return {name: outcomes[0] for name, outcomes in found.items()}


def test_probes_of_two_processes_pass(fork_ranks, tmp_path):
    names = ["collectives", "two_ranks", "batch_norm", "sharding"]
    found = run(fork_ranks, tmp_path, names, 2)
    spread = [row for row in found["batch_norm"]["rows"] if row["name"].startswith("spread")]
    assert spread[0]["value"] > 0.01  # the ranks had seen different images


def test_a_resumed_run_passes(fork_ranks, tmp_path):
    (row,) = (
        row
        for row in run(fork_ranks, tmp_path, ["resume"], 1)["resume"]["rows"]
        if row["note"].startswith("stopped at step")
    )
    steps = int(row["note"].split()[-1])
    log = (tmp_path / "resume" / "straight" / "metrics.jsonl").read_text().splitlines()
    assert 1 <= steps < max(json.loads(line)["step"] for line in log)  # it was interrupted
