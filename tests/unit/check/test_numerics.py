"""The golden probes: a correct network passes, planted errors do not."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl.analysis.trace import Event
from passl.check import numerics, parallel, speed, training
from passl.check.findings import Findings, NotRun, Row, Setup
from passl.check.golden import CASES, WITH_GRADIENTS, Case
from passl.check.speed import attention_kernels
from passl.errors import RunError


def failed(rows) -> set[str]:
    """What the rows that have failed compare."""
    return {row.name.partition(": ")[2] for row in rows if row.has_failed}


@pytest.fixture
def plant(monkeypatch):
    """`plant(change)` calls `change(parameters by name)` for the model of each case."""

    def use(change):
        class Planted(Case):
            def __init__(self, name):
                super().__init__(name)
                change(dict(self.model.named_parameters()))

        monkeypatch.setattr(numerics, "Case", Planted)

    return use


def add(parameter, error: float) -> None:
    """Add an error to one value."""
    array = parameter.numpy().copy()
    array.reshape(-1)[0] += error
    parameter.set_value(array)


def test_a_correct_network_passes():
    rows = list(numerics._exact("convit_timm"))
    assert failed(rows) == set()
    assert len(rows) == 6
    assert all(row.limit is not None for row in rows)


@pytest.mark.parametrize("weight", ["head.fc_cls.weight", "backbone.blocks.0.mlp.fc2.weight"])
def test_an_error_of_a_thousandth_in_a_weight_is_caught(plant, weight):
    """By what is computed, not only by the comparison of the bits."""
    plant(lambda parameters: add(parameters[weight], 1e-3))
    found = failed(numerics._exact("convit_timm"))
    assert {"weights that changed on the way to the device", "logits"} <= found


def test_an_error_in_a_weight_without_effect_is_caught(plant):
    """The bias of a softmax's scores changes no logits."""
    plant(lambda parameters: add(parameters["backbone.stage2.blocks.1.attn.proj_k.bias"], 1e-3))
    assert failed(numerics._exact("cvt_ms")) == {"weights that changed on the way to the device"}


def test_a_wrong_gradient_is_caught(plant):
    """Of one weight, by a thousandth: logits, loss and the other gradients are right."""
    name = "backbone.blocks.1.mlp.fc1.weight"
    plant(lambda parameters: parameters[name].register_hook(lambda grad: grad * 1.001))
    rows = list(numerics._exact("convit_timm"))
    assert "gradients of the weights" in failed(rows)
    assert "logits" not in failed(rows)
    assert name in next(row.note for row in rows if "gradients" in row.name)


def test_a_missing_gradient_is_caught(plant):
    plant(lambda parameters: setattr(parameters["head.fc_cls.bias"], "stop_gradient", True))
    with pytest.raises(Exception, match="gradients are not those of the model"):
        list(numerics._exact("convit_timm"))


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_a_silent_nan_in_a_gradient_is_caught(plant, kind, tmp_path):
    """In one value of one weight's gradient, with a right loss."""

    def change(parameters):
        hole = np.ones(parameters["head.fc_cls.weight"].shape, "float32")
        hole[0, 0] = np.nan
        parameters["head.fc_cls.weight"].register_hook(lambda grad: grad * paddle.to_tensor(hole))

    plant(change)
    setup = Setup("cpu", tmp_path)
    if kind == "float32":
        found = failed(numerics._exact("convit_timm"))
        assert "gradients of the weights" in found
    else:
        found = failed(numerics._rounded_case(setup, numerics.BF16, "O1", "convit_timm"))
        assert found == {"gradients"}


def test_bfloat16_is_within_its_rounding_and_is_used(tmp_path):
    rows = list(numerics._rounded_case(Setup("cpu", tmp_path), numerics.BF16, "O2", "cvt_ms"))
    assert failed(rows) == set()
    assert all(row.value > 20 * numerics.FP32.roundoff for row in rows)  # else it was float32


def test_a_wrong_network_in_bfloat16_is_caught(plant, tmp_path):
    plant(
        lambda parameters: parameters["backbone.norm.weight"].set_value(
            1.3 * parameters["backbone.norm.weight"]
        )
    )
    rows = numerics._rounded_case(Setup("cpu", tmp_path), numerics.BF16, "O1", "convit_timm")
    assert failed(rows) == {"logits", "gradients"}


def test_formats_that_a_cpu_lacks_are_not_run(tmp_path):
    for probe in (numerics.golden_fp16, numerics.golden_tf32):
        with pytest.raises(NotRun, match="no .* kernels for CPUs"):
            probe(Setup("cpu", tmp_path))


def test_every_case_is_there():
    from passl.check.golden import FOLDER

    folders = {path.parent.name for path in FOLDER.glob("*/case.npz")}
    assert set(CASES) == folders
    with_gradients = {
        name for name in CASES if "losses_frozen_bn" in np.load(FOLDER / name / "case.npz")
    }
    assert set(WITH_GRADIENTS) == with_gradients


def test_a_row_passes_up_to_its_limit():
    for value, limit, is_failed in (
        (1.0, 1.0, False),
        (1.1, 1.0, True),
        (float("nan"), 1.0, True),
        (float("nan"), None, True),
        (float("inf"), None, True),
        (3, 0, True),
        (5.0, None, False),
        ("text", None, False),
    ):
        assert Row("x", value, limit).has_failed == is_failed
    statuses = [
        Findings(rows).to_dict()["status"]
        for rows in ([Row("a", 1.0)], [Row("a", 1.0, 2.0)], [Row("a", 3.0, 2.0), Row("b", 1)], [])
    ]
    assert statuses == ["measured", "passed", "failed", "failed"]


def test_curves_that_differ_are_caught():
    exact = list(np.linspace(2.3, 1.0, 30))
    assert failed(training.compared("x", exact, exact)) == set()
    lost = [2.3] * 30  # no update has any effect
    assert failed(training.compared("x", lost, exact)) == {"part of the fall that is missing"}
    broken = [*exact[:-1], float("nan")]
    assert "losses that are not finite" in failed(training.compared("x", broken, exact))


def test_names_of_attention_kernels():
    """Names as CUDA 12 and cuDNN 9 have them; operators of the host do not count."""
    names = {
        "void flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128>>(Flash_fwd_params)": "Kernel",
        "void pytorch_flash::flash_bwd_dq_dk_dv_loop_kernel<Traits>(Params)": "Kernel",
        "fmha_cutlassF_f32_aligned_64x64_rf_sm80": "Kernel",
        "ampere_sgemm_64x64_nn": "Kernel",
        "flash_attn dygraph": "Operator",
    }
    events = [Event(name, kind, "0", 0.0, 1.0) for name, kind in names.items()]
    assert attention_kernels(events) == [
        "flash_fwd_kernel",
        "fmha_cutlassF_f32_aligned_64x64_rf_sm80",
        "pytorch_flash::flash_bwd_dq_dk_dv_loop_kernel",
    ]


def test_comparisons_of_ranks_see_one_bit():
    one = {"w": np.ones(4, np.float32)}
    other = {"w": np.nextafter(one["w"], np.float32(2))}

    class Two:
        def gather(self, arrays):
            return [one, other]

    assert parallel._differing(Two(), one) == 4
    assert training._differing(one, other) == 4
    assert training._differing(one, one) == 0


def test_the_batch_is_halved_until_it_fits(tmp_path):
    """Also where memory is exhausted while the step runs, not only while it is built."""
    tried = []

    def build(cfg, batch, size, setup):
        tried.append(batch)
        if batch > 4:
            raise MemoryError

        def step():
            if batch > 2:
                raise RuntimeError("ResourceExhaustedError: Out of memory error on GPU 0")
            return 1.0

        return step

    rows = list(speed._measured("x", Setup("cpu", tmp_path), None, build, 224))
    assert tried == [8, 4, 2]
    assert rows[0].note == "batch 2"

    def never(cfg, batch, size, setup):
        raise MemoryError

    with pytest.raises(RunError, match="not even one image"):
        list(speed._measured("x", Setup("cpu", tmp_path), None, never, 224))
    with pytest.raises(RunError, match="a result is nan"):
        list(speed._measured("x", Setup("cpu", tmp_path), None, lambda *_: lambda: np.nan, 224))
