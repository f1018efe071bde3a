"""`make test-cpus`: one setting that fails fails the target, and is named."""

from __future__ import annotations

import subprocess

import pytest

SET = {"MKL_CBWR": "AUTO", "PASSL_CPU_OPS": "0"}  # by the caller


@pytest.mark.parametrize("failing", ["MKL_CBWR", "PASSL_CPU_OPS", "NOTHING"])
def test_what_fails_is_named(root, failing):
    """With a command in place of pytest."""
    command = ["sh", "-c", f'echo "told $@"; test -z "${failing}"', "sh"]
    done = subprocess.run(
        ["bash", "tests/cpus.sh", *command],
        cwd=root,
        env={"PATH": "/usr/bin:/bin", **SET},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("told tests/golden ") == 6
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed under: ")]
    assert done.returncode == len(failed) == (failing != "NOTHING")
    assert all(f"{failing}=" in line for line in failed)
