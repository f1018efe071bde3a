"""The golden cases: small networks with random weights in the file formats of eight projects, and
what the projects' own code computed with them, in float32 on a CPU. `tests/golden/README.md`
describes the files. A wheel has the same files.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from passl.errors import RunError
from passl.modeling import Model
from passl.modeling.losses import CrossEntropy
from passl.optim.optimizers import build_optimizer
from passl.optim.parameters import trainable
from passl.porting import read_file
from passl.porting.load import plan_loading

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the cases are inside the package, in a checkout among the tests.
FOLDER = next(
    (path for path in (_PACKAGE / "golden", _PACKAGE.parent / "tests/golden") if path.is_dir()),
    _PACKAGE / "golden",
)
WITH_GRADIENTS = (
    *("convit_fb", "convit_fb_training_checkpoint", "convit_timm"),
    *("cvt_ms", "cvt_ms_rectangular", "cvt_ms_avg_no_cls", "cvt_hf"),
)
"""Cases of sources in PyTorch, which have gradients and the losses of training steps."""
CASES = (*WITH_GRADIENTS, "convit_mindcv", "cvt_passl", "cvt_paddleclas")
VALUES, GRADIENTS = 1e-5, 1e-4
"""What two correct implementations of a whole network agree to in float32, of the largest value."""
_MINDSPORE = 1e-4
"""The same for logits of MindSpore, whose own kernels differ more."""
ROUNDING = 1e-6
"""Gradients that are zero in exact arithmetic, because a softmax does not see what is added to all
its scores, are rounding: they lie below this part of the network's largest gradient.
"""
_SUFFIXES = (".pth", ".safetensors", ".ckpt", ".pdparams")


def model_section(name: str) -> dict[str, Any]:
    """The config of a case as a user writes it, without the numerics that belong to the source."""
    case = json.loads((FOLDER / name / "case.json").read_text())
    if name.startswith("convit"):
        keys = ["img_size", "patch_size", "embed_dim", "depth", "num_heads", "local_up_to_layer"]
        extra = {"qkv_bias": case.get("qkv_bias", False)}
        width = case["embed_dim"]
    else:
        keys = ["embed_dim", "depth", "num_heads"]
        extra = {}
        if "qkv_proj_method" in case:
            extra = {"method": case["qkv_proj_method"], "with_cls_token": case["cls_token"]}
        width = case["embed_dim"][-1]
    family = "ConViT" if name.startswith("convit") else "CvT"
    head = {"name": "ClsHead", "num_classes": case["num_classes"], "in_channels": width}
    architecture = {"name": family, **{key: case[key] for key in keys}, **extra}
    return {"model": {"architecture": architecture, "head": head}}


def weights_of(name: str) -> Path:
    """The weight file of a case."""
    (found,) = (path for path in (FOLDER / name).iterdir() if path.suffix in _SUFFIXES)
    return found


class Case:
    """A golden case: the model with its weights on the current device, in evaluation mode, and what
    the source computed.

    Args:
        name: one of `CASES`.

    Raises:
        RunError: the files are missing or damaged.
    """

    def __init__(self, name: str):
        if not (FOLDER / name).is_dir():
            raise RunError(f"{FOLDER / name}: the golden case is missing; install passl again")
        self.name = name
        self._file = read_file(weights_of(name))
        self.model = Model(model_section(name), pretrained=self._file)
        self.model.eval()
        self.expected = dict(np.load(FOLDER / name / "case.npz", allow_pickle=False))
        self.images = paddle.to_tensor(self.expected["images"], stop_gradient=False)

    @property
    def tolerance(self) -> float:
        """Of logits in float32, relative to the largest."""
        return _MINDSPORE if self.name == "convit_mindcv" else VALUES

    @cached_property
    def blocks(self) -> int:
        """Number of attention blocks."""
        depth = model_section(self.name)["model"]["architecture"]["depth"]
        return depth if isinstance(depth, int) else sum(depth)

    def changed_weights(self) -> int:
        """Number of weights, statistics included, whose bits on the device are not the file's."""
        expected = plan_loading(self._file, self.model).weights
        found = {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}
        return sum(int((found[name] != array).sum()) for name, array in expected.items())

    def loss(self, logits: Any) -> Any:
        """The loss of the source for these logits."""
        return CrossEntropy()(logits, paddle.to_tensor(self.expected["targets"]))

    def expected_gradients(self) -> dict[str, np.ndarray]:
        """The source's gradients under our names and in our layout: those of its weights, too."""
        theirs = {
            name.removeprefix("grad/"): array
            for name, array in self.expected.items()
            if name.startswith("grad/")
        }
        plan = plan_loading(replace(self._file, weights=theirs), self.model)
        names = {name for name, _ in trainable(self.model)}
        if plan.unused or plan.weights.keys() != names:
            raise RunError(f"golden case {self.name}: its gradients are not those of the model")
        return plan.weights

    def steps_of_adamw(self) -> list[float]:
        """The losses before each of five steps, as the source made them."""
        optimizer = build_optimizer({"name": "AdamW", "lr": 1e-3, "weight_decay": 0.05}, self.model)
        optimizer.set_lr(1e-3)
        losses = []
        for _ in range(5):
            loss = self.loss(self.model(self.images))
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.clear_grad(set_to_zero=False)
        return losses
