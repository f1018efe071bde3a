"""PixelCrossEntropy against NumPy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl.modeling.losses import Supervised, build_loss

CLASSES = 4


def data(batch: int = 3):
    """Logits [B, 4, 5, 6] and masks; a fifth of the pixels and the last image are ignored."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((batch, CLASSES, 5, 6)).astype("float32") * 3
    masks = rng.integers(0, CLASSES, (batch, 5, 6)).astype(np.uint8)
    masks[rng.random(masks.shape) < 0.2] = 255
    masks[-1] = 255
    return logits, masks


def reference(logits, masks, weights=(1.0,) * CLASSES) -> float:
    total = count = 0.0
    for image, mask in zip(logits.astype(np.float64), masks, strict=True):
        for (y, x), label in np.ndenumerate(mask):
            if label != 255:
                scores = image[:, y, x]
                total += weights[label] * (np.log(np.exp(scores).sum()) - scores[label])
                count += weights[label]
    return total / count


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 3.0, 0.0]])
def test_mean_over_the_labelled_pixels(weights):
    logits, masks = data()
    loss = build_loss({"name": "PixelCrossEntropy", "class_weights": weights})
    found = loss(paddle.to_tensor(logits), paddle.to_tensor(masks)).item()
    assert found == pytest.approx(reference(logits, masks, weights or (1.0,) * CLASSES), rel=1e-5)


def test_ignored_pixels_get_no_gradient():
    logits, masks = data()
    tensor = paddle.to_tensor(logits, stop_gradient=False)
    build_loss({"name": "PixelCrossEntropy"})(tensor, paddle.to_tensor(masks)).backward()
    gradient = tensor.grad.numpy()
    assert (gradient.transpose(0, 2, 3, 1)[masks == 255] == 0).all()
    assert (gradient.transpose(0, 2, 3, 1)[masks != 255] != 0).all()


def test_parts_of_a_batch_sum_to_the_whole():
    """Of different numbers of labelled pixels, as ranks and `accumulate` split a batch."""
    logits, masks = data(4)
    loss = build_loss({"name": "PixelCrossEntropy"})
    objective = Supervised(loss)
    whole = loss(paddle.to_tensor(logits), paddle.to_tensor(masks)).item()
    mean_weight = loss.sample_weights(paddle.to_tensor(masks)).mean()
    parts = [
        objective(lambda x: x, *(paddle.to_tensor(a[rows]) for a in (logits, masks)), mean_weight)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert 1 / 4 * parts[0].item() + 3 / 4 * parts[1].item() == pytest.approx(whole, rel=1e-6)


def test_a_batch_without_a_label_has_loss_0():
    logits, masks = data()
    tensor = paddle.to_tensor(logits, stop_gradient=False)
    loss = build_loss({"name": "PixelCrossEntropy"})(tensor, paddle.full(masks.shape, 255, "uint8"))
    loss.backward()
    assert loss.item() == 0
    assert (tensor.grad.numpy() == 0).all()
