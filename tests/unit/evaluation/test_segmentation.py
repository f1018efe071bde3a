"""mIoU and accuracies against brute force over all pixels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from passl.distributed.ranks import Ranks
from passl.errors import RunError
from passl.evaluation.segmentation import SEGMENTATION, collect, score

CLASSES = 5


def data(images: int = 7, ignored: float = 0.3):
    """Logits [N, 5, 6, 8] and masks without class 4, which is predicted nevertheless."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((images, CLASSES, 6, 8)).astype("float32")
    masks = rng.integers(0, 4, (images, 6, 8)).astype(np.uint8)
    masks[rng.random(masks.shape) < ignored] = 255
    return logits, masks


def outputs(logits, masks, batch: int = 2):
    for start in range(0, len(masks), batch):
        rows = slice(start, start + batch)
        tensors = paddle.to_tensor(logits[rows]), paddle.to_tensor(masks[rows])
        yield (tensors[0],), tensors[1], paddle.arange(start, start + len(masks[rows]))


def counted(logits, masks, batch: int = 2):
    found = collect(outputs(logits, masks, batch), CLASSES)
    return type(found)(found.matrix, found.loss, found.samples, seconds=1.0)


def brute_force(logits, masks):
    pairs, losses = [], []
    for image, mask in zip(logits.astype(np.float64), masks, strict=True):
        for (y, x), label in np.ndenumerate(mask):
            if label != 255:
                values = image[:, y, x]
                pairs.append((int(label), int(values.argmax())))
                losses.append(np.log(np.exp(values).sum()) - values[label])
    ious, recalls = {}, {}
    for label in {label for label, _ in pairs}:
        both = sum(pair == (label, label) for pair in pairs)
        either = sum(label in pair for pair in pairs)
        ious[label] = 100 * both / either
        recalls[label] = 100 * both / sum(true == label for true, _ in pairs)
    right = 100 * sum(true == predicted for true, predicted in pairs) / len(pairs)
    return ious, recalls, right, np.mean(losses)


def test_scores():
    logits, masks = data()
    found = score(counted(logits, masks), CLASSES, Ranks(), {})
    ious, recalls, right, loss = brute_force(logits, masks)
    assert found.mIoU == pytest.approx(np.mean(list(ious.values())), rel=1e-12)
    assert found.mean_accuracy == pytest.approx(np.mean(list(recalls.values())), rel=1e-12)
    assert found.pixel_accuracy == pytest.approx(right, rel=1e-12)
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert found.samples == 7
    assert found.per_class["iou"] == pytest.approx([*(ious[k] for k in range(4)), None])
    assert found.remarks() == ["mIoU: mean over 4 of 5 classes; the others have no pixel"]


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_batches_do_not_matter(batch):
    logits, masks = data()
    np.testing.assert_array_equal(
        counted(logits, masks, batch).matrix, counted(logits, masks, 2).matrix
    )


class TwoRanks(Ranks):
    """The other rank has these values."""

    def __init__(self, other):
        super().__init__(world=2)
        object.__setattr__(self, "_other", other)

    def wait(self, *_):
        pass

    def sum(self, values):
        other = self._other
        own = [other.loss, other.samples, *other.matrix.ravel().tolist()]
        return [a + b for a, b in zip(values, own if len(values) > 1 else [1.0], strict=True)]


def test_ranks_sum_to_the_whole():
    logits, masks = data()
    whole = score(counted(logits, masks), CLASSES, Ranks(), {})
    first, other = counted(logits[::2], masks[::2]), counted(logits[1::2], masks[1::2])
    both = score(first, CLASSES, TwoRanks(other), {})
    for name in ("mIoU", "pixel_accuracy", "mean_accuracy", "samples", "per_class"):
        assert getattr(both, name) == getattr(whole, name), name
    assert both.loss == pytest.approx(whole.loss, rel=1e-12)


def test_logits_are_resized_to_the_mask():
    """Scores are for the size of the data: constant logits give the same class at any size."""
    logits = np.zeros((1, CLASSES, 3, 4), np.float32)
    logits[:, 2] = 5
    masks = np.full((1, 7, 9), 2, np.uint8)
    found = collect(outputs(logits, masks), CLASSES)
    assert found.matrix[2, 2] == 63


def test_no_labelled_pixel_is_an_error():
    logits, masks = data(ignored=1.1)
    with pytest.raises(RunError, match="no pixel of the validation data has a label"):
        score(counted(logits, masks), CLASSES, Ranks(), {})


def test_infinite_logits_are_an_error():
    logits, masks = data()
    logits[0, 0, 0, 0] = np.nan
    masks[0, 0, 0] = 1
    with pytest.raises(RunError, match="outputs are not finite"):
        score(counted(logits, masks), CLASSES, Ranks(), {})


def test_tables(tmp_path):
    found, data_ = counted(*data()), SimpleNamespace(classes=list("abcde"))
    SEGMENTATION.tables["per_class"](tmp_path / "c.csv", found, data_)
    rows = (tmp_path / "c.csv").read_text().splitlines()
    assert rows[0] == "class,pixels,iou,accuracy"
    ious, recalls, *_ = brute_force(*data())
    assert rows[1] == f"a,{found.matrix[0].sum()},{ious[0]:.4f},{recalls[0]:.4f}"
    assert rows[5] == "e,0,,"
    SEGMENTATION.tables["confusion"](tmp_path / "m.csv", found, data_)
    assert (tmp_path / "m.csv").read_text().splitlines()[5] == "e,0,0,0,0,0"
    assert (tmp_path / "m.png").is_file()
