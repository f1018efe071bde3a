"""Every registered head keeps the contract that the registry's docstring states."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from passl.modeling.heads import HEADS, build_head

# One small head of each; a head that is registered but not here fails the first test.
SMALL = {
    "ClsHead": {"drop_rate": 0.5, "act": "relu"},
    "CvTClsHead": {},
    "MultilabelHead": {},
    "FPNHead": {"strides": [4, 8], "fpn_channels": 12, "channels": 8},
}
NAMES = HEADS.names()


def takes_maps(name: str) -> bool:
    return getattr(HEADS.get(name), "takes_maps", False)


@pytest.fixture(params=NAMES)
def cfg(request):
    channels = [6, 8] if takes_maps(request.param) else 8
    options = SMALL[request.param]
    return {"name": request.param, "num_classes": 5, "in_channels": channels, **options}


@pytest.fixture
def head(cfg):
    paddle.seed(0)
    return build_head(cfg)


@pytest.fixture
def features(cfg):
    """Features of a batch of that size: [B, 8], or maps of strides 4 and 8 of images of 32 x 40."""
    shapes = [(6, 8, 10), (8, 4, 5)] if takes_maps(cfg["name"]) else [(8,)]

    def draw(batch: int):
        rng = np.random.default_rng(batch)
        drawn = [rng.standard_normal((batch, *shape), np.float32) for shape in shapes]
        tensors = [paddle.to_tensor(array) for array in drawn]
        return tensors if takes_maps(cfg["name"]) else tensors[0]

    return draw


def _flat(drawn) -> list:
    return drawn if isinstance(drawn, list) else [drawn]


def sample(drawn, index: int):
    """One sample of a batch of features."""
    one = [each[index : index + 1] for each in drawn] if isinstance(drawn, list) else None
    return drawn[index : index + 1] if one is None else one


def test_every_head_is_tested():
    assert NAMES
    assert set(NAMES) == set(SMALL)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("batch", [1, 3])
def test_logits_of_any_batch(cfg, head, features, batch, mode):
    getattr(head, mode)()
    logits = head(features(batch))
    assert logits.shape == ([batch, 5, 8, 10] if takes_maps(cfg["name"]) else [batch, 5])
    assert np.isfinite(logits.numpy()).all()


def test_outputs_do_not_depend_on_the_batch(head, features):
    head.eval()
    one_by_one = paddle.concat([head(sample(features(3), i)) for i in range(3)])
    np.testing.assert_allclose(head(features(3)).numpy(), one_by_one.numpy(), rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(head, features):
    head.train()
    (head(features(6)) ** 2).sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


def test_state_dict_round_trip(cfg, head, features):
    other = build_head(cfg)
    state = {name: tensor.numpy().copy() for name, tensor in head.state_dict().items()}
    assert other.set_state_dict(state) == ([], [])
    head.eval()
    other.eval()
    np.testing.assert_array_equal(other(features(2)).numpy(), head(features(2)).numpy())


def test_exported_with_any_batch(cfg, head, features, tmp_path):
    head.eval()
    expected = {batch: head(features(batch)).numpy() for batch in (1, 3)}
    spec = [InputSpec([-1, 8], "float32", "features")]
    if takes_maps(cfg["name"]):
        shapes = ([-1, 6, 8, 10], [-1, 8, 4, 5])
        spec = [[InputSpec(shape, "float32", f"map{i}") for i, shape in enumerate(shapes)]]
    graph = paddle.jit.to_static(head, spec, full_graph=True, backend=None)
    paddle.jit.save(graph, str(tmp_path / "head"))
    loaded = paddle.jit.load(str(tmp_path / "head"))
    loaded.eval()
    for batch, logits in expected.items():
        np.testing.assert_allclose(
            loaded(*_flat(features(batch))).numpy(), logits, rtol=1e-5, atol=1e-6
        )
