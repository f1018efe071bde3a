"""Weighted losses against PyTorch's, where it is installed (`make test-parity`)."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl.modeling.losses import build_loss

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
RNG = np.random.default_rng(3)
BATCH, CLASSES = 16, 7
LOGITS = RNG.normal(size=(BATCH, CLASSES)).astype("float32") * 3
LABELS = RNG.integers(CLASSES, size=BATCH)
WEIGHTS = RNG.uniform(0.1, 5, CLASSES).astype("float32")
KEPT = np.float32(0.3)
ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]
MIXED = KEPT * ONE_HOT + (1 - KEPT) * ONE_HOT[::-1]


def both(section: dict, theirs, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients [B, classes] of our loss and of theirs; the losses themselves are compared."""
    logits = paddle.to_tensor(LOGITS, stop_gradient=False)
    loss = build_loss({**section, "class_weights": WEIGHTS.tolist()})
    ours = loss(logits, paddle.to_tensor(targets))
    ours.backward()
    peer = torch.tensor(LOGITS, requires_grad=True)
    wanted = theirs(peer, torch.tensor(targets))
    wanted.backward()
    assert ours.item() == pytest.approx(wanted.item(), rel=1e-5)
    return logits.grad.numpy(), peer.grad.numpy()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_labels(smoothing):
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHTS), label_smoothing=smoothing)
    section = {"name": "CrossEntropy", "label_smoothing": smoothing}
    ours, wanted = both(section, theirs, LABELS)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_soft_targets(smoothing):
    """PyTorch divides these by the number of samples, we by their weights, as for labels."""
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHTS), label_smoothing=smoothing)
    factor = float(BATCH / (MIXED * WEIGHTS).sum(dtype="float64"))
    section = {"name": "CrossEntropy", "label_smoothing": smoothing}
    ours, wanted = both(section, lambda x, t: factor * theirs(x, t), MIXED)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("sum_classes", [False, True])
def test_binary_cross_entropy(sum_classes):
    """PyTorch's with the samples' weights, which broadcast over the classes."""
    weights = torch.tensor((MIXED * WEIGHTS).sum(-1, keepdims=True))
    divisor = weights.sum() * (1 if sum_classes else CLASSES)
    theirs = torch.nn.BCEWithLogitsLoss(weight=weights, reduction="sum")
    section = {"name": "BinaryCrossEntropy", "sum_classes": sum_classes}
    ours, wanted = both(section, lambda x, t: theirs(x, t) / divisor, MIXED)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-7)
