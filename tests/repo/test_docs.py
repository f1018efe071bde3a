"""The commands and examples of the pages in docs/ run, in the order of the page."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.test_serve import server

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder that looks like a fresh checkout; what the commands write stays in it."""
    for name in ("passl", "tools", "configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def call(folder: Path, *arguments: str, expect: int = 0, passl: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(passl)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == expect, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stderr if expect else done.stdout


def test_first_finetune(checkout, run_tool):
    """In this process, as those of the README."""
    (config,) = blocks("first_finetune.md", "yaml")
    (checkout / "shapes.yaml").write_text(config.replace("epochs: 40", "epochs: 4"))
    commands = [
        shlex.split(line)
        for block in blocks("first_finetune.md", "bash")
        for line in block.splitlines()
    ]
    assert [command[0] for command in commands] == ["python"] * len(commands)
    assert len(commands) == 10
    for command in commands:
        path, *quick = ["epochs=4" if part == "epochs=15" else part for part in command[1:]]
        if path.startswith("tools/"):
            run_tool(Path(path).name, *quick, folder=checkout)
        else:
            call(checkout, path, *quick)
    assert (checkout / "runs/first/confusion.png").is_file()
    (example,) = blocks("first_finetune.md", "python")
    assert "probability" in call(checkout, "-c", example)


def test_api(checkout, run_tool):
    train = ("train.py", "-c", "configs/digits/convit.yaml", "-o", "output_dir=runs/digits")
    run_tool(*train, "epochs=4", "dataloader.train.dataset.fraction=0.2", folder=checkout)
    export = ("export.py", "--weights", "runs/digits/best.safetensors", "runs/digits/exported")
    run_tool(*export, folder=checkout)
    printed = call(checkout, "-c", "".join(blocks("api.md", "python")))
    assert "did you mean 'embed_dim'" in printed


def test_serve(checkout, run_tool):
    """From nothing to an answer, with as little training as possible."""
    train, export, serve, curl = map(shlex.split, blocks("serve.md", "bash")[0].splitlines())
    assert train.pop(0) == export.pop(0) == serve.pop(0) == "passl"
    brief = ("epochs=4", "dataloader.train.dataset.fraction=0.1")
    run_tool("train.py", *train[1:], *brief, folder=checkout)
    run_tool("export.py", *export[1:], folder=checkout)
    name, _, folder = serve[1].partition("=")
    with server(f"{name}={checkout / folder}", *serve[2:], "--threads", 1) as (_, address):
        (client,) = blocks("serve.md", "python")
        assert "%" in call(checkout, "-c", client.replace("http://127.0.0.1:8866", address))
        command = [part.replace("http://127.0.0.1:8866", address) for part in curl]
        assert command[0] == "curl"
        if shutil.which("curl"):
            done = subprocess.run([*command, "-s"], cwd=checkout, capture_output=True, check=True)
            (prediction,) = json.loads(done.stdout)["predictions"]
            assert len(prediction["best"]) == 5


@pytest.mark.parametrize("page", ["from_timm.md", "from_paddleclas.md"])
def test_keys_of_the_other_projects_pages_exist(page):
    """Every config key that a page names is one that some shipped config or the check knows."""
    known = " ".join(
        [*(path.read_text() for path in (ROOT / "configs").rglob("*.yaml"))]
        + [*(path.read_text() for path in (ROOT / "passl").rglob("*.py"))]
    )
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    rows = [line.split("|")[2] for line in text.splitlines() if line.count("|") == 3]
    keys = {key for row in rows for key in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", row)}
    assert len(keys) > 10
    assert {key for key in keys if not re.search(rf"\b{key}\b", known)} == set()


def test_networks(checkout):
    example = "\n".join(blocks("networks.md", "python"))
    shapes = "\nprint([list(m.shape) for m in maps], list(attention[0].shape))"
    shapes += "\nprint(last.to_patches_BHNYX.shape)"
    printed = call(checkout, "-c", example + shapes)
    assert "[[1, 192, 14, 20], [1, 192, 14, 20]] [1, 4, 280, 280]" in printed
    assert "(1, 4, 1, 14, 20)" in printed


def test_figures_can_be_drawn(tmp_path):
    shutil.copytree(ROOT / "docs" / "figures", tmp_path / "docs" / "figures")
    (tmp_path / "docs" / "images").mkdir()
    call(tmp_path, str(tmp_path / "docs" / "figures" / "draw.py"))
    drawn = {path.name for path in (tmp_path / "docs" / "images").iterdir()}
    assert drawn == {
        "convit.png",
        "cvt.png",
        "cvt_projection.png",
        "gpsa.png",
        "gpsa_heads.png",
    }


def test_extend(tmp_path, installed):
    """A package of a stranger and an installed wheel: the page's commands run, nothing changed."""
    passl = partial(call, tmp_path, "-m", "passl", passl=installed[0])
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("\n\n".join(blocks("extend.md", "python")))
    line, config = blocks("extend.md", "yaml")
    assert config.startswith(line)
    (tmp_path / "stripes.yaml").write_text(config)
    (commands,) = blocks("extend.md", "bash")
    for command in commands.splitlines():
        program, *arguments = shlex.split(command)
        assert program == "passl"
        passl(*arguments)
    image = tmp_path / "image.png"
    Image.new("RGB", (32, 32)).save(image)
    answer = passl("predict", str(image), "--model", "exported")
    assert "columns" in answer
    # What a checkpoint or a folder names is imported only if that is allowed.
    weights = (
        "export",
        "--weights",
        "runs/stripes/best.safetensors",
        "again",
        "--size",
        "32",
        "32",
    )
    assert "--allow-imports" in passl(*weights, expect=2)
    passl(*weights, "--allow-imports")


def test_transform_of_ones_own_is_needed_in_prediction(tmp_path):
    """Of an exported folder; the error says which module, and how to allow its import."""
    (tmp_path / "own_part.py").write_text(
        "from passl.data import TRANSFORMS\n\n\n@TRANSFORMS.register\nclass Same:\n"
        "    def __call__(self, image, rng):\n        return image\n"
    )
    transforms = "[{name: Same}, {name: Normalize}]"
    (tmp_path / "own.yaml").write_text(
        "_base_: digits/convit.yaml\nimports: [own_part]\ndataloader:\n  val:\n    dataset:\n"
        f"      transforms: {transforms}\n"
    )
    train = ("train", "own.yaml", "-o", "output_dir=run", "epochs=4")
    call(tmp_path, "-m", "passl", *train, "dataloader.train.dataset.fraction=0.1")
    call(
        tmp_path,
        "-m",
        "passl",
        "export",
        "-c",
        "own.yaml",
        "--weights",
        "run/last.safetensors",
        "out",
    )
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    predict = ("-m", "passl", "predict", "image.png", "--model", "out")
    problem = call(tmp_path, *predict, expect=2)
    assert "own_part" in problem
    assert "--allow-imports" in problem
    assert "%" in call(tmp_path, *predict, "--allow-imports")
