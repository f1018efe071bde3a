"""`pip install .` gives a command and a package that work elsewhere, configs included."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import passl
from passl.check.golden import CASES
from passl.data.datasets.digits import Digits

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_has_configs_and_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "passl/configs/convit/convit_tiny.yaml",
        "passl/configs/_base_/imagenet.yaml",
        "passl/data/datasets/digits.npz",
    } <= names
    assert {name.partition("/")[0] for name in names} - {"passl"} == {
        f"passl-{passl.__version__}.dist-info"
    }
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "passl").rglob("*.py")} <= names
    page = (ROOT / "passl" / "serving" / "page").iterdir()
    assert {path.relative_to(ROOT).as_posix() for path in page} <= names
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"passl/{name}" for name in shipped} <= names
    golden = {f"passl/golden/{file.parent.name}/{file.name}" for file in golden_files()}
    assert len(golden) == 3 * len(CASES)
    assert {name for name in names if name.startswith("passl/golden/")} == golden


def golden_files() -> list[Path]:
    """Of the networks; `transforms` is not part of the package."""
    return [file for case in CASES for file in (ROOT / "tests" / "golden" / case).iterdir()]


def test_an_installed_package_finds_its_configs(installed, tmp_path):
    site, environment = installed
    code = (
        "import passl, warnings; warnings.simplefilter('ignore')\n"
        "from passl.utils.config import get_config, CONFIG_ROOT\n"
        f"assert str(CONFIG_ROOT) == {str(site / 'passl' / 'configs')!r}, CONFIG_ROOT\n"
        "assert get_config('configs/cvt/cvt_13_224.yaml').model.head.num_classes == 1000\n"
        "assert len(passl.list_models()) >= 11\n"
        "assert passl.create_model('convit_tiny').backbone.num_features == 192\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


COMMANDS = """
import sys
from passl.cli.dispatch import main
for arguments in {calls!r}:
    sys.argv = ["passl", *arguments]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, (arguments, ended.code)
"""


def test_every_command_works_in_an_empty_folder(installed, tmp_path):
    """As a user without a checkout: train with the launcher, and use what it wrote."""
    site, environment = installed
    environment = {**environment, "HOME": str(tmp_path)}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    passl = str(site / "bin" / "passl")
    small = ["model.architecture.depth=2", "model.architecture.local_up_to_layer=1"]
    small += ["epochs=1", "lr_scheduler.warmup_epochs=0", "output_dir=run"]
    small += ["dataloader.train.dataset.fraction=0.2"]
    train = ["train", "digits/convit", "-o", *small]
    run(passl, "launch", *train, "--nproc_per_node", "2")
    image = tmp_path / "digit.png"
    Digits(split="val").load_image(0).save(image)
    weights = ("--weights", "run/best.safetensors")
    calls = [
        ["eval", "run/config.yaml", *weights],
        ["export", *weights, "exported"],
        ["predict", image.name, "--model", "exported", "--jsonl", "predictions.jsonl"],
        ["convert", "run/best.safetensors", "converted.safetensors"],
        ["features", "digits/convit", "-o", *small[:2], *weights, "--out", "val.npz"],
        ["probe", "val.npz", "val.npz"],
        ["visualize", "curves", "run"],
        ["compare", "run"],
        ["report", "run"],
        ["check-data", "digits/convit", "--part", "val", "--workers", "0"],
        ["config", "digits/cvt"],
        ["models"],
        ["env"],
        ["check", "--only", "golden-bf16", "--quick"],
    ]
    out = run(sys.executable, "-c", COMMANDS.format(calls=calls))
    (line,) = (line for line in out.splitlines() if line.startswith('{"weights"'))
    assert json.loads(line)["samples"] == 360
    (row,) = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert len(json.loads(row)["best"]) == 5
    written = (
        "run/curves.png",
        "run/report.html",
        "converted.safetensors",
        "exported/passl.json",
        "passl-check.md",
    )
    for name in (*written, "passl-check.md"):
        assert (tmp_path / name).is_file()
    assert f"folder: {site / 'passl'}" in out
