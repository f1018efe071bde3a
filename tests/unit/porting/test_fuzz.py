"""A short run of the fuzzer, and that it notices what it looks for."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from passl.errors import CheckpointError
from tests.stress import fuzzing


def test_short_run(run_tool):
    done = run_tool("../tests/stress/fuzz_weights.py", "--files", 100, "--seed", 1)
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == list(fuzzing.READERS)
    for line in lines:
        read, refused, violations = (int(word) for word in line.split() if word.isdigit())
        assert read + refused == 100
        assert violations == 0
        assert read > 0 and refused > 50, line


def test_file_is_a_function_of_seed_and_number():
    for kind, files in fuzzing.valid_files().items():
        data = partial(fuzzing.mutation, kind, files)
        assert data(3, 5) == data(3, 5)
        assert len({data(seed, index) for seed in range(5) for index in range(20)}) > 80


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("read", "verdict"),
    [
        (lambda path: _raise(ValueError("x")), "ValueError instead of CheckpointError: 'x'"),
        (lambda path: _raise(SystemExit()), "SystemExit instead of CheckpointError: ''"),
        (lambda path: _raise(CheckpointError("x")), "a message without the path"),
        (
            lambda path: _raise(CheckpointError(f"{path}: x\ny")),
            "a message that is no line of text",
        ),
        (lambda path: {"a\nb": np.zeros(1)}, "a weight 'a\\nb' of ndarray"),
        (lambda path: {"a": [1]}, "a weight 'a' of list"),
        (lambda path: {"a": np.zeros(1)}, "read"),
        (lambda path: _raise(CheckpointError(f"{path}: x")), "refused"),
    ],
)
def test_verdicts(read, verdict):
    assert fuzzing.judge(read, Path("weights")).startswith(verdict)


# A process of its own: one that has run other tests keeps freed memory, which a later allocation
# takes again without asking the system, so that the limit would not see it.
_DEATHS = """
import json, os, signal, time
import numpy as np
from tests.stress import fuzzing

def by_content(path):
    match path.read_bytes():
        case b"1":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"2":
            time.sleep(60)
        case b"3":
            np.ones(2 * fuzzing.MEMORY, np.uint8)
        case b"4":
            os._exit(3)
    return {"a": np.zeros(1)}

fuzzing.SECONDS = 0.5
outcome = fuzzing.fuzz("torch", by_content, lambda index: str(index % 6).encode(), 12)
print(json.dumps([outcome.counts, outcome.violations]))
"""


def test_crashes_and_hangs_are_noticed(root):
    done = subprocess.run(
        [sys.executable, "-c", _DEATHS], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts, violations = json.loads(done.stdout)
    assert counts == {"read": 4, "violation": 8}
    expected = [
        [1, "crash by SIGKILL"],
        [2, "hang"],
        [3, "memory above the bound"],
        [4, "the process ended"],
    ]
    assert violations == expected + [[index + 6, what] for index, what in expected]
