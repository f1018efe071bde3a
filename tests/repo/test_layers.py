"""Imports point down."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Each folder of passl and what it may import from. `engine` is the run; the folders beside it may
# use its checkpoints and metrics, it uses none of them.
# Which everything may import:
MODULES_BESIDE = {"errors", "logging", "machine", "paddle_settings", "step_times"}
MAY_IMPORT = {
    "utils": set(),
    "io": set(),
    "porting": {"utils", "io"},
    "accelerate": {"modeling"},
    "modeling": {"utils", "io", "porting"},
    "data": {"utils", "io"},
    "optim": {"utils"},
    "distributed": {"utils", "io"},
    "evaluation": {"utils", "io", "porting", "modeling", "accelerate", "data", "distributed"},
    "deploy": {"utils", "io", "porting", "modeling", "accelerate", "data", "evaluation"},
}
MAY_IMPORT["engine"] = MAY_IMPORT["evaluation"] | {"optim", "evaluation"}
MAY_IMPORT["analysis"] = set(MAY_IMPORT)
MAY_IMPORT["check"] = set(MAY_IMPORT)
MAY_IMPORT["serving"] = set(MAY_IMPORT)
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MAY_IMPORT["integrations"] = {"utils", "modeling"}
MAY_IMPORT[""] = {"modeling"}  # passl/__init__.py and the modules beside it
# `__main__` runs the command line; nothing imports it.
MODULES = sorted(path for path in (ROOT / "passl").rglob("*.py") if path.stem != "__main__")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Every module of passl that a file imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "passl"}


def layer(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else ""


def test_imports_point_down():
    assert len(MODULES) > 30
    wrong = []
    for path in MODULES:
        own = layer(module_name(path))
        allowed = MAY_IMPORT[own] | {own}
        for name in imported(path):
            part = (name.split(".") + [""])[1]
            if layer(name) not in allowed and part not in {*MODULES_BESIDE, "", "__version__"}:
                wrong.append(f"{module_name(path)} imports {name}")
    assert wrong == []


def test_no_import_cycle():
    """Lazy imports count too."""
    names = {module_name(path) for path in MODULES}
    imports = {}
    for path in MODULES:
        own = module_name(path)
        found = imported(path)
        # `from passl.io import files` names the module itself, `from passl.io.files import sync`
        # a name in it.
        found = {name if name in names else name.rpartition(".")[0] for name in found}
        imports[own] = (found & names) - {own}
    TopologicalSorter(imports).prepare()  # raises CycleError with the cycle


def test_files_and_functions_stay_short():
    long = []
    for folder in ("passl", "tools", "benchmarks", "studies"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if text.count("\n") > 450:
                long.append(f"{path}: {text.count(chr(10))} lines")
            long += [
                f"{path}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and node.end_lineno - node.lineno >= 60
            ]
    assert long == []


def test_every_folder_has_a_layer():
    folders = {path.parent.name for path in (ROOT / "passl").glob("*/__init__.py")}
    assert folders == set(MAY_IMPORT) - {""}


def test_import_and_help_are_light():
    """Neither `import passl` nor `--help` of all commands loads even numpy."""
    for code in (
        "import passl",
        "import sys; sys.argv = ['passl', '--help']\n"
        "from passl.cli.dispatch import main\ntry: main()\nexcept SystemExit: pass",
    ):
        code += "\nimport sys; sys.exit('numpy' in sys.modules or 'paddle' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
