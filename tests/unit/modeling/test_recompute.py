"""Recomputation: the same gradients to the last bit, and less memory."""

from __future__ import annotations

import os
import re
import sys

import numpy as np
import paddle
import pytest

from passl.modeling import Model
from tests import forks

ARCHITECTURES = {
    "ConViT": {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 3,
        "num_heads": 4,
        "local_up_to_layer": 2,
    },
    "CvT": {"embed_dim": [8, 12, 16], "depth": [1, 2, 2], "num_heads": [1, 2, 4]},
}


def gradients(name: str, recompute: bool, frozen: str | None = None):
    """Gradients, and running statistics, of one pass with dropout and drop path."""
    paddle.seed(0)
    rates = {"drop_rate": 0.2, "drop_path_rate": 0.3}
    architecture = {"name": name, **rates, **ARCHITECTURES[name]}
    head = {"name": "ClsHead", "num_classes": 5, "in_channels": 16}
    model = Model({"model": {"architecture": architecture, "head": head}})
    for parameter_name, parameter in model.named_parameters():
        if frozen is not None and parameter_name.startswith(frozen):
            parameter.stop_gradient = True
    model.train()
    model.backbone.recompute = recompute
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype("float32")
    paddle.seed(7)
    (model(paddle.to_tensor(images)) ** 2).mean().backward()
    found = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    state = model.state_dict().items()
    return found, {n: t.numpy() for n, t in state if n.endswith(("._mean", "._variance"))}


@pytest.mark.parametrize("name", ["ConViT", "CvT"])
@pytest.mark.parametrize("frozen", [None, "embedding"])
def test_recompute_keeps_gradients_and_statistics(name, frozen):
    """With the embedding frozen, the first block's input needs no gradient but its weights do."""
    prefix = {"ConViT": "backbone.patch_embed", "CvT": "backbone.stage0.patch_embed"}[name]
    prefix = prefix if frozen else None
    (ours, statistics), (expected, expected_statistics) = (
        gradients(name, recompute, prefix) for recompute in (True, False)
    )
    assert ours.keys() == expected.keys()
    assert any(name.startswith("backbone.") for name in ours)
    for key in expected:
        np.testing.assert_array_equal(ours[key], expected[key], key)
    assert len(statistics) == (0 if name == "ConViT" else 30)
    for key in expected_statistics:
        np.testing.assert_array_equal(statistics[key], expected_statistics[key], key)


MEMORY = """
import re
from pathlib import Path
import paddle
from passl.modeling.backbones import build_backbone
net = build_backbone({"name": "ConViT", "img_size": 64, "patch_size": 4, "embed_dim": 48,
                      "depth": 16, "num_heads": 4, "local_up_to_layer": 12})
net.train()
images = paddle.randn([8, 3, 64, 64])
def peak():  # in KiB
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
net(images[:1]).mean().backward()
before = peak()
net.recompute = RECOMPUTE
net(images).mean().backward()
print("more:", peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_recompute_takes_less_memory(tmp_path):
    """Peak of a process over what it had before, by the operating system's count."""
    peaks = []
    for recompute in (False, True):
        script = MEMORY.replace("RECOMPUTE", str(recompute))
        ((code, output),) = forks.run(script, [os.environ], tmp_path)
        assert code == 0, output
        peaks.append(int(re.findall(r"more: (\d+)", output)[0]))
    assert peaks[1] < 0.6 * peaks[0]
