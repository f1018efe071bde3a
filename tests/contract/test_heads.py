"""Every registered head keeps the contract that the registry's docstring states."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from passl.modeling.heads import HEADS, build_head

# One small head of each; a head that is registered but not here fails the first test.
SMALL = {"ClsHead": {"drop_rate": 0.5, "act": "relu"}, "CvTClsHead": {}}
NAMES = HEADS.names()


@pytest.fixture(params=NAMES)
def cfg(request):
    return {"name": request.param, "num_classes": 5, "in_channels": 8, **SMALL[request.param]}


@pytest.fixture
def head(cfg):
    paddle.seed(0)
    return build_head(cfg)


def features(batch: int):
    return paddle.to_tensor(np.random.default_rng(batch).standard_normal((batch, 8), np.float32))


def test_every_head_is_tested():
    assert NAMES
    assert set(NAMES) == set(SMALL)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("batch", [1, 3])
def test_logits_of_any_batch(head, batch, mode):
    getattr(head, mode)()
    logits = head(features(batch))
    assert logits.shape == [batch, 5]
    assert np.isfinite(logits.numpy()).all()


def test_outputs_do_not_depend_on_the_batch(head):
    head.eval()
    one_by_one = paddle.concat([head(features(3)[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(head(features(3)).numpy(), one_by_one.numpy(), rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(head):
    head.train()
    (head(features(6)) ** 2).sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


def test_state_dict_round_trip(cfg, head):
    other = build_head(cfg)
    state = {name: tensor.numpy().copy() for name, tensor in head.state_dict().items()}
    assert other.set_state_dict(state) == ([], [])
    head.eval()
    other.eval()
    np.testing.assert_array_equal(other(features(2)).numpy(), head(features(2)).numpy())


def test_exported_with_any_batch(head, tmp_path):
    head.eval()
    expected = {batch: head(features(batch)).numpy() for batch in (1, 3)}
    spec = [InputSpec([-1, 8], "float32", "features")]
    graph = paddle.jit.to_static(head, spec, full_graph=True, backend=None)
    paddle.jit.save(graph, str(tmp_path / "head"))
    loaded = paddle.jit.load(str(tmp_path / "head"))
    loaded.eval()
    for batch, logits in expected.items():
        np.testing.assert_allclose(loaded(features(batch)).numpy(), logits, rtol=1e-5, atol=1e-6)
