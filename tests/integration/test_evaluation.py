"""tools/eval.py with all its options, as a user calls it."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passl.distributed.launcher import free_port
from tests.numerics import VALUES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A config of a CvT, and weights as initialised: its predictions are poor but its own."""
    import paddle
    from safetensors.numpy import save_file

    from passl.modeling import Model
    from passl.porting.weight_file import OURS
    from passl.utils.config import get_config

    paddle.seed(5)
    model = Model(get_config("digits/cvt.yaml"))
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    rng = np.random.default_rng(5)
    arrays["head.fc_cls.weight"] = rng.normal(size=(96, 10)).astype("float32")
    path = tmp_path_factory.mktemp("weights") / "cvt.safetensors"
    save_file(arrays, path, {OURS: "test"})
    return ("-c", "configs/digits/cvt.yaml", "--weights", path)


def result_of(done: subprocess.CompletedProcess[str]) -> dict:
    return json.loads(done.stdout.splitlines()[-1])


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_tables_agree_with_the_scores(run_tool, weights, tmp_path):
    files = {
        "--per-class": tmp_path / "classes.csv",
        "--confusion": tmp_path / "confusion.csv",
        "--predictions": tmp_path / "predictions.jsonl",
        "--calibration": tmp_path / "calibration.png",
    }
    options = [part for pair in files.items() for part in pair]
    done = run_tool("eval.py", *weights, *options, "-o", "dataloader.val.loader={num_workers: 2}")
    result = result_of(done)
    names = [*files.values(), tmp_path / "confusion.png", tmp_path / "calibration.csv"]
    assert sorted(result["files"]) == sorted(map(str, names))
    assert result["samples"] == 360
    assert result["tta"] == "none"
    unused = ("crop", "valid_labels", "real_top1", "corruptions")
    assert all(result[key] is None for key in unused)
    assert "images/s" in done.stderr

    samples = [json.loads(line) for line in files["--predictions"].read_text().splitlines()]
    with np.load(ROOT / "passl" / "data" / "datasets" / "digits.npz") as file:
        labels = file["labels"][file["is_val"].astype(bool)]
    assert [sample["name"] for sample in samples] == [f"Digits val {i}" for i in range(360)]
    assert [sample["label"] for sample in samples] == labels.tolist()
    predictions = np.array(
        [[prediction["label"] for prediction in sample["best"]] for sample in samples]
    )
    probabilities = np.array(
        [[prediction["probability"] for prediction in sample["best"]] for sample in samples]
    )
    assert (np.diff(probabilities) <= 0).all()
    assert (probabilities.sum(-1) <= 1 + 1e-5).all()
    right = predictions == labels[:, None]
    assert result["top1"] == pytest.approx(100 * right[:, 0].mean())
    assert result["top5"] == pytest.approx(100 * right.any(-1).mean())
    for name, count, top1, top5 in table(files["--per-class"])[1:]:
        own = right[labels == int(name)]
        assert int(count) == len(own)
        assert float(top1) == pytest.approx(100 * own[:, 0].mean(), abs=1e-4)
        assert float(top5) == pytest.approx(100 * own.any(-1).mean(), abs=1e-4)
        assert result["recall"][name] == pytest.approx(100 * own[:, 0].mean())
    assert result["balanced_accuracy"] == pytest.approx(np.mean([*result["recall"].values()]))
    confusion = np.array([row[1:] for row in table(files["--confusion"])[1:]]).astype(int)
    f1 = 2 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))
    assert result["macro_f1"] == pytest.approx(100 * f1.mean())
    for row in range(10):
        counts = np.bincount(predictions[labels == row, 0], minlength=10)
        assert confusion[row].tolist() == counts.tolist()
    for name in ("confusion.png", "calibration.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"
    (calibration,) = result["calibration"]
    assert calibration["accuracy"] == pytest.approx(result["top1"])
    assert calibration["nll"] == pytest.approx(result["loss"], rel=1e-5)
    assert calibration["confidence"] == pytest.approx(100 * probabilities[:, 0].mean(), abs=1e-3)
    assert sum(int(row[3]) for row in table(tmp_path / "calibration.csv")[1:]) == 360

    before = {path: path.read_bytes() for path in names}
    failed = run_tool("eval.py", *weights, *options, expect=2)
    assert failed.stderr.startswith("6 errors:")
    assert failed.stderr.count("is there already and is not overwritten") == 6
    assert failed.stdout == ""
    assert {path: path.read_bytes() for path in names} == before


def test_two_ranks_write_what_one_does(run_tool, fork_tool, weights, tmp_path):
    """The scores are the same and rank 0 writes everyone's predictions."""
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"

    def options(part: str) -> list[object]:
        corruptions = ("--corruptions", tmp_path / f"{part}_c.csv", "--severities", 3)
        scaled = ("--calibration", tmp_path / f"{part}.png", "--temperature", 2)
        return [*corruptions, "--corruption-kinds", "gaussian_noise", *scaled, "--tta", "flip"]

    alone = result_of(run_tool("eval.py", *weights, *options("a"), "--predictions", one))
    master = {"PADDLE_MASTER": f"127.0.0.1:{free_port()}", "PADDLE_TRAINERS_NUM": "2"}
    ranks = [master | {"PADDLE_TRAINER_ID": str(rank)} for rank in range(2)]
    args = [*weights, *options("b"), "--predictions", two]
    first, second = fork_tool("eval.py", args, ranks)
    together = json.loads(first.splitlines()[-1])
    assert "top1" not in second
    same = ("top1", "top5", "samples", "tta", "balanced_accuracy", "macro_f1", "recall")
    for key in (*same, "corruptions"):
        assert together[key] == alone[key]
    assert (tmp_path / "a_c.csv").read_text() == (tmp_path / "b_c.csv").read_text()
    assert [found["temperature"] for found in together["calibration"]] == [1, 2]
    for ours, theirs in zip(together["calibration"], alone["calibration"], strict=True):
        assert ours["nll"] == pytest.approx(theirs["nll"], rel=VALUES)
        assert ours["accuracy"] == theirs["accuracy"]
    assert together["loss"] == pytest.approx(alone["loss"], rel=VALUES)
    ours, theirs = table(one), table(two)
    assert len(ours) == len(theirs) == 361
    for row, other in zip(ours[1:], theirs[1:], strict=True):
        assert row[:5] == other[:5]
        # Logits are below 40, and no probability changes by more than a quarter of their change.
        assert float(row[5]) == pytest.approx(float(other[5]), abs=40 * VALUES / 4 + 1e-6)


@pytest.fixture
def val_folder(tmp_path):
    """Ten classes with two images each, named as ImageNet's are."""
    rng = np.random.default_rng(0)
    for number in range(1, 21):
        folder = tmp_path / "val" / f"n0000000{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40 + number, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"ILSVRC2012_val_{number:08d}.JPEG")
    frame = "{name: Resize, size: [32, 32]}"
    transforms = f"[{frame}, {{name: Normalize}}]"
    return f"{{name: ImageFolder, dataroot: '{tmp_path / 'val'}', transforms: {transforms}}}"


def test_real_labels_valid_labels_and_crop(run_tool, weights, val_folder, tmp_path):
    data = ("-o", f"dataloader.val.dataset={val_folder}")
    file = tmp_path / "p.jsonl"
    run_tool("eval.py", *weights, *data, "--predictions", file)
    predictions = {}
    for line in file.read_text().splitlines():
        sample = json.loads(line)
        number = int(Path(sample["name"]).stem.split("_")[-1])
        predictions[number] = [prediction["label"] for prediction in sample["best"]]
    # By hand: the first twelve images have the prediction among their labels, four have others, the
    # last four none.
    real = [[9 - predictions[n][0], predictions[n][0]] for n in range(1, 13)]
    real += [[predictions[n][1]] for n in range(13, 17)] + [[]] * 4
    (tmp_path / "real.json").write_text(json.dumps(real))
    (tmp_path / "valid.txt").write_text("\n".join(map(str, range(10))))
    done = run_tool(
        *("eval.py", *weights, *data, "--real-labels", tmp_path / "real.json"),
        *("--valid-labels", tmp_path / "valid.txt", "--crop", "resize"),
        *("-o", "dataloader.val.loader.num_workers=0"),
        expect=2,
    )
    assert "--crop resize and -o dataloader.val.dataset.transforms both set" in done.stderr
    done = run_tool(
        *("eval.py", *weights, *data, "--real-labels", tmp_path / "real.json"),
        *("--valid-labels", tmp_path / "valid.txt"),
    )
    result = result_of(done)
    assert result["real_top1"] == pytest.approx(100 * 12 / 16)
    assert result["real_samples"] == 16
    assert result["valid_labels"] == 10
    assert "compared among 10 of 10 classes" in done.stderr
    assert "ReaL: top1 75.00 % of the 16 images" in done.stderr


def test_crop(run_tool, weights, val_folder, tmp_path):
    """The same as the transforms written out; the data lies in the config file."""
    config = tmp_path / "config.yaml"
    base = ROOT / "configs" / "digits" / "cvt.yaml"
    text = base.read_text().replace("_base_: ../_base_", f"_base_: {base.parents[1] / '_base_'}")
    config.write_text(f"{text}\ndataloader:\n  val:\n    dataset: {val_folder}\n")
    call = ("eval.py", "-c", config, *weights[2:])
    squashed = result_of(run_tool(*call, "--crop", "squash"))
    cropped = result_of(run_tool(*call, "--crop", "resize"))
    frame = "[{name: Resize, size: 32}, {name: CenterCrop, size: 32}, {name: Normalize}]"
    written = result_of(run_tool(*call, "-o", f"dataloader.val.dataset.transforms={frame}"))
    assert (squashed["crop"], cropped["crop"], written["crop"]) == ("squash", "resize", None)
    assert cropped["loss"] == pytest.approx(written["loss"], rel=1e-6)
    assert squashed["loss"] != pytest.approx(written["loss"], rel=1e-3)


CORRUPTED = "[{name: Corruption, kind: contrast, severity: 1}, {name: Normalize}]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--real-labels", "none.json"), "--real-labels none.json: cannot be read as JSON"),
        (("--valid-labels", "none.txt"), "none.txt: cannot be read"),
        (("--crop", "squash"), "takes its size from Resize or CenterCrop, and there is neither"),
        (("--predictions", "p.txt"), "--predictions p.txt: must end in .csv or .jsonl"),
        (("--per-class", "none/p.csv"), "the folder none does not exist; make it first"),
        (("--tta", "five"), "invalid choice: 'five'"),
        (("--temperature", "fit"), "--temperature is for --calibration"),
        (("--temperature", "0", "--calibration", "c.csv"), "neither fit nor a number above 0"),
        (("--severities", "1"), "--severities is for --corruptions"),
        (("--corruptions", "c.csv", "--corruption-kinds", "blur"), "blur: is unknown"),
        (
            (*("--corruptions", "c.csv", "-o"), f"dataloader.val.dataset.transforms={CORRUPTED}"),
            "has a Corruption already",
        ),
    ],
)
def test_wrong_options(run_tool, weights, options, message):
    done = run_tool("eval.py", *weights, *options, expect=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_page_has_every_option(run_tool):
    printed = run_tool("eval.py", "--help", COLUMNS="500").stdout  # no option is hyphenated
    options = set(re.findall(r"--[a-z-]+", printed))
    own = options - {"--help", "--config", "--override"}
    assert own
    assert own <= set(re.findall(r"--[a-z-]+", PAGE))


def test_the_commands_of_the_page_run(run_tool, weights, tmp_path):
    """Those on the digits, with other weights, their files in a folder of the test, and few images
    for those that read them often.
    """
    calls = [line for line in PAGE.splitlines() if line.startswith("python tools/eval.py")]
    digits = [shlex.split(line)[2:] for line in calls if "configs/digits" in line]
    assert len(digits) == 7
    changes = {"runs/digits_cvt/best.safetensors": str(weights[-1])}
    endings = (".csv", ".jsonl")
    for args in digits:
        changed = [changes.get(a, str(tmp_path / a) if a.endswith(endings) else a) for a in args]
        if "--corruptions" in args:
            changed += ["-o", "dataloader.val.dataset.fraction=0.02"]
        samples = 10 if "--corruptions" in args else 360
        assert result_of(run_tool("eval.py", *changed))["samples"] == samples
    written = {"classes.csv", "confusion.csv", "confusion.png", "predictions.jsonl"}
    written |= {"calibration.csv", "calibration.png", "corruptions.csv", "some.csv"}
    assert {path.name for path in tmp_path.iterdir()} == written


def test_a_dry_run_leaves_room_for_the_run(run_tool, tiny_config, tmp_path):
    config = tiny_config()
    done = run_tool("train.py", "-c", config, "--dry-run")
    (sheet,) = tmp_path.rglob("*.png")
    assert f"augmented images are in {sheet}" in done.stderr
    assert "train: 1437 images of 10 classes" in done.stderr
    assert not list(tmp_path.rglob("*.safetensors"))
    run_tool("train.py", "-c", config, "-o", "epochs=1", "lr_scheduler.warmup_epochs=0")
    assert (tmp_path / "run" / "best.safetensors").is_file()
