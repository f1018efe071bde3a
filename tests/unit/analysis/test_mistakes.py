"""The worst mistakes, from planted predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest
from matplotlib.text import Text

from passl.analysis.evaluated import Evaluated, evaluate_config
from passl.analysis.mistakes import figure_of_mistakes, worst_mistakes
from passl.data.loader import build_loader
from passl.evaluation.multilabel import MultilabelPredictions
from passl.evaluation.predictions import Predictions
from passl.io.masks import IGNORED
from passl.utils.config import get_config


def evaluated(found, dataset: str, model=None) -> Evaluated:
    """Predictions for a dataset that comes with the package; its first samples are the val data."""
    node = get_config(dataset).dataloader.val
    loader = build_loader(node, 0)
    return Evaluated(model, loader, found, None)


def test_most_confident_mistakes_first():
    classes = np.array([[3, 1], [1, 0], [2, 5], [0, 4]])
    probabilities = np.array([[0.6, 0.3], [0.9, 0.1], [0.99, 0.01], [0.7, 0.2]], np.float32)
    labels, indices = np.array([1, 0, 2, 4]), np.array([10, 11, 12, 14])
    found = Predictions(indices, labels, classes, probabilities, np.zeros(4, np.float32))
    whole = evaluated(found, "digits/convit")
    worst = worst_mistakes(whole, 2)
    assert (worst.total, worst.samples) == (3, 4)  # sample 12 is right
    assert [(each.label, each.wrong) for each in worst.shown] == [
        ("0", "predicted 1: 90.0 %"),
        ("4", "predicted 0: 70.0 %"),
    ]
    dataset = whole.loader.dataset
    # The names of ImageNet's folders are shown as words.
    dataset.classes[4] = "n02123045"
    assert worst_mistakes(whole, 2).shown[1].label == "tabby, tabby cat"
    assert [each.name for each in worst.shown] == [dataset.name(11), dataset.name(14)]
    assert worst.shown[0].image.tobytes() == dataset[11][0].tobytes()


def test_worst_decision_about_a_label():
    labels = np.zeros((3, 10), bool)
    labels[0, [2, 7]] = labels[1, 5] = labels[2, 1] = True
    logits = np.where(labels, 9.0, -9.0).astype(np.float32)
    logits[0, 7] = -2.0  # missed: 11.9 %
    logits[1, [0, 8]] = 1.0, 3.0  # predicted: 73.1 % and 95.3 %
    found = MultilabelPredictions(np.array([4, 5, 6]), labels, logits)
    worst = worst_mistakes(evaluated(found, "digits/multilabel"), 9)
    assert (worst.total, worst.samples) == (2, 3)
    assert [(each.label, each.wrong) for each in worst.shown] == [
        ("5", "predicted 8: 95.3 %"),
        ("2, 7", "missed 7: 11.9 %"),
    ]


class Ten(paddle.nn.Layer):
    """Predicts class 10 for the lower half of each image, the background above."""

    def forward(self, images):
        logits = paddle.zeros([images.shape[0], 11, 12, 12])
        logits[:, 10, 6:] = 1.0
        logits[:, 0, :6] = 1.0
        return logits


def test_images_with_the_largest_part_of_wrong_pixels():
    cfg = get_config("segmentation/digits_cvt", ["dataloader.val.dataset.count=30"])
    loader = build_loader(cfg.dataloader.val, 0)
    worst = worst_mistakes(Evaluated(Ten(), loader, None, None), 4)
    parts = []
    for index in range(30):
        mask = loader.dataset[index][1]
        predicted = np.zeros_like(mask)
        predicted[len(mask) // 2 :] = 10
        labelled = mask != IGNORED
        parts.append((predicted != mask)[labelled].mean())
    expected = np.argsort(-np.array(parts), kind="stable")[:4]
    assert [each.name for each in worst.shown] == [loader.dataset.name(k) for k in expected]
    assert worst.shown[0].wrong == f"{100 * max(parts):.1f} % of the pixels wrong"
    assert (worst.total, worst.samples) == (sum(part > 0 for part in parts), 30)
    label, predicted = worst.shown[0].masks
    np.testing.assert_array_equal(label, loader.dataset[expected[0]][1])
    assert (predicted[:20] == 0).all()  # the logits are resized to the mask
    assert (predicted[-20:] == 10).all()


@pytest.mark.parametrize("count", [1, 64])
def test_figure_of_one_and_of_many(count):
    rows = np.arange(count)
    found = Predictions(
        rows,
        np.zeros(count, int),
        np.ones((count, 1), int),
        np.ones((count, 1), np.float32),
        np.zeros(count, np.float32),
    )
    worst = worst_mistakes(evaluated(found, "digits/cvt"), 64)
    worst = replace(worst, shown=[replace(each, label="数字 $0$") for each in worst.shown])
    figure = figure_of_mistakes(worst)
    assert len(figure.axes) == count
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert texts.count("label 数字 $0$") == count
    assert max(figure.get_size_inches()) < 25


def test_scores_of_classes(tiny_config, tmp_path):
    """Of an untrained network: as scikit-learn defines them, from the matrix."""
    cfg = get_config(tiny_config("CvT"))
    from passl.modeling import Model

    paddle.seed(0)
    weights = tmp_path / "w.pdparams"
    paddle.save(Model(cfg).state_dict(), str(weights))
    found = evaluate_config(cfg, weights)
    matrix = found.confusion
    assert matrix.sum() == found.scores.samples == 360
    for k, row in enumerate(found.per_class()):
        right, of_class, predicted = matrix[k, k], matrix[k].sum(), matrix[:, k].sum()
        assert (row["class"], row["samples"]) == (str(k), of_class)
        assert row["recall"] == pytest.approx(100 * right / of_class)
        assert row["recall"] == pytest.approx(found.scores.per_class["recall"][k])
        expected = 100 * right / predicted if predicted else None
        assert row["precision"] == (expected and pytest.approx(expected))
        assert row["F1"] == pytest.approx(200 * right / (of_class + predicted))
