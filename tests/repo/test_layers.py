"""Imports point down, and nothing that checks a config imports paddle."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Each folder of passl and what it may import from. `engine` is the run; the folders beside it may
# use its checkpoints and metrics, it uses none of them.
MAY_IMPORT = {
    "utils": set(),
    "porting": {"utils"},
    "modeling": {"utils", "porting"},
    "data": {"utils"},
    "optim": {"utils"},
    "engine": {"utils", "porting", "modeling", "data", "optim"},
    "analysis": {"utils", "engine", "modeling", "data", "optim"},
    "deploy": {"utils", "porting", "modeling", "data"},
    "": {"modeling", "utils"},  # passl/__init__.py
}
# Modules that a wrong config, or --help, must not wait for paddle with.
LIGHT = [
    "passl",
    "passl.modeling",
    "passl.modeling.backbones",
    "passl.modeling.heads",
    "passl.data",
    *(
        f"passl.data.{path.stem}"
        for path in (ROOT / "passl" / "data").glob("[a-z]*.py")
        if path.stem not in ("loader", "workers")
    ),
    "passl.optim",
    "passl.optim.schedules",
    *(f"passl.deploy.{name}" for name in ("engines", "folder", "predictions", "predictor")),
    "passl.porting.classes",
    "passl.engine",
    "passl.analysis.evaluation",
    "passl.analysis.data_report",
    "passl.engine.check",
    *(f"passl.utils.{path.stem}" for path in (ROOT / "passl" / "utils").glob("[a-z]*.py")),
]
MODULES = sorted((ROOT / "passl").rglob("*.py"))


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
            if layer(name) not in allowed and name not in ("passl", "passl.__version__"):
                wrong.append(f"{module_name(path)} imports {name}")
    assert wrong == []


def test_every_folder_has_a_layer():
    folders = {path.parent.name for path in (ROOT / "passl").glob("*/__init__.py")}
    assert folders == set(MAY_IMPORT) - {""}


def test_the_check_of_a_config_does_not_import_paddle():
    """`import passl` and `--help` stay below their limits because of this; a clock would only be
    noise.
    """
    code = f"import sys, importlib\nfor m in {LIGHT!r}: importlib.import_module(m)\n"
    code += "loaded = {'paddle', 'matplotlib', 'visualdl', 'safetensors'} & sys.modules.keys()\n"
    code += "sys.exit(str(loaded) if loaded else 0)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_import_and_help_are_light():
    """Neither `import passl` nor `--help` loads even numpy."""
    for code in (
        "import passl",
        "import sys; sys.argv = ['train.py', '--help']; sys.path.insert(0, 'tools')\n"
        "import runpy\ntry: runpy.run_path('tools/train.py', run_name='__main__')\nexcept "
        "SystemExit: pass",
    ):
        code += "\nimport sys; sys.exit('numpy' in sys.modules or 'paddle' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_each_module_can_be_imported_first():
    """In a process of its own, so that no import cycle hides behind another module's import."""
    names = [module_name(path) for path in MODULES]
    code = f"""
import os, sys, warnings, importlib
warnings.simplefilter("ignore")
# What others have made is imported once.
import PIL.Image, matplotlib.figure, paddle, safetensors.numpy, visualdl, yaml
failed = []
for name in {names!r}:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(', '.join(failed) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
