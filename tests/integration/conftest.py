"""Fixtures of tests with several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_ranks(tmp_path):
    """`run_ranks(script, ranks=2)` runs Python code in that many processes, which have `ranks`, and
    fails if one of them does.
    """
    from passl.engine.launch import free_port

    def run(script: str, ranks: int = 2, **environment: str) -> None:
        file = tmp_path / "script.py"
        start = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        start += "from passl.engine.distributed import start\nwith start('cpu') as ranks:\n"
        file.write_text(start + textwrap.indent(script, "    "), encoding="utf-8")
        clean = {name: value for name, value in os.environ.items() if "PADDLE_" not in name}
        clean |= {"PADDLE_MASTER": f"127.0.0.1:{free_port()}", "PADDLE_TRAINERS_NUM": str(ranks)}
        processes = [
            subprocess.Popen(
                [sys.executable, file],
                env=clean | {"PADDLE_TRAINER_ID": str(rank)} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(ranks)
        ]
        try:
            outputs = [process.communicate(timeout=120)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert not any(process.returncode for process in processes), "\n".join(outputs)

    return run
