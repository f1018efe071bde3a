"""`passl visualize`: how a network, its images and the file to write are named."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import paddle
import pytest
from PIL import Image
from safetensors.numpy import save_file

from passl.cli import dispatch, visualize
from passl.data.datasets.digits import Digits
from passl.modeling import Model
from passl.porting.weight_file import OURS
from passl.utils.config import get_config
from tests.images import noise


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `passl visualize ARGUMENTS` in this process: exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["passl", "visualize", *map(str, arguments)])
        code = 0
        try:
            dispatch.main()
        except SystemExit as ended:
            code = ended.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.fixture(params=["ConViT", "CvT"])
def run_folder(request, tiny_config, tmp_path):
    """What a run leaves, as far as a reader of weights sees it, in a folder `run`."""
    cfg = get_config(tiny_config(request.param))
    paddle.seed(0)
    arrays = {name: value.numpy() for name, value in Model(cfg).state_dict().items()}
    told = {"config": cfg.to_dict(), "classes": [f"数字 {i}" for i in range(10)]}
    folder = tmp_path / "run"
    folder.mkdir()
    metadata = {OURS: "0", **{key: json.dumps(value) for key, value in told.items()}}
    save_file(arrays, folder / "last.safetensors", metadata)
    shutil.copy(tmp_path / f"{request.param}.yaml", folder / "config.yaml")
    return folder


def size_of(path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.mark.parametrize("name", visualize.FIGURES)
def test_each_figure_has_help_with_examples(call, name):
    code, out, _ = call(name, "--help")
    assert code == 0
    assert f"passl visualize {name}" in out.partition("examples:")[2]


@pytest.mark.parametrize("run_folder", ["ConViT"], indirect=True)
def test_a_run_a_checkpoint_and_weights_with_a_config_draw_the_same(call, run_folder, tmp_path):
    Digits(split="val").load_image(0).save(tmp_path / "digit.png")
    last = run_folder / "last.safetensors"
    named = [[run_folder], [last], [last, "-c", run_folder / "config.yaml"]]
    drawn = []
    for number, model in enumerate(named):
        out = tmp_path / f"{number}.png"
        code, printed, err = call(
            "features", *model[:1], tmp_path / "digit.png", *model[1:], "--out", out
        )
        assert (code, printed) == (0, f"{out}\n"), err
        drawn.append(out.read_bytes())
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize("run_folder", ["ConViT"], indirect=True)
def test_best_checkpoint_and_default_file_of_a_run(call, run_folder, tmp_path):
    code, out, err = call("filters", run_folder)
    assert (code, out) == (0, f"{run_folder / 'filters.png'}\n"), err
    (run_folder / "best.safetensors").write_bytes(b"damaged")
    code, _, err = call("filters", run_folder, "--force")
    assert code == 1
    assert "best.safetensors" in err


@pytest.mark.parametrize("run_folder", ["ConViT"], indirect=True)
def test_nothing_is_written_over(call, run_folder, tmp_path):
    out = tmp_path / "a.svg"
    out.write_text("mine")
    code, _, err = call("filters", run_folder, "--out", out)
    assert (code, out.read_text()) == (2, "mine")
    assert "--force" in err
    assert call("filters", run_folder, "--out", out, "--force")[0] == 0
    assert out.read_text().startswith("<?xml")
    for wrong, word in (("a.pdf", ".png or .svg"), ("no/a.png", "does not exist")):
        code, _, err = call("filters", run_folder, "--out", tmp_path / wrong)
        assert code == 2
        assert word in err


def test_wrong_models_images_and_layers(call, run_folder, tmp_path):
    noise(40, 24).save(tmp_path / "a.png")
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, word in (
        ([empty], "holds no checkpoint"),
        ([run_folder, tmp_path / "none.png"], "there is no such image"),
        ([run_folder, "--samples", 360], "samples 0 to 359"),
        ([run_folder, tmp_path / "a.png", "--samples", 1], "leave one out"),
        ([run_folder, tmp_path / "a.png", "--layer", "9.9"], "no layer 9.9"),
        ([run_folder, tmp_path / "a.png", "--size", 2048, 2048], "are too large"),
        (["nowhere", tmp_path / "a.png"], "no such file or folder"),
        (["convit_tinny", tmp_path / "a.png"], "did you mean 'convit_tiny'"),
    ):
        code, _, err = call("features", *arguments, "--out", tmp_path / "out.png")
        assert code == 2, err
        assert word in err
        assert len(err) < 500
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("run_folder", ["ConViT"], indirect=True)
def test_exported_network_is_refused(call, run_folder, tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    from passl.deploy.exported import write_description
    from passl.deploy.from_weights import load

    write_description(folder, load(run_folder / "last.safetensors")[1])
    code, _, err = call("filters", folder, "--out", tmp_path / "a.png")
    assert code == 2
    assert "last.safetensors" in err


@pytest.mark.parametrize("run_folder", ["ConViT"], indirect=True)
def test_one_and_many_images_at_another_size(call, run_folder, tmp_path):
    noise(40, 24).save(tmp_path / "a.png")
    one, many = tmp_path / "one.png", tmp_path / "many.png"
    assert call("features", run_folder, tmp_path / "a.png", "--size", 32, 64, "--out", one)[0] == 0
    assert call("features", run_folder, "--samples", *range(18), "--out", many)[0] == 0
    assert 0.5 < np.divide(*size_of(many)) < 2
    assert max(size_of(many)) < 4000
    assert size_of(one)[0] > size_of(one)[1]


@pytest.mark.parametrize("run_folder", ["ConViT"], indirect=True)
def test_figures_of_predictions_and_of_training_data(call, run_folder, tmp_path):
    small = ["-o", "dataloader.val.dataset.fraction=0.1"]
    for arguments in (["errors", run_folder, "--images", 2], ["confusion", run_folder]):
        out = tmp_path / f"{arguments[0]}.svg"
        code, printed, err = call(*arguments, "--out", out, *small)
        assert (code, printed) == (0, f"{out}\n"), err
    code, _, err = call("errors", run_folder / "last.safetensors", *small)
    assert (code, "by -c" in err) == (2, True)
    code, _, err = call("augment", run_folder, "--images", 1, "--out", tmp_path / "a.png")
    assert code == 0, err
    assert size_of(tmp_path / "a.png")[0] > 200


@pytest.mark.parametrize("run_folder", ["ConViT"], indirect=True)
def test_no_data_for_predictions(call, run_folder, tmp_path):
    node = "[{name: Normalize}]"
    missing = f"dataloader.val.dataset={{name: ImageFolder, dataroot: nowhere, transforms: {node}}}"
    code, _, err = call("errors", run_folder, "-o", missing, "--out", tmp_path / "e.png")
    assert code == 2
    assert "nowhere" in err
    assert not (tmp_path / "e.png").exists()


def test_curves_of_several_runs(call, tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = [
            {"phase": "train", "step": 2, "epoch": 1, "loss": 1.0, "lr": 0.1},
            {"phase": "val", "step": 2, "epoch": 1, "loss": 1.0, "top1": 5.0},
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "metrics.jsonl").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert call("curves", "a", "b")[:2] == (0, "curves.png\n")
    code, _, err = call("curves", "a", "b")  # a file that no run owns is kept
    assert code == 2
    assert "--force" in err
    (tmp_path / "a" / "curves.png").write_bytes(b"of an earlier call")
    assert call("curves", "a")[0] == 0
    assert size_of(tmp_path / "a" / "curves.png")[0] > 200


def test_attention_and_gradcam(call, run_folder, tmp_path):
    """Of chosen blocks and classes, for an image that is no square."""
    noise(40, 24).save(tmp_path / "a.png")
    given = [run_folder, tmp_path / "a.png", "--size", 32, 64]
    for figure, options in (
        ("attention", ["--blocks", "0", "-1", "--query", "3,60", "--heads", "0"]),
        ("gradcam", ["--classes", "数字 3", "7", "--layer", "0"]),
    ):
        code, _, err = call(figure, *given, *options, "--out", tmp_path / f"{figure}.svg")
        assert code == 0, err
        assert (tmp_path / f"{figure}.svg").stat().st_size > 10_000
    for figure, options, word in (
        ("attention", ["--blocks", "embeds"], "no layer embeds"),
        ("attention", ["--query", "3"], "ROW,COLUMN"),
        ("attention", ["--size", 1024, 1024, "--blocks", 0], "GiB"),
        ("attention", ["--size", 2048, 2048, "--query", "3,60"], "are too large"),
        ("gradcam", ["--classes", "11"], "numbers from 0 to 9"),
        ("gradcam", ["--layer", "-1"], "name an earlier layer"),
    ):
        code, _, err = call(figure, *given, *options, "--out", tmp_path / "out.png")
        assert code == 2, err
        assert word in err


def test_rollout_and_embeddings(call, run_folder, tmp_path):
    for arguments in (
        ["rollout", run_folder, "--samples", 1, "--fusion", "max"],
        ["embeddings", run_folder, "--count", 40],
        ["embeddings", run_folder, "--count", 40, "--split", "train", "--layer", "0"],
    ):
        code, _, err = call(*arguments, "--out", tmp_path / "a.png", "--force")
        assert code == 0, err
        assert min(size_of(tmp_path / "a.png")) > 200


@pytest.mark.parametrize("run_folder", ["ConViT"], indirect=True)
def test_overview_of_a_run(call, run_folder):
    code, _, err = call("overview", run_folder)
    assert (code, "metrics.jsonl" in err) == (2, True)
    rows = [
        {"phase": "train", "step": 4, "epoch": 1, "lr": 0.1, "loss": 2.0},
        {"phase": "val", "step": 4, "epoch": 1, "loss": 2.0, "top1": 10.0},
    ]
    (run_folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = call("overview", run_folder)
    assert (code, out) == (0, f"{run_folder / 'overview.png'}\n"), err
    assert size_of(run_folder / "overview.png")[0] == 2200
    assert call("overview", run_folder / "last.safetensors")[0] == 2
    assert call("overview", run_folder, "--out", run_folder / "a.svg")[0] == 2
