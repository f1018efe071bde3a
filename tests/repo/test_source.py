"""What the source must not contain."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "passl").rglob("*.py"), *(ROOT / "tools").glob("*.py")])
CALLS = {"eval", "exec", "compile", "__import__"}


def test_there_are_sources():
    assert len(SOURCES) > 35


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in CALLS, f"{where}: {called}"
            assert called not in ("paddle.load", "pickle.load", "pickle.loads"), (
                f"{where}: runs what a file carries"
            )
            assert called != "print" or path.parent.name == "tools", f"{where}: print"
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), f"{where}: import *"
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            assert node.args.kwarg is None, (
                f"{where}: **{node.args.kwarg.arg} hides a misspelt argument"
            )
        if isinstance(node, ast.FunctionDef):
            defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            assert not any(isinstance(d, ast.List | ast.Dict | ast.Set) for d in defaults), (
                f"{where}: mutable default"
            )
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: bare except"


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


def test_every_package_folder_is_in_the_wheel():
    text = (ROOT / "pyproject.toml").read_text()
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "passl").rglob("__init__.py")}
    for folder in folders:
        assert f'"{".".join(folder.parts)}"' in text, (
            f"{folder} is missing in pyproject.toml's packages"
        )
