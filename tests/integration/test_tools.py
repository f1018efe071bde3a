"""The command lines, as a user calls them: what they print, and what wrong input gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from passl.analysis.watch import watch
from passl.engine.metrics import read_metrics
from passl.utils.config import COMMAND_LINE
from tests.numerics import VALUES

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, request):
    """A finished run of a tiny ConViT, made by tools/train.py."""
    root = Path(__file__).parents[2]
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = subprocess.run(
        [
            *(sys.executable, root / "tools" / "train.py", "-c", "configs/digits/convit.yaml"),
            *("-o", f"output_dir={folder}", "epochs=1", "lr_scheduler.warmup_epochs=0"),
            *("-o", "model.architecture.depth=2", "-o", "model.architecture.local_up_to_layer=1"),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_watch_reads_a_real_run(trained, capsys):
    """The log's lines are what it takes them for."""
    folder, _ = trained
    watch(folder, 1.0, once=False)
    watch(folder, 1.0, once=True)
    text = capsys.readouterr().out
    rows = read_metrics(folder)
    best = max(row["top1"] for row in rows if row["phase"] == "val")
    assert text.count("is finished") == 2
    assert "epoch 1/1  step 44/44" in text and f"best top1 {best:.2f} % in epoch 1" in text


def test_training_writes_its_folder(trained):
    folder, done = trained
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "best.safetensors",
        "last.safetensors",
        "config.yaml",
        "metrics.jsonl",
        "run.lock",
        "starts.jsonl",
        "train.log",
        "vdl",
    }
    assert done.stdout == ""
    for word in (
        "[Train][Epoch 1/1][Iter: 22/44]",
        "batch_cost",
        "reader_cost",
        "ips",
        "eta",
        "[Eval][Epoch 1]",
    ):
        assert word in done.stderr
        assert word in (folder / "train.log").read_text()
    assert "Warning" not in done.stderr


def test_evaluation_gives_the_score_of_the_training(trained, run_tool):
    folder, _ = trained
    done = run_tool(
        "eval.py", "-c", folder / "config.yaml", "--weights", folder / "best.safetensors"
    )
    result = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (val,) = (row for row in rows if row["phase"] == "val")
    assert result["samples"] == 360
    assert result["top1"] == pytest.approx(val["top1"])
    assert result["loss"] == pytest.approx(val["loss"], rel=VALUES)


def test_curves(trained, run_tool, tmp_path):
    folder, _ = trained
    out = tmp_path / "curves.png"
    run_tool("visualize.py", "curves", folder, "--out", out)
    with Image.open(out) as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50
    done = run_tool("visualize.py", "curves", tmp_path, expect=2)
    assert "holds no metrics.jsonl" in done.stderr


def test_print_config(run_tool):
    done = run_tool(
        "print_config.py", "-c", "configs/cvt/cvt_13_384.yaml", "-o", "optimizer.lr=5e-4"
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("optimizer.lr:")][0].split() == [
        *("optimizer.lr:", "0.0005", "#", *COMMAND_LINE.split())
    ]
    assert any("epochs: 300" in line and "configs/_base_/imagenet.yaml:" in line for line in lines)
    assert any("transforms.0.size: 384" in line and "size_384.yaml:" in line for line in lines)


def test_paths_that_no_shell_has_expanded(run_tool, tmp_path):
    """A shell leaves the `~` of --config=~/c.yaml; a job's command has no shell."""
    (tmp_path / "c.yaml").write_text("output_dir: $RUNS/digits\n")
    told = {"HOME": str(tmp_path), "RUNS": "/big/runs"}
    done = run_tool("print_config.py", "--config=~/c.yaml", **told)
    assert done.stdout.split() == [
        *("output_dir:", '"/big/runs/digits"', "#", f"{tmp_path}/c.yaml:1")
    ]
    call = ("eval.py", "--config=$HOME/c.yaml", "--weights=$NOTHING/w.pth")
    done = run_tool(*call, expect=2, **told)
    assert "--weights: $NOTHING/w.pth: the environment variable NOTHING is not set" in done.stderr


def test_a_stored_config_has_no_variables(run_tool, tmp_path):
    (tmp_path / "c.yaml").write_text("output_dir: ~/c$$x/$RUN\n")
    told = {"HOME": "/h/me", "RUN": "a"}
    stored = run_tool("print_config.py", "-c", tmp_path / "c.yaml", "--yaml", **told).stdout
    assert stored == "output_dir: /h/me/c$$x/a\n"


def failing(run_tool, expect: int, *args) -> str:
    """The message of a wrong call: one error, no traceback, nothing on stdout."""
    done = run_tool(*args, expect=expect)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


CONFIG = ("-c", "configs/digits/convit.yaml")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-c", "configs/digits/convitt.yaml"), "there is no such config file; did you mean"),
        ((*CONFIG, "-o", "model.architecture.embed_dims=3"), "did you mean 'embed_dim'?"),
        ((*CONFIG, "-o", "optimizer.lr"), "an override is KEY=VALUE"),
        (
            (*CONFIG, "-o", "dataloader.train.dataset.transforms.7.size=3"),
            "'7' is not an index",
        ),
        (
            (*CONFIG, "-o", "model.head.num_classes=11"),
            "11 is not the 10 classes of dataloader.train; set it to 10",
        ),
        (
            (*CONFIG, "-o", "model.architecture.patch_size=5"),
            "does not divide into patches of 5 pixels",
        ),
        ((), "no config is named; name one before -o (CONFIG -o KEY=VALUE), or by -c CONFIG"),
    ],
)
def test_wrong_calls(run_tool, args, message):
    """Exit code 2 and one message. tests/repo/test_layers.py: none of them waits for paddle."""
    assert message in failing(run_tool, 2, "train.py", *args)


def test_duplicate_key(run_tool, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("epochs: 1\nseed: 0\nepochs: 2\n")
    assert f"error: {path}:3: epochs: the key is given twice" in failing(
        run_tool, 2, "train.py", "-c", path
    )


def test_several_errors_are_listed(run_tool):
    message = failing(
        run_tool, 2, "train.py", *CONFIG, "-o", "epoch=1", "optimizer.lr=x", "device=tpu"
    )
    assert message.startswith("3 errors:\n  the command line (-o): ")


def test_a_run_folder_in_use(run_tool, trained):
    folder, _ = trained
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "holds a run already" in failing(
        run_tool, 2, "train.py", *CONFIG, "-o", f"output_dir={folder}"
    )
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_options_that_only_the_constructor_can_refuse(run_tool, tmp_path):
    message = failing(
        run_tool,
        2,
        "train.py",
        *CONFIG,
        "-o",
        "model.architecture.num_heads=5",
        f"output_dir={tmp_path / 'run'}",
    )
    assert "embed_dim 64 does not divide into 5 heads" in message
    assert not (tmp_path / "run").exists()


def test_wrong_weights(run_tool, tmp_path):
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    for weights, message in (
        (tmp_path / "none.safetensors", "there is no such weight file"),
        (tmp_path / "torn.safetensors", "not a readable .safetensors file"),
        (GOLDEN / "convit_fb" / "weights.pth", "weights of another network"),
    ):
        assert message in failing(run_tool, 1, "eval.py", *CONFIG, "--weights", weights)


def test_convert_weights(run_tool, tmp_path):
    """There and back through the command line: the file is the original bit for bit."""
    from safetensors.numpy import load_file

    source = GOLDEN / "convit_timm" / "model.safetensors"
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    done = run_tool("convert_weights.py", source, ours)
    assert "blocks.0.attn.qk.weight" in done.stdout
    assert "transposed" in done.stdout
    run_tool("convert_weights.py", ours, theirs, "--to", "timm")
    original, back = load_file(source), load_file(theirs)
    assert original.keys() == back.keys()
    assert all((original[name] == back[name]).all() for name in original)
    assert "is there already" in failing(run_tool, 2, "convert_weights.py", source, ours)
    other = ("--to", "vit")
    assert "timm" in failing(run_tool, 2, "convert_weights.py", source, tmp_path / "n", *other)


def failing_after_output(run_tool, expect: int, *args) -> str:
    done = run_tool(*args, expect=expect)
    assert "Traceback" not in done.stderr
    return done.stderr


def test_check_of_converted_weights(run_tool):
    case = GOLDEN / "convit_mindcv"
    done = run_tool("convert_weights.py", case / "weights.ckpt", "--check", case / "case.npz")
    assert "relative to the largest" in done.stdout
    other = GOLDEN / "cvt_ms" / "case.npz"
    message = failing_after_output(
        run_tool, 1, "convert_weights.py", GOLDEN / "cvt_hf" / "model.safetensors", "--check", other
    )
    assert message.startswith("error: ")


def test_list_of_the_zoo(run_tool):
    done = run_tool("convert_weights.py", "--list")
    assert "convit_tiny.mindcv_in1k" in done.stdout
    assert len(done.stdout.splitlines()) > 20


def test_an_unknown_zoo_name(run_tool):
    call = ("eval.py", "-c", "configs/convit/convit_small.yaml", "--weights")
    message = failing_after_output(run_tool, 2, *call, "convit_small.mindcv_in1")
    assert "did you mean 'convit_small.mindcv_in1k'" in message


def test_zoo_weights_use_their_own_transforms():
    """MindCV scored convit_small at 224 of 244 pixels; its weights are not scored at the config's
    224 of 256, unless the user says so. Files are scored as the config says.
    """
    import argparse

    from passl.cli.eval import read_evaluation

    def transforms(weights: str, *overrides: str):
        args = argparse.Namespace(
            config="convit/convit_small", weights=weights, override=[list(overrides)]
        )
        return read_evaluation(args).dataloader.val.dataset.transforms

    assert transforms("convit_small.mindcv_in1k")[0].size == 244
    assert transforms("somewhere/weights.ckpt")[0].size == 256
    said = "dataloader.val.dataset.transforms=[{name: Resize, size: 300}, {name: Normalize}]"
    assert transforms("convit_small.mindcv_in1k", said)[0].size == 300
