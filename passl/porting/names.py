"""What each project calls the weights, as data.

A table's rules give, for a weight as the authors and we call it (facebookresearch/convit,
microsoft/CvT), the name or names that another project has for it. Several names mean one weight in
parts, put together along its output axis: MindCV keeps q, k and v apart where the authors have one
matrix. The first rule that matches counts. A table can be read both ways, so that the same rules
import and export.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

Rule = tuple[str, tuple[str, ...]]
"""Our name, `{i}` for a number and `{leaf}` for a last part, and theirs."""


@dataclass(frozen=True)
class Source:
    """A project's files.

    Args:
        name: the project.
        family: `ConViT` or `CvT`.
        framework: `torch`, `mindspore` or `paddle`. Paddle's Linear is [in, out], the others' [out,
            in].
        anchor: a name that its files have and those of the other sources of that framework have
            not.
        rules: the rename table.
        numerics: constructor arguments of the backbone that these weights were trained with, where
            they are not the authors'.
    """

    name: str
    family: str
    framework: str
    anchor: str
    rules: tuple[Rule, ...]
    numerics: dict[str, str | float] = field(default_factory=dict)

    def theirs(self, ours: str) -> tuple[str, ...]:
        """The names that this source has for a weight of ours."""
        for pattern, targets in self.rules:
            match = _compiled(pattern).fullmatch(ours)
            if match:
                return tuple(target.format(**match.groupdict()) for target in targets)
        raise AssertionError(f"the table of {self.name} has no rule for {ours}")  # tables are total

    def ours(self, theirs: str) -> str | None:
        """Our name of the weight that this one is, or is a part of."""
        for pattern, targets in self.rules:
            for target in targets:
                match = _compiled(target).fullmatch(theirs)
                if match:
                    name = pattern.format(**match.groupdict())
                    if theirs in self.theirs(name):
                        return name
        return None


_PLACES = {"i": r"\d+", "s": r"\d+", "n": r"\d+", "p": r"[qkv]", "leaf": r"[a-z_]+", "name": r".+"}


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    seen: set[str] = set()
    text = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            text += re.escape(part)
        else:
            text += f"(?P={part})" if part in seen else f"(?P<{part}>{_PLACES[part]})"
            seen.add(part)
    return re.compile(text)


def _same(*patterns: str) -> tuple[Rule, ...]:
    return tuple((pattern, (pattern,)) for pattern in patterns)


_REST = _same("{name}")
_TORCH_STATISTICS: tuple[Rule, ...] = (
    ("{name}._mean", ("{name}.running_mean",)),
    ("{name}._variance", ("{name}.running_var",)),
)


def _huggingface() -> tuple[Rule, ...]:
    stage, layer = "cvt.encoder.stages.{s}", "cvt.encoder.stages.{s}.layers.{i}"
    embedding = f"{stage}.embedding.convolution_embeddings"
    block, attention = "stage{s}.blocks.{i}", f"{layer}.attention.attention"
    rules: list[Rule] = [
        ("stage{s}.cls_token", (f"{stage}.cls_token",)),
        ("stage{s}.patch_embed.proj.{leaf}", (f"{embedding}.projection.{{leaf}}",)),
        ("stage{s}.patch_embed.norm.{leaf}", (f"{embedding}.normalization.{{leaf}}",)),
    ]
    for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
        conv = f"{attention}.convolution_projection_{word}.convolution_projection"
        ours = f"{block}.attn.conv_proj_{letter}"
        rules += [
            (f"{ours}.conv.{{leaf}}", (f"{conv}.convolution.{{leaf}}",)),
            (f"{ours}.bn._mean", (f"{conv}.normalization.running_mean",)),
            (f"{ours}.bn._variance", (f"{conv}.normalization.running_var",)),
            (f"{ours}.bn.{{leaf}}", (f"{conv}.normalization.{{leaf}}",)),
            (f"{block}.attn.proj_{letter}.{{leaf}}", (f"{attention}.projection_{word}.{{leaf}}",)),
        ]
    for ours, theirs in (
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("attn.proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ):
        rules.append((f"{block}.{ours}.{{leaf}}", (f"{layer}.{theirs}.{{leaf}}",)))
    rules.append(("norm.{leaf}", ("layernorm.{leaf}",)))
    rules.append(("head.{leaf}", ("classifier.{leaf}",)))
    return tuple(rules)


_MINDCV: tuple[Rule, ...] = (
    ("blocks.{i}.attn.qk.{leaf}", ("blocks.{i}.attn.q.{leaf}", "blocks.{i}.attn.k.{leaf}")),
    ("blocks.{i}.attn.v.{leaf}", ("blocks.{i}.attn.v.{leaf}",)),
    (
        "blocks.{i}.attn.qkv.{leaf}",
        ("blocks.{i}.attn.q.{leaf}", "blocks.{i}.attn.k.{leaf}", "blocks.{i}.attn.v.{leaf}"),
    ),
    ("blocks.{i}.norm{n}.weight", ("blocks.{i}.norm{n}.gamma",)),
    ("blocks.{i}.norm{n}.bias", ("blocks.{i}.norm{n}.beta",)),
    ("norm.weight", ("norm.gamma",)),
    ("norm.bias", ("norm.beta",)),
    ("head.{leaf}", ("classifier.{leaf}",)),
    *_REST,
)
_PASSL: tuple[Rule, ...] = (
    (
        "stage{s}.blocks.{i}.attn.conv_proj_{p}.conv.{leaf}",
        ("backbone.stage{s}.blocks.{i}.attn.conv_proj_{p}.0.{leaf}",),
    ),
    (
        "stage{s}.blocks.{i}.attn.conv_proj_{p}.bn.{leaf}",
        ("backbone.stage{s}.blocks.{i}.attn.conv_proj_{p}.1.{leaf}",),
    ),
    ("head.{leaf}", ("head.fc_cls.{leaf}",)),
    ("{name}", ("backbone.{name}",)),
)

_OWN: tuple[Rule, ...] = (
    ("head.{leaf}", ("head.fc_cls.{leaf}",)),
    ("{name}", ("backbone.{name}",)),
)

SOURCES = (
    Source(
        "timm", "ConViT", "torch", "patch_embed.proj.weight", _REST
    ),  # facebookresearch's names too
    Source(
        "mindcv",
        "ConViT",
        "mindspore",
        "patch_embed.proj.weight",
        _MINDCV,
        {"act": "gelu_tanh", "norm_eps": 1e-7},
    ),
    Source(
        "huggingface",
        "CvT",
        "torch",
        "cvt.encoder.stages.0.embedding.convolution_embeddings.projection.weight",
        _huggingface(),
        {"act": "gelu"},
    ),
    Source(
        "microsoft", "CvT", "torch", "stage0.patch_embed.proj.weight", (*_TORCH_STATISTICS, *_REST)
    ),
    # What this package writes as .pdparams; PASSL has another name for the convolution.
    Source("own", "ConViT", "paddle", "backbone.blocks.0.norm1.weight", _OWN),
    Source("own", "CvT", "paddle", "backbone.stage0.blocks.0.attn.conv_proj_q.conv.weight", _OWN),
    Source("passl", "CvT", "paddle", "backbone.stage0.patch_embed.proj.weight", _PASSL),
    Source("paddleclas", "CvT", "paddle", "stage0.patch_embed.proj.weight", _REST),
)

DROPPED = {
    "num_batches_tracked": "PyTorch's BatchNorm counts batches, Paddle's does not",
    "rel_indices": "relative positions are computed here",
    "global_step": "progress of the training, no weight",
    "learning_rate": "progress of the training, no weight",
    "epoch_num": "progress of the training, no weight",
    "step_num": "progress of the training, no weight",
}
"""Last parts of names that are no weight of the network, and why they are left out."""

WRAPPERS = ("module.", "_orig_mod.", "model.", "ema.", "network.")
"""Prefixes that a training wrapper puts before every name."""


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Each name -> the name without the wrappers that all of them have."""
    result = {name: name for name in names}
    while result:
        wrapper = next((w for w in WRAPPERS if all(n.startswith(w) for n in result.values())), None)
        if wrapper is None:
            break
        result = {name: inner.removeprefix(wrapper) for name, inner in result.items()}
    return result
