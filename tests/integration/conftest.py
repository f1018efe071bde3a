"""Fixtures of tests with several processes."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from passl.distributed.launcher import free_port
from tests import forks

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def fork_ranks(tmp_path):
    """`fork_ranks(script, ranks=2)` runs Python code in that many processes, which have the
    variables of a launcher, and gives exit code and output of each.
    """

    def fork(script: str, ranks: int = 2, **environment: str) -> list[tuple[int, str]]:
        clean = {name: value for name, value in os.environ.items() if "PADDLE_" not in name}
        clean |= {"PADDLE_MASTER": f"127.0.0.1:{free_port()}", "PADDLE_TRAINERS_NUM": str(ranks)}
        clean |= environment
        numbers = [{"PADDLE_TRAINER_ID": str(rank)} for rank in range(ranks)]
        return forks.run(script, [clean | number for number in numbers], tmp_path)

    return fork


@pytest.fixture
def run_ranks(fork_ranks):
    """`run_ranks(script, ranks=2)` runs Python code in that many processes, which have `ranks`, and
    fails if one of them does.
    """

    def run(script: str, ranks: int = 2, **environment: str) -> None:
        start = "from passl.distributed.ranks import start\nwith start('cpu') as ranks:\n"
        done = fork_ranks(start + textwrap.indent(script, "    "), ranks, **environment)
        assert not any(code for code, _ in done), "\n".join(output for _, output in done)

    return run


@pytest.fixture
def fork_tool(tmp_path):
    """`fork_tool("eval.py", arguments, environments)` runs a command line in as many processes as
    there are environments, whose variables come atop this one's, and gives the output of each.
    """

    def fork(tool: str, args: Sequence[object], environments: list[dict[str, str]]) -> list[str]:
        argv = [str(TOOLS / tool), *map(str, args)]
        script = f"import runpy, sys\nsys.path.insert(0, {str(TOOLS)!r})\nsys.argv = {argv!r}\n"
        script += "runpy.run_path(sys.argv[0], run_name='__main__')"
        clean = {name: value for name, value in os.environ.items() if "PADDLE_" not in name}
        done = forks.run(script, [clean | own for own in environments], tmp_path)
        outputs = [output for _, output in done]
        assert not any(code for code, _ in done), "\n".join(outputs)
        return outputs

    return fork
