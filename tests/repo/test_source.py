"""What the source must not contain."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "passl").rglob("*.py"), *(ROOT / "tools").glob("*.py")])


def test_what_ruff_does_not_look_for():
    """`paddle.load` runs what a file carries; ** options of a constructor hide a misspelt one."""
    assert len(SOURCES) > 35
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("paddle.load", "__import__"), where
            # passl.integrations passes such options on to `create_model`, which checks them.
            ours = path.parent.name != "integrations"
            if ours and isinstance(node, ast.FunctionDef) and node.name == "__init__":
                assert node.args.kwarg is None, where


def test_no_path_of_a_machine():
    """Nothing that is tracked names a home folder or a temporary one."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, done.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".txt", ".sh") and path.is_file():
            text = path.read_text(encoding="utf-8")
            found = re.findall(r"(?<![\w.])/(?:home|root|work|Users)/\w+", text)
            assert path == Path(__file__) or not found, f"{name}: {found}"
