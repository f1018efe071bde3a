"""Modules that a config names under `imports`."""

from __future__ import annotations

import sys

import pytest

from passl.data import TRANSFORMS
from passl.errors import ConfigError
from passl.utils.config import get_config


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    TRANSFORMS.names()  # passl's own entries are registered before the copy
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(TRANSFORMS, "_registered", dict(TRANSFORMS._registered))
    yield
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def write(folder, name, code, imports):
    (folder / f"{name}.py").write_text(code)
    path = folder / "config.yaml"
    path.write_text(f"seed: 0\nimports: {imports}\n")
    return path


def test_module_beside_the_config_registers_its_entries(tmp_path):
    code = (
        "from passl.data import TRANSFORMS\n\n@TRANSFORMS.register\nclass Inverted:\n"
        "    def __init__(self, *, p: float = 0.5):\n        self.p = p\n"
    )
    path = write(tmp_path, "own_transforms_1", code, "[own_transforms_1]")
    assert "Inverted" not in TRANSFORMS
    get_config(path)
    assert "Inverted" in TRANSFORMS
    get_config(path)  # a module is imported once


def test_module_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "own_module_2.py").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    get_config(write(tmp_path, "unused", "", "[own_module_2]"))
    assert "own_module_2" in sys.modules


def test_override_names_modules(tmp_path):
    path = write(tmp_path, "own_module_3", "", "[]")
    get_config(path, ["imports=[own_module_3]"])
    assert "own_module_3" in sys.modules


@pytest.mark.parametrize(
    ("code", "imports", "expected"),
    [
        ("", "[own_missing]", ["config.yaml:2", "no module 'own_missing'", "PYTHONPATH"]),
        ("", "[own_broken.part]", ["config.yaml:2", "no module 'own_broken.part'"]),
        ("1 / 0\n", "[own_broken]", ["config.yaml:2", "ZeroDivisionError", "own_broken.py:1"]),
        ("import no_such_thing\n", "[own_broken]", ["no_such_thing", "own_broken.py:1"]),
        ("raise SystemExit(3)\n", "[own_broken]", ["SystemExit", "own_broken.py:1"]),
        (
            "from passl.data import TRANSFORMS\n@TRANSFORMS.register\nclass Resize:\n    pass\n",
            "[own_broken]",
            ["there is a transform 'Resize' already", "own_broken"],
        ),
        ("", "own_broken", ["'own_broken' must be a list of module names"]),
        ("", "[3]", ["must be a list of module names"]),
        ("", "3", ["config.yaml:2", "must be a list of module names"]),
    ],
)
def test_module_that_cannot_be_imported(tmp_path, code, imports, expected):
    with pytest.raises(ConfigError) as caught:
        get_config(write(tmp_path, "own_broken", code, imports))
    assert [part for part in expected if part not in str(caught.value)] == []


def test_all_problems_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        get_config(write(tmp_path, "unused", "", "[own_missing_1, own_missing_2]"))
    assert len(caught.value.problems) == 2
