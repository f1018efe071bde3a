"""`pip install .` gives a package that works elsewhere, configs and digits included."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, from a copy of the tracked files, so that building leaves nothing behind."""
    pytest.importorskip("setuptools", minversion="77")
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if files.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, files.stdout.split("\0")):
        if name.startswith("tests/") or not (ROOT / name).is_file():
            continue
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        out,
        copy,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = out.iterdir()
    return found


def test_the_wheel_has_configs_and_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "passl/configs/convit/convit_tiny.yaml",
        "passl/configs/_base_/imagenet.yaml",
        "passl/data/datasets/digits.npz",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/", "configs/"))]
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "passl").rglob("*.py")} <= names
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"passl/{name}" for name in shipped} <= names


def test_an_installed_package_finds_its_configs(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import passl, warnings; warnings.simplefilter('ignore')\n"
        "from passl.utils.config import get_config, CONFIG_ROOT\n"
        "assert str(CONFIG_ROOT).endswith('passl/configs'), CONFIG_ROOT\n"
        "assert get_config('configs/cvt/cvt_13_224.yaml').model.head.num_classes == 1000\n"
        "assert len(passl.list_models()) == 11\n"
        "assert passl.create_model('convit_tiny').backbone.num_features == 192\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
