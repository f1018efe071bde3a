"""`features` and `probe` on the digits, as a user calls them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import paddle
import pytest

from passl.data.datasets.digits import Digits
from passl.distributed.launcher import free_port
from passl.evaluation import feature_file, features
from passl.evaluation.feature_file import labels_beside, read_features
from tests.numerics import VALUES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")


@pytest.fixture
def network(tiny_config, tmp_path):
    """Arguments that name a tiny network with initial weights, and the backbone itself:
    network("CvT").
    """

    def make(name: str, **root: object):
        from safetensors.numpy import save_file

        from passl.modeling import Model
        from passl.porting.weight_file import OURS

        config, path = tiny_config(name, **root), tmp_path / f"{name}.safetensors"
        paddle.seed(5)
        model = Model(config)
        model.eval()
        arrays = {key: value.numpy() for key, value in model.state_dict().items()}
        save_file(arrays, path, {OURS: "test"})
        return ("-c", config, "--weights", path), model.backbone

    return make


def images_of_val() -> paddle.Tensor:
    """As `Normalize` makes them by default."""
    from passl.data.transforms.normalize import Normalize

    data, normalize = Digits(split="val"), Normalize()
    arrays = [normalize(data[index][0], None) for index in range(len(data))]
    return paddle.to_tensor(np.stack(arrays))


@pytest.mark.parametrize("name", ["ConViT", "CvT"])
def test_features_are_those_of_the_backbone(run_tool, network, tmp_path, name):
    arguments, backbone = network(name)
    images = images_of_val()
    with paddle.no_grad():
        output = backbone(images).numpy()
        (first,) = (found.numpy() for found in backbone.forward_features(images, [0]))
        (last,) = (found.numpy() for found in backbone.forward_features(images, [-1]))
    cases = [
        ((), output, VALUES),
        (("--layer", -1), last.mean((2, 3)), VALUES),
        (("--layer", 0, "--dense"), first, VALUES),
        (("--layer", -1, "--dense", "--dtype", "float16"), last, 2**-10),
    ]
    for number, (options, expected, tolerance) in enumerate(cases):
        out = tmp_path / f"{number}.npz"
        done = run_tool("features.py", *arguments, *options, "--out", out)
        summary = json.loads(done.stdout.splitlines()[-1])
        assert summary["shape"] == list(expected.shape)
        found = read_features(out)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found.values, expected, rtol=0, atol=tolerance * scale)
    assert found.names.tolist() == [f"Digits val {index}" for index in range(360)]
    assert found.labels.tolist() == Digits(split="val").labels.tolist()
    assert found.classes == list("0123456789")


def test_the_same_bits_for_any_batch_size_and_number_of_ranks(
    run_tool, fork_tool, network, tmp_path, monkeypatch
):
    arguments, _ = network("CvT")
    call = (*arguments, "--layer", 1, "--dense", "--out")
    run_tool("features.py", *call, tmp_path / "one.npy")
    monkeypatch.setattr(features, "_ROUND_BYTES", 1)  # a write for each block
    loader = ("sampler.batch_size=7", "loader={num_workers: 2, on_bad_sample: skip}")
    options = ("-o", *(f"dataloader.val.{option}" for option in loader))
    run_tool("features.py", *call, tmp_path / "batch.npy", *options)
    master = {"PADDLE_MASTER": f"127.0.0.1:{free_port()}", "PADDLE_TRAINERS_NUM": "2"}
    ranks = [master | {"PADDLE_TRAINER_ID": str(rank)} for rank in range(2)]
    first, second = fork_tool("features.py", [*call, tmp_path / "ranks.npy"], ranks)
    assert '"shape": [360, 12, 4, 4]' in first
    assert "shape" not in second
    for path in (tmp_path / "one.npy", labels_beside(tmp_path / "one.npy")):
        for name in ("batch", "ranks"):
            other = path.with_name(path.name.replace("one", name))
            assert other.read_bytes() == path.read_bytes(), other


def test_an_interrupted_call_is_continued(run_tool, network, tmp_path, monkeypatch):
    arguments, _ = network("ConViT")
    out, whole = tmp_path / "f.npy", tmp_path / "whole.npy"
    call = ("features.py", *arguments, "--split", "train", "--out")
    run_tool(*call, whole)
    append = feature_file.Unfinished.append

    def fail_later(self, rows):
        if self.done >= 512:
            raise KeyboardInterrupt
        append(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(feature_file.Unfinished, "append", fail_later)
        run_tool(*call, out, expect=130)
    assert not out.exists()
    assert "is unfinished" in run_tool("probe.py", out, whole, expect=2).stderr
    other = run_tool(*call, out, "--layer", 0, expect=2)
    assert "it differs in layer" in other.stderr
    pixels = ("-o", "seed=7", "dataloader.train.dataset.background=[0, 0, 0]")
    other = run_tool(*call, out, *pixels, expect=2)
    assert "it differs in dataset, seed" in other.stderr
    computed = []
    forward = features._Compute.block
    monkeypatch.setattr(
        *(features._Compute, "block"),
        lambda self, batch: computed.extend(batch.indices.tolist()) or forward(self, batch),
    )
    done = run_tool(*call, out)
    assert "continued after 512 of 1437 images" in done.stderr
    assert computed == list(range(512, 1437))
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.partial"))
    again = run_tool(*call, out, expect=2)
    assert again.stderr.count("is there already and is not overwritten") == 2


def test_train_features_have_the_transforms_of_validation(run_tool, network, tmp_path):
    """The training transforms of the config crop at random."""
    arguments, _ = network("CvT")
    out = tmp_path / "f.npz"
    run_tool("features.py", *arguments, "--split", "train", "--out", out)
    found = read_features(out)
    assert found.values.shape == (1437, 16)
    assert found.about["transforms"] == [{"name": "Normalize"}]


def test_the_classifier_of_the_weights_does_not_matter(run_tool, network, tmp_path):
    """Neither its classes nor its number."""
    arguments, _ = network("CvT")
    labels = ("-o", "dataloader.val.dataset.labels=[3, 4]")
    (tmp_path / "other").mkdir()
    run_tool("features.py", *arguments, "--out", tmp_path / "a.npz", *labels)
    from safetensors.numpy import load_file, save_file

    from passl.porting.weight_file import OURS

    arrays = load_file(arguments[-1])
    backbone = {key: array for key, array in arrays.items() if not key.startswith("head")}
    head = {"head.fc_cls.weight": np.ones((16, 77), "f4"), "head.fc_cls.bias": np.ones(77, "f4")}
    save_file(backbone | head, tmp_path / "77.safetensors", {OURS: "test"})
    again = (*arguments[:-1], tmp_path / "77.safetensors")
    run_tool("features.py", *again, "--out", tmp_path / "b.npz", *labels)
    one, two = (read_features(tmp_path / name) for name in ("a.npz", "b.npz"))
    np.testing.assert_array_equal(one.values, two.values)
    assert set(one.labels) == {3, 4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layer", 3), "--layer 3: "),
        (("--layer", -4), "--layer -4: "),
        (("--dense",), "--dense needs --layer"),
        (("--split", "test"), "invalid choice: 'test'"),
        (("--split", "train", "-o", "dataloader.train.dataset.dataroot=x"), "dataroot"),
    ],
)
def test_wrong_options(run_tool, network, tmp_path, options, message):
    arguments, _ = network("CvT")
    done = run_tool("features.py", *arguments, "--out", tmp_path / "f.npy", *options, expect=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("f.npy*"))


def test_features_that_float16_cannot_hold(run_tool, network, tmp_path):
    from safetensors.numpy import load_file, save_file

    from passl.porting.weight_file import OURS

    arguments, _ = network("CvT")
    arrays = load_file(arguments[-1])
    arrays["backbone.norm.weight"] = arrays["backbone.norm.weight"] + np.float32(1e6)
    save_file(arrays, arguments[-1], {OURS: "test"})
    call = ("features.py", *arguments, "--out", tmp_path / "f.npy")
    done = run_tool(*call, "--dtype", "float16", expect=1)
    assert "Digits val 0: its features are not finite in float16" in done.stderr
    assert "--dtype float32" in done.stderr


def test_an_image_that_cannot_be_read_ends_the_call(run_tool, tmp_path, network):
    """Also where an evaluation would leave it out."""
    from PIL import Image

    arguments, _ = network("CvT")
    for index in range(10):
        (tmp_path / "images" / str(index)).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / str(index) / "a.png")
    bad = tmp_path / "images" / "7" / "a.png"
    content = bad.read_bytes()
    bad.write_bytes(content[:40])
    data = (
        f"{{name: ImageFolder, dataroot: {tmp_path / 'images'}, transforms: [{{name: Normalize}}]}}"
    )
    call = ("features.py", *arguments, "--out", tmp_path / "f.npy", "-o")
    options = (f"dataloader.val.dataset={data}", "dataloader.val.loader={on_bad_sample: skip}")
    assert str(bad) in run_tool(*call, *options, expect=1).stderr
    bad.write_bytes(content)
    run_tool(*call, *options)
    assert read_features(tmp_path / "f.npy").labels.tolist() == list(range(10))


def test_the_page_has_every_option(run_tool):
    for tool in ("features.py", "probe.py"):
        options = set(re.findall(r"--[a-z-]+", run_tool(tool, "--help").stdout))
        own = options - {"--help", "--config", "--override", "--nproc"}
        assert own - set(re.findall(r"--[a-z-]+", PAGE)) == set()


def test_the_commands_of_the_page_run(run_tool, network, tmp_path, monkeypatch):
    """With other weights and a smaller config, and their files in a folder of the test."""
    arguments, _ = network("CvT")
    changes = {
        "configs/digits/cvt.yaml": str(arguments[1]),
        "runs/digits_cvt/best.safetensors": str(arguments[-1]),
    }
    started = []
    monkeypatch.setattr(
        "passl.distributed.launcher.launch", lambda job, *_: started.append(job.command) or 0
    )
    calls = [
        shlex.split(line)[1:] for line in PAGE.splitlines() if line.startswith("python tools/")
    ]
    assert len(calls) == 7
    scores = {}
    for tool, *options in calls:
        local = [str(tmp_path / o) if o.endswith((".npy", ".npz")) else o for o in options]
        done = run_tool(Path(tool).name, *(changes.get(option, option) for option in local))
        if "probe" in tool:
            for row in json.loads(done.stdout.splitlines()[-1])["results"]:
                scores[row["probe"], row["value"], row["shots"]] = row["top1"]
                assert f"top1 {row['top1']:.2f} %" in done.stderr
    assert started[0][3] == "features"
    assert len(scores) == 6 + 1 + 9  # of --k 5 10 20, 5 and 20 are there before
    assert read_features(tmp_path / "maps.npz").values.shape == (360, 12, 4, 4)
    assert min(scores.values()) > 20  # chance is 10
    assert scores["ridge", 1.0, 10] > scores["ridge", 1.0, 1]
