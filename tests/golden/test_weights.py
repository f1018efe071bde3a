"""Files of every source: recognised, loaded with the numerics that they want, converted, and "
"written back bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from passl.check.golden import model_section, weights_of
from passl.deploy.convert import as_source, plan_conversion, write_converted, write_for
from passl.errors import CheckpointError, ConfigError
from passl.modeling import Model
from passl.porting import architecture_of, load_weights, read_file
from tests.numerics import Rounded, check_network

HERE = Path(__file__).parent
# Case -> whose files these are, and how close the logits come, relative to the largest (MindSpore's
# own kernels differ more).
CASES = {
    "convit_fb": ("timm", 1e-5),
    "convit_fb_training_checkpoint": ("timm", 1e-5),
    "convit_timm": ("timm", 1e-5),
    "convit_mindcv": ("mindcv", 1e-4),
    "cvt_ms": ("microsoft", 1e-5),
    "cvt_ms_rectangular": ("microsoft", 1e-5),
    "cvt_ms_avg_no_cls": ("microsoft", 1e-5),
    "cvt_hf": ("huggingface", 1e-5),
    "cvt_passl": ("passl", 1e-5),
    "cvt_paddleclas": ("paddleclas", 1e-5),
}


def logits_error(model: Model, name: str) -> float:
    case = np.load(HERE / name / "case.npz")
    model.eval()
    with paddle.no_grad():
        logits = model(paddle.to_tensor(case["images"])).numpy()
    return np.abs(logits - case["logits"]).max() / np.abs(case["logits"]).max()


@pytest.mark.parametrize("name", CASES)
def test_recognised_and_loaded(name):
    source, tolerance = CASES[name]
    assert read_file(weights_of(name)).source.name == source
    assert logits_error(Model(model_section(name), pretrained=weights_of(name)), name) <= tolerance


@pytest.mark.parametrize(("name", "key"), [("convit_mindcv", "norm_eps"), ("cvt_hf", "act")])
def test_the_numerics_of_a_source_matter(name, key):
    """With the authors' numerics, said outright, the same weights give other logits: so they must "
    "be switched."""
    section = model_section(name)
    section["model"]["architecture"] |= {
        "act": "gelu" if name == "convit_mindcv" else "quick_gelu",
        "norm_eps": 1e-5,
    }
    assert logits_error(Model(section, pretrained=weights_of(name)), name) > CASES[name][1]


@pytest.mark.parametrize("name", CASES)
def test_the_file_tells_its_architecture(name):
    architecture, head = architecture_of(read_file(weights_of(name)))
    expected = model_section(name)["model"]
    assert head == expected["head"]
    for key, value in expected["architecture"].items():
        if key != "num_heads" or name.startswith("convit"):  # CvT's weights do not tell its heads
            assert architecture[key] == value, key


@pytest.mark.parametrize("name", CASES)
def test_converted_and_back(name, tmp_path):
    """Our file gives the same model; and written for its own project again, it is the original "
    "bit for bit."""
    file = read_file(weights_of(name))
    section = model_section(name)["model"]
    architecture = {**section["architecture"], **file.numerics}
    original = {key: array.copy() for key, array in file.weights.items()}
    plan = plan_conversion(file, architecture, section["head"])
    assert {part for row in plan.rows for part in row.theirs} == original.keys()
    if file.source.framework == "torch":
        written = as_source(file.source, plan)
        assert written.keys() == original.keys()
        for key, array in original.items():
            np.testing.assert_array_equal(written[key], array, key)
    write_converted(file, plan, architecture, tmp_path / "ours.safetensors")
    # The converted file knows the numerics of its source: the config need not say them.
    model = Model({"model": section}, pretrained=tmp_path / "ours.safetensors")
    assert logits_error(model, name) <= CASES[name][1]


@pytest.mark.parametrize(
    ("name", "target"),
    [("convit_mindcv", "timm"), ("cvt_passl", "microsoft"), ("cvt_ms", "huggingface")],
)
def test_from_one_project_to_another(name, target, tmp_path):
    section = model_section(name)["model"]
    file = read_file(weights_of(name))
    architecture = {**section["architecture"], **file.numerics}
    write_for(
        target,
        file,
        plan_conversion(file, architecture, section["head"]),
        tmp_path / "theirs.safetensors",
    )
    other = read_file(tmp_path / "theirs.safetensors")
    assert other.source.name == target
    model = Model({"model": {**section, "architecture": architecture}})
    load_weights(model, other)
    assert logits_error(model, name) <= CASES[name][1]


def test_as_pdparams(tmp_path):
    for name in ("convit_fb", "cvt_ms"):
        file = read_file(weights_of(name))
        section = model_section(name)["model"]
        out = tmp_path / f"{name}.pdparams"
        write_converted(
            file,
            plan_conversion(file, section["architecture"], section["head"]),
            section["architecture"],
            out,
        )
        assert logits_error(Model({"model": section}, pretrained=out), name) <= 1e-5


def test_existing_files_are_not_overwritten(tmp_path):
    section = model_section("cvt_ms")["model"]
    out = tmp_path / "ours.safetensors"
    for expected in (None, "is there already"):
        file = read_file(weights_of("cvt_ms"))
        plan = plan_conversion(file, section["architecture"], section["head"])
        if expected is None:
            write_converted(file, plan, section["architecture"], out)
        else:
            with pytest.raises(ConfigError, match=expected):
                write_converted(file, plan, section["architecture"], out)
    with pytest.raises(ConfigError, match="written as .safetensors or .pdparams"):
        write_converted(file, plan, section["architecture"], tmp_path / "ours.pth")


def test_an_incomplete_file_is_refused():
    file = read_file(weights_of("cvt_ms"))
    section = model_section("cvt_ms")["model"]
    del file.weights["stage1.blocks.0.attn.proj_k.weight"]
    file.weights["stage9.extra"] = np.zeros(3, "float32")
    with pytest.raises(
        CheckpointError, match=r"not used: stage9.extra; not filled: backbone.stage1.*proj_k.weight"
    ):
        plan_conversion(file, section["architecture"], section["head"])


def test_another_task():
    """Another number of classes, another resolution, another number of channels: each by its "
    "name, else strict."""
    section = model_section("convit_fb")["model"]
    path = weights_of("convit_fb")
    other = {
        "architecture": {**section["architecture"], "img_size": [32, 64], "in_chans": 1},
        "head": {**section["head"], "num_classes": 3},
    }
    with pytest.raises(CheckpointError, match=r"of another shape \(4\)"):
        Model({"model": other}, pretrained=path)
    with pytest.raises(
        CheckpointError, match=r"of another shape \(2\): backbone.pos_embed .*patch_embed"
    ):
        Model({"model": other}, pretrained=path, fit=["classes"])
    model = Model({"model": other}, pretrained=path, fit=["classes", "resolution", "channels"])
    weights = read_file(path).weights
    convolution = model.backbone.patch_embed.proj.weight.numpy()
    Rounded(weights["patch_embed.proj.weight"]).sum(1).check(convolution)
    assert model.backbone.pos_embed.shape == [1, 32, section["head"]["in_channels"]]
    np.testing.assert_array_equal(
        model.backbone.blocks[0].attn.v.weight.numpy(), weights["blocks.0.attn.v.weight"].T
    )
    with pytest.raises(ConfigError, match="fit 'size' is not one of classes, resolution, channels"):
        load_weights(model, path, fit=["size"])


@pytest.mark.parametrize("channels", [1, 6])
def test_other_channels_give_the_same_answer_in_grey(channels):
    section = model_section("cvt_ms")["model"]
    other = {**section, "architecture": {**section["architecture"], "in_chans": channels}}
    model = Model({"model": other}, pretrained=weights_of("cvt_ms"), fit=["channels"])
    plain = Model({"model": section}, pretrained=weights_of("cvt_ms"))
    model.eval()
    plain.eval()
    grey = paddle.randn([2, 1, 64, 64])
    expected = plain(grey.expand([2, 3, 64, 64])).numpy()
    ours = model(grey.expand([2, channels, 64, 64])).numpy()
    check_network(ours, expected)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.backbone.", "backbone."])
def test_wrapped_names(tmp_path, prefix):
    """What training wrappers put before every name comes off; a backbone alone takes a file without
    classifier.
    """
    from safetensors.numpy import save_file

    weights = read_file(weights_of("cvt_ms")).weights
    whole = "backbone" not in prefix
    kept = {name: array for name, array in weights.items() if whole or not name.startswith("head.")}
    save_file({prefix + name: array for name, array in kept.items()}, tmp_path / "w.safetensors")
    section = model_section("cvt_ms")
    model = Model(section)
    load_weights(model if whole else model.backbone, tmp_path / "w.safetensors")
    if whole:
        assert logits_error(model, "cvt_ms") <= 1e-5
    token = model.backbone.stage2.cls_token.numpy()
    np.testing.assert_array_equal(token, weights["stage2.cls_token"])


def test_moving_averages_beside_the_weights_are_left_out(tmp_path):
    from safetensors.numpy import save_file

    weights = read_file(weights_of("cvt_ms")).weights
    averages = {f"ema.{name}": array * 0 for name, array in weights.items()}
    save_file({**weights, **averages}, tmp_path / "w.safetensors")
    file = read_file(tmp_path / "w.safetensors")
    assert len(file.dropped) == len(averages)
    assert logits_error(Model(model_section("cvt_ms"), pretrained=file.path), "cvt_ms") <= 1e-5


def test_a_backbone_alone_takes_our_file(tmp_path):
    section = model_section("cvt_ms")["model"]
    file = read_file(weights_of("cvt_ms"))
    plan = plan_conversion(file, section["architecture"], section["head"])
    write_converted(file, plan, section["architecture"], tmp_path / "ours.safetensors")
    backbone = Model({"model": section}).backbone
    plan = load_weights(backbone, tmp_path / "ours.safetensors")
    assert sorted(plan.dropped) == ["head.fc_cls.bias", "head.fc_cls.weight"]
    backbone.eval()
    case = np.load(HERE / "cvt_ms" / "case.npz")
    pooled = backbone(paddle.to_tensor(case["images"])).numpy()
    expected = case["feature/pooled"]
    assert np.abs(pooled - expected).max() <= 1e-5 * np.abs(expected).max()
