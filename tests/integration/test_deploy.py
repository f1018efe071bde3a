"""Networks of the original projects through export and prediction, and the tools as a user runs
them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from passl.cli import export as export_command
from passl.data.datasets.digits import Digits
from passl.deploy import Predictor
from passl.deploy import export as exporting
from passl.deploy.engines import as_engine, check_engine, load_engine
from passl.deploy.export import export
from passl.deploy.from_weights import load
from passl.errors import ConfigError, RunError
from passl.modeling import Model
from passl.porting.weight_file import NUMERICS, OURS
from passl.utils.config import get_config
from tests.numerics import check_network

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
NORMALIZE = {"name": "Normalize"}


def golden_config(name: str) -> dict:
    """The config of a golden case."""
    facts = json.loads((GOLDEN / name / "case.json").read_text())
    if name.startswith("convit"):
        keys = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "local_up_to_layer")
        architecture = {"name": "ConViT", **{key: facts[key] for key in keys}}
        width = facts["embed_dim"]
    else:
        keys = ("embed_dim", "depth", "num_heads", "stride_kv")
        architecture = {"name": "CvT", **{key: facts[key] for key in keys}}
        architecture |= {"method": facts["qkv_proj_method"], "with_cls_token": facts["cls_token"]}
        width = facts["embed_dim"][-1]
    head = {"name": "ClsHead", "num_classes": facts["num_classes"], "in_channels": width}
    return {"model": {"architecture": architecture, "head": head}}


def exported(name: str, out: Path, onnx: bool = False) -> dict:
    """Export a golden case; what the original computed."""
    (weights,) = (p for p in (GOLDEN / name).iterdir() if p.suffix in (".pth", ".safetensors"))
    case = dict(np.load(GOLDEN / name / "case.npz"))
    size = list(case["images"].shape[-2:])
    model, description = load(weights, golden_config(name), [NORMALIZE], size)
    assert description.input == [3, *size]
    export(model, description, out, onnx)
    return case


@pytest.mark.parametrize(
    "name",
    ["convit_fb", "convit_timm", "cvt_ms", "cvt_ms_rectangular", "cvt_ms_avg_no_cls"],
)
def test_exported_networks_compute_what_the_originals_did(name, tmp_path, capfd):
    case = exported(name, tmp_path / "out")
    capfd.readouterr()
    predictor = Predictor(tmp_path / "out", threads=1)
    check_network(predictor.run(case["images"]), case["logits"])
    check_network(predictor.run(case["images"][:1]), case["logits"][:1])
    plain = Predictor(tmp_path / "out", "paddle_plain", threads=1)
    check_network(plain.run(case["images"]), case["logits"])
    assert capfd.readouterr().out == ""  # oneDNN's chatter would spoil a table


@pytest.mark.parametrize("name", ["convit_timm", "cvt_ms"])
def test_bf16(name, tmp_path):
    try:
        check_engine("paddle", "bf16", 1)
    except ConfigError:
        pytest.skip("this processor has no bf16")
    case = exported(name, tmp_path / "out")
    found = Predictor(tmp_path / "out", precision="bf16", threads=1).run(case["images"])
    check_network(found, case["logits"], 2**-5)  # bf16 has 8 bits
    assert np.abs(found - case["logits"]).max() > 1e-5  # it is not fp32


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["convit_timm", "cvt_ms_rectangular"])
def test_onnx(name, engine, tmp_path):
    pytest.importorskip("paddle2onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip(engine)
    case = exported(name, tmp_path / "out", onnx=True)
    predictor = Predictor(tmp_path / "out", engine, threads=1)
    check_network(predictor.run(case["images"]), case["logits"])
    check_network(predictor.run(case["images"][:1]), case["logits"][:1])


class MeanOfPixels(paddle.nn.Layer):
    """A network of one's own, which the folding leaves as it is."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = paddle.nn.Conv2D(3, 4, 3), paddle.nn.Linear(4, 2)

    def forward(self, images):
        return self.fc(self.conv(images).mean([2, 3]))


def test_a_mean_in_a_graph_prints_nothing(tmp_path, capfd):
    """oneDNN's check of it does, to the standard output, which is for results."""
    spec = [paddle.static.InputSpec([-1, 3, 8, 8], "float32", "images")]
    network = paddle.jit.to_static(MeanOfPixels(), input_spec=spec, full_graph=True, backend=None)
    paddle.jit.save(network, str(tmp_path / "model"))
    engine = load_engine(tmp_path, "paddle", "fp32", 1)
    assert engine(np.zeros((2, 3, 8, 8), np.float32)).shape == (2, 2)
    engine(np.zeros((1, 3, 8, 8), np.float32))
    assert capfd.readouterr().out == ""


def run_in_threads(run, batches: list[np.ndarray], threads: int = 4) -> list[np.ndarray]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, batches))


@pytest.mark.parametrize("engine", ["paddle", "onnxruntime", "openvino"])
def test_threads_share_a_predictor(engine, tmp_path):
    """Each answer is the one that the batch has alone, bit for bit; and no call keeps memory."""
    onnx = engine != "paddle"
    if onnx:
        pytest.importorskip("paddle2onnx")
        pytest.importorskip("onnxruntime")
        pytest.importorskip(engine)
    exported("cvt_ms", tmp_path / "out", onnx)
    predictor = Predictor(tmp_path / "out", engine, threads=1)
    rng = np.random.default_rng(0)
    size = predictor.description.input
    batches = [rng.standard_normal((1 + i % 2, *size), np.float32) for i in range(24)]
    expected = [predictor.run(batch) for batch in batches]
    for found, alone in zip(run_in_threads(predictor.run, batches), expected, strict=True):
        np.testing.assert_array_equal(found, alone)

    def growth() -> int:
        before = resident_bytes()
        run_in_threads(predictor.run, batches)
        return resident_bytes() - before

    # Allocators settle after some rounds; calls that keep memory never do.
    assert any(growth() < sum(batch.nbytes for batch in batches) / 4 for _ in range(20))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", ["ConViT", "CvT"])
def test_threads_share_a_network_that_is_not_exported(name, tiny_config):
    paddle.seed(0)
    model = Model(get_config(tiny_config(name)))
    model.eval()
    engine = as_engine(model)
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((2, 3, 32, 32), np.float32) for _ in range(40)]
    expected = [engine(batch) for batch in batches]
    for found, alone in zip(run_in_threads(engine, batches), expected, strict=True):
        np.testing.assert_array_equal(found, alone)
    assert paddle.is_grad_enabled()


@pytest.fixture
def network():
    paddle.seed(0)
    config = golden_config("convit_timm")
    model = Model(config)
    names = [str(i) for i in range(6)]
    from passl.deploy.exported import Description

    return model, Description(
        config["model"], [NORMALIZE], [3, 32, 32], names, {}, 1, "drawn", False
    )


def test_a_wrong_folding_is_not_exported(network, tmp_path, monkeypatch):
    model, description = network
    wrong = lambda model, height, width: paddle.nn.Sequential(  # noqa: E731
        model, paddle.nn.Hardtanh(-1e-2, 1e-2)
    )
    monkeypatch.setattr(exporting, "fold", wrong)
    with pytest.raises(RunError, match="the folded network differs from the model by .* nothing"):
        export(model, description, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert model.training  # its mode is what it was


def test_a_wrong_artifact_is_not_kept(network, tmp_path, monkeypatch):
    model, description = network
    write = exporting._write_graph

    def spoiled(folded, description, folder):
        folded["head"].fc_cls.bias.set_value(folded["head"].fc_cls.bias + 1)
        write(folded, description, folder)

    monkeypatch.setattr(exporting, "_write_graph", spoiled)
    with pytest.raises(RunError, match="the written network, run by paddle, differs"):
        export(model, description, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_not_overwritten(network, tmp_path):
    with pytest.raises(ConfigError, match="not UTF-8"):
        export(*network, tmp_path / os.fsdecode(b"out\xff"))
    with pytest.raises(ConfigError, match="is there already and is not overwritten"):
        export(*network, tmp_path)
    with pytest.raises(ConfigError, match=r"the folder .* does not exist"):
        export(*network, tmp_path / "no" / "out")


def test_a_size_that_the_patches_do_not_divide(network, tmp_path):
    model, description = network
    odd = type(description)(**{**vars(description), "input": [3, 30, 32]})
    with pytest.raises(ConfigError, match="30x32 does not divide into patches of 8"):
        export(model, odd, tmp_path / "out")


def test_weights_determine_network_and_transforms(tmp_path):
    """Weights of a published variant need no config: images and classes are the variant's."""
    paddle.seed(0)
    model = Model("configs/cvt/cvt_13_224.yaml")
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors", {OURS: "0"})
    _, description = load(tmp_path / "w.safetensors")
    cfg = get_config("cvt/cvt_13_224.yaml").to_dict()
    assert description.transforms == cfg["dataloader"]["val"]["dataset"]["transforms"]
    assert description.input == [3, 224, 224]
    assert (len(description.classes), description.classes[1]) == (1000, "n01443537")
    assert description.parameters == 19_997_480  # counted from the authors' definition


@pytest.fixture
def checkpoint(tiny_config, tmp_path) -> Path:
    """What a run of CvT on the digits leaves, as far as a reader of weights sees it."""
    cfg = get_config(tiny_config("CvT"))
    paddle.seed(0)
    model = Model(cfg)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    names = [f"digit {i}" for i in range(10)]
    told = {"config": cfg.to_dict(), "classes": names, NUMERICS: {}}
    metadata = {OURS: "0", **{key: json.dumps(value) for key, value in told.items()}}
    path = tmp_path / "best.safetensors"
    save_file(weights, path, metadata)
    return path


def test_export_and_predict_from_a_checkpoint_alone(checkpoint, tmp_path, run_tool):
    out = tmp_path / "out"
    done = run_tool("export.py", "--weights", checkpoint, out)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["files"] == ["model.json", "model.pdiparams", "passl.json"]
    assert (told["input"], told["classes"]) == ([3, 32, 32], 10)
    assert str(tmp_path) not in (out / "model.json").read_text()
    assert not os.access(tmp_path / f".out.{os.getpid()}.tmp", os.F_OK)
    again = run_tool("export.py", "--weights", checkpoint, out, expect=2)
    assert again.stderr.splitlines()[-1].startswith("error: ")

    digits = Digits(split="val")
    names = [os.fsdecode(b"0\xff.png"), "1.png", "2.png"]  # the first one is not UTF-8
    for index, name in enumerate(names):
        digits.load_image(index).save(tmp_path / name)
    (tmp_path / "bad.png").write_text("damaged")
    files = [str(tmp_path / name) for name in (names[0], "bad.png", *names[1:])]
    listed = tmp_path / "list.txt"
    listed.write_bytes(os.fsencode("\n".join(files)))

    model, description = load(checkpoint)
    assert description.transforms[0] == {"name": "Resize", "size": [32, 32]}  # of the training
    images = [Predictor(out).prepare(file) for file in (files[0], *files[2:])]
    with paddle.no_grad():
        logits = model(paddle.to_tensor(np.stack(images))).numpy().astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    table, lines = tmp_path / "p.csv", tmp_path / "p.jsonl"
    options = ("--list", listed, "--top-k", 3, "--batch-size", 2)
    done = run_tool(
        "predict.py", "--model", out, *options, "--csv", table, "--jsonl", lines, expect=1
    )
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "error: 1 of 4 images cannot be read"
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["name"] for row in rows] == files
    assert "cannot be read as an image" in rows[1]["error"]
    for row, probabilities in zip([rows[0], *rows[2:]], expected, strict=True):
        assert [g["label"] for g in row["best"]] == list(np.argsort(-probabilities)[:3])
        assert [g["name"] for g in row["best"]] == [f"digit {g['label']}" for g in row["best"]]
        for prediction in row["best"]:
            assert prediction["probability"] == pytest.approx(
                probabilities[prediction["label"]], abs=1e-5
            )
    with table.open(newline="", errors="surrogateescape") as file:
        cells = list(csv.reader(file))
    assert cells[0][:4] == ["name", "label_1", "name_1", "probability_1"]
    assert [row[0] for row in cells[1:]] == files
    assert cells[1][2] == rows[0]["best"][0]["name"]
    assert cells[2][1:] == [""] * 9

    by_weights = run_tool("predict.py", "--weights", checkpoint, files[0], "--top-k", 1)
    best = rows[0]["best"][0]
    name, prediction = by_weights.stdout.splitlines()
    assert name == str(tmp_path / "0") + r"\udcff.png"
    assert prediction.split() == [f"{100 * best['probability']:.2f}", "%", str(best["label"])] + [
        "digit",
        str(best["label"]),
    ]
    run_tool("predict.py", "--model", out, files[0], "--csv", table, expect=2)


def run_export(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    export_command.add_options(parser)
    export_command.main(parser.parse_args(arguments))


def test_int8(checkpoint, tmp_path, capsys):
    """The digits as a folder of class folders; a network that is not trained."""
    for module in ("paddle2onnx", "onnxruntime", "ml_dtypes"):
        pytest.importorskip(module)
    digits = Digits(split="val")
    for index in range(80):
        folder = tmp_path / "data" / f"digit {digits.labels[index]}"
        folder.mkdir(parents=True, exist_ok=True)
        digits.load_image(index).save(folder / f"{index}.png")
    out = tmp_path / "out"
    call = ["--weights", str(checkpoint), str(out), "--int8"]
    with pytest.raises(ConfigError, match="--calibrate DATA"):
        run_export(call)
    run_export([*call, "--calibrate", str(tmp_path / "data"), "--max-loss", "100"])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])["int8"]
    assert (record["images"], record["held_out"]) == (20, 60)
    predictor = Predictor(out, "onnxruntime", "int8", threads=1)
    assert predictor.description.int8 == record
    images = np.stack([predictor.prepare(digits.load_image(i)) for i in range(8)])
    exact = Predictor(out, threads=1).run(images)
    difference = np.abs(predictor.run(images) - exact).max() / np.abs(exact).max()
    assert 1e-5 < difference < 0.2  # it is not fp32, and near it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x.png", "--model", "."), "x.png: there is no such image or folder"),
        (("README.md", "--model", "."), "not an exported folder"),
        (("README.md", "--model", ".", "--engine", "tvm"), "engine 'tvm' is not one of"),
        (("README.md", "--weights", "w.pth", "--precision", "bf16"), "--precision goes with --mod"),
        (("README.md", "--model", ".", "--size", "8", "8"), "--size goes with --weights"),
        (("README.md", "--weights", "w.pth", "-o", "a=1"), "name one by -c"),
    ],
)
def test_wrong_calls(arguments, message, monkeypatch, root, capsys):
    """One line that says what is wrong, and exit code 2."""
    import runpy

    monkeypatch.setattr(sys, "argv", ["predict.py", *arguments])
    monkeypatch.setattr(sys, "path", [str(root / "tools"), *sys.path])
    monkeypatch.chdir(root)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(root / "tools" / "predict.py"), run_name="__main__")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_onnx_without_its_packages(network, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install paddle2onnx onnxruntime"):
        export(*network, tmp_path / "out", onnx=True)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def paddle2onnx(monkeypatch):
    """A paddle2onnx that prints as it does, from compiled code and from Python."""

    def export(graph, weights, out, **options):
        os.write(1, b"[Paddle2ONNX] Start parsing the Paddle model file...\n")
        if not Path(graph).is_file():
            sys.stdout.write("\033[0;31m2026-01-01 [ERROR]\tno graph\033[0m\n")
            sys.exit(-1)
        sys.stdout.write("of another thread\n")
        sys.stdout.write(f"2026-01-01 00:00:00 [INFO]\tONNX model saved in {out}.\n")
        Path(out).touch()

    monkeypatch.setitem(sys.modules, "paddle2onnx", types.SimpleNamespace(export=export))


def test_paddle2onnx_does_not_write_to_stdout(paddle2onnx, tmp_path, capfd):
    (tmp_path / "model.json").touch()
    exporting._write_onnx(tmp_path)
    assert capfd.readouterr().out == "of another thread\n"


def test_paddle2onnx_says_why_it_fails(paddle2onnx, tmp_path, capfd):
    with pytest.raises(RunError, match=r"paddle2onnx failed: -1 2026-01-01 \[ERROR\] no graph$"):
        exporting._write_onnx(tmp_path)
    assert capfd.readouterr().out == ""
