"""Whoever uses passl reads passl's lines and no others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

USE = """
import numpy as np
model = passl.create_model("convit_tiny", num_classes=5, img_size=32)
model.eval()
model(paddle.zeros([1, 3, 32, 32]))
from passl.modeling.backbones import build_backbone
sizes = {"embed_dim": [8, 8, 8], "depth": [1, 1, 1], "num_heads": [1, 1, 1]}
cvt = build_backbone({"name": "CvT", **sizes})
cvt.train()
cvt(paddle.ones([2, 3, 32, 32])).sum().backward()
import tempfile
from passl.deploy import Predictor
from passl.deploy.export import export
from passl.deploy.exported import Description
nodes = [{"name": "Resize", "size": [32, 32]}, {"name": "Normalize"}]
names = [str(i) for i in range(5)]
with tempfile.TemporaryDirectory() as folder:
    described = Description({}, nodes, [3, 32, 32], names, {}, 1, "", False)
    out = export(model, described, folder + "/out")
    Predictor(out, threads=1).predict([np.zeros((9, 9, 3), np.uint8)])
"""


@pytest.mark.parametrize("imports", ["import passl, paddle", "import paddle, passl"])
def test_importing_prints_nothing(imports, root):
    """A network forward and backward, exported and run; whichever is imported first. Where it is
    Paddle, its first words are out before passl can do anything: a warning of its own import.
    """
    quiet = ["-W", "ignore:No ccache found"] if imports.startswith("import paddle") else []
    done = call([*quiet, "-c", f"{imports}\n{USE}"], root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_tool_prints_only_its_own_lines(run_tool, tiny_config, root):
    """The export has them all: it traces a graph, writes it and runs it by Paddle Inference."""
    config = tiny_config("CvT", epochs=1)
    told = ("dataloader.train.dataset.fraction=0.2", "dataloader.val.dataset.fraction=0.1")
    run_tool("train.py", "-c", config, "-o", *told)
    weights, out = config.parent / "run" / "best.safetensors", config.parent / "out"
    done = call([root / "tools" / "export.py", "--weights", weights, out], root)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1  # the result
    for line in done.stderr.splitlines():
        assert re.match(r"\[\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\] passl [A-Z]+: ", line), done.stderr


def call(arguments: list, root: Path) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, where nobody has chosen what Paddle logs."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GLOG_")}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=root, env=environ, capture_output=True, text=True, check=False, timeout=300
    )
