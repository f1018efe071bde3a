"""The weights that the networks of a pair start from: one draw for each seed, and from it the
positions, values and gates of each network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from safetensors.numpy import save_file

import passl
from passl.io.files import write_atomically
from passl.modeling import Model
from passl.modeling.layers import trunc_normal_
from passl.porting.weight_file import OURS


def initial_weights(section: Mapping[str, Any], network: str, seed: int) -> dict[str, np.ndarray]:
    """The first weights of a network.

    Args:
        section: `model` of ConViT's config.
        network: `random`, which has random positions; `convit`, whose local blocks start as
            convolutions, so their values are the identity too; `frozen`, the same with gates of 0,
            which weight content and position alike (as in the paper's ablation); or `attention`,
            which has neither positions nor gates.
        seed: of the draw. Whatever two networks share, of one seed it is the same.

    Random positions have a standard deviation of 0.02, as in the published networks, also with
    `init: xavier`: they are multiplied by squared distances.
    """
    architecture = dict(section["architecture"])
    strength = architecture.pop("locality_strength")
    paddle.seed(seed)
    random = {**architecture, "locality_strength": None}
    model = Model({"model": {"architecture": random, "head": section["head"]}})
    for block in model.backbone.blocks[: architecture["local_up_to_layer"]]:
        trunc_normal_(block.attn.pos_proj.weight)
        if network in ("convit", "frozen"):
            block.attn.local_init_(strength)
        if network == "frozen":
            block.attn.gating_param.set_value(paddle.zeros_like(block.attn.gating_param))
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return _without_positions(arrays) if network == "attention" else arrays


def _without_positions(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights of gated positional attention as those of plain attention, which has queries,
    keys and values in one matrix.
    """
    plain = {}
    for name, array in arrays.items():
        if name.endswith((".attn.qk.weight", ".attn.qk.bias")):
            stem, kind = name.removesuffix(".weight").removesuffix(".bias"), name.split(".")[-1]
            values = arrays[f"{stem.removesuffix('qk')}v.{kind}"]
            plain[f"{stem}v.{kind}"] = np.concatenate([array, values], axis=-1)
        elif not any(part in name for part in (".attn.v.", ".attn.pos_proj.", ".gating_param")):
            plain[name] = array
    return plain


def write_initial_weights(path: Path, section: Mapping[str, Any], network: str, seed: int) -> None:
    """Write `initial_weights` to a file, unless it is there."""
    if path.exists():
        return
    arrays = initial_weights(section, network, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {OURS: passl.__version__}
    write_atomically(path, lambda temporary: save_file(arrays, temporary, metadata))
