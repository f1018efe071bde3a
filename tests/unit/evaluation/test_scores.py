"""Scores and predictions against the same numbers computed in numpy from all logits at once."""

from __future__ import annotations

import math
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest

from passl.data.loader import build_loader
from passl.errors import RunError
from passl.evaluation.classification import averaged, score
from passl.evaluation.predictions import Predictions
from passl.evaluation.scores import VIEWS, evaluate, predict
from passl.utils.config import get_config
from tests.numerics import Rounded

WEIGHTS_CK = np.round(np.random.default_rng(0).normal(scale=0.02, size=(3 * 32 * 32, 10)) * 2**13)
WEIGHTS_CK /= 2**13


class Linear(paddle.nn.Layer):
    """Fixed random weights, so that every image has its own logits and a mirrored one others.

    Weights and pixels have few digits, so that float32 holds every product and every sum exactly:
    neither the batch nor the order of the sum, which a processor chooses, changes a logit.
    """

    def __init__(self):
        super().__init__()
        self.weights_CK = paddle.to_tensor(WEIGHTS_CK.astype("float32"))

    def forward(self, images):
        return (images * 8).floor().flatten(1) / 8 @ self.weights_CK


@pytest.fixture
def section(tiny_config):
    """The validation data with a batch size of one's own."""

    def make(batch: int = 64, **loader):
        overrides = [f"dataloader.val.sampler.batch_size={batch}"]
        overrides += [f"dataloader.val.loader.{key}={value}" for key, value in loader.items()]
        return get_config(tiny_config(), overrides).dataloader.val

    return make


def all_logits(section, mirror: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Logits [360, 10] and labels, image by image."""
    loader = build_loader(section, 0)
    samples = [loader.samples[(0, index, index)] for index in range(len(loader.dataset))]
    images = np.stack([sample.image for sample in samples])
    images = np.floor(8 * (images[..., ::-1] if mirror else images)).reshape(len(images), -1)
    terms = np.abs(images).max(0) @ np.abs(WEIGHTS_CK) * 2**13  # of the sums, in their last digit
    assert terms.max() < 2**24  # they are exact
    return images / 8 @ WEIGHTS_CK, np.array([sample.label for sample in samples])


def expected(log_p: Rounded, labels: np.ndarray) -> dict[str, Any]:
    """The scores, from the place of the label among all classes."""
    own = log_p[np.arange(len(labels)), labels]
    better = (log_p.value > own.value[:, None]).sum(-1)
    return {
        "top1": 100 * (better < 1).mean(),
        "top5": 100 * (better < 5).mean(),
        "loss": -own.map(np.mean),
        "samples": len(labels),
        **of_classes(log_p.value.argmax(-1), labels),
    }


def of_classes(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """By definition: the means of recall, and of F1 from precision and recall, over the classes
    that have a sample.
    """
    recalls, scores = [], []
    for label in np.unique(labels):
        right = ((predictions == label) & (labels == label)).sum()
        recall = right / (labels == label).sum()
        precision = right / max((predictions == label).sum(), 1)
        recalls.append(recall)
        scores.append(2 * precision * recall / (precision + recall) if right else 0.0)
    return {"balanced_accuracy": 100 * np.mean(recalls), "macro_f1": 100 * np.mean(scores)}


def check(scores, wanted: dict[str, Any]) -> None:
    found = scores.to_dict()
    assert found["ips"] > 0
    counts = {key: value for key, value in wanted.items() if key != "loss"}
    assert {key: found[key] for key in counts} == pytest.approx(counts, rel=1e-12)
    wanted["loss"].check(found["loss"], np.float32)


@pytest.mark.parametrize("batch", [7, 64, 360, 1000])
def test_scores_do_not_depend_on_the_batch(section, batch):
    model = Linear()
    model.train()
    scores = evaluate(model, build_loader(section(batch), 0))
    assert model.training
    logits, labels = all_logits(section())
    check(scores, expected(Rounded(logits).log_softmax(), labels))
    assert 0 < scores.top1 < scores.top5 < 100


def test_scores_are_counts_over_ranks(section):
    """Three ranks' own counts add up to those of one."""
    whole = evaluate(Linear(), build_loader(section(50), 0))
    parts = [evaluate(Linear(), build_loader(section(50), 0, rank, 3)) for rank in range(3)]
    assert sum(part.samples for part in parts) == 360
    assert sum(part.top1 * part.samples for part in parts) / 360 == pytest.approx(whole.top1)
    assert sum(part.loss * part.samples for part in parts) / 360 == pytest.approx(whole.loss)


LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 4, 4])
PREDICTIONS = np.array([0, 0, 0, 0, 1, 3, 1, 1, 0, 2, 2, 4])


def predicted(rows: slice) -> Predictions:
    labels, predictions = LABELS[rows], PREDICTIONS[rows]
    return Predictions(labels, labels, predictions[:, None], labels[:, None], labels * 0.0, 1.0)


class Two:
    """The first of two ranks; the other one's sums are known."""

    world = 2

    def __init__(self, other: Predictions):
        self.other = other

    def wait(self) -> None: ...

    def sum(self, values: list[float]) -> list[float]:
        told: list[list[float]] = []
        ranks = SimpleNamespace(world=1, wait=self.wait, sum=lambda v: told.append(v) or v)
        with suppress(RunError):  # no sample at all
            score(self.other, 5, ranks)
        return [one + other for one, other in zip(values, told[0], strict=True)]


@pytest.mark.parametrize("split", [0, 1, 7, 12])
def test_scores_of_imbalanced_classes_are_scikit_learns(split):
    """Figures of scikit-learn 1.9.1: balanced_accuracy_score(labels, predictions), f1_score(labels,
    predictions, labels=[0, 1, 2, 4], average="macro"), recall_score with the same labels and no
    average. Class 3 has no sample, but is predicted once. However the samples lie on two ranks.
    """
    found = score(predicted(slice(split)), 5, Two(predicted(slice(split, None))))
    assert found.balanced_accuracy == pytest.approx(70.83333333333333)
    assert found.macro_f1 == pytest.approx(68.18181818181818)
    two_thirds = pytest.approx(66.66666666666666)
    assert found.per_class == {"recall": [two_thirds, two_thirds, 100, None, 50]}
    assert found.top1 == pytest.approx(100 * 8 / 12)
    assert found.samples == 12


class Together:
    """Stands for ranks whose predictions are made already; the first of them asks."""

    def __init__(self, parts: list[Predictions]):
        self.parts = parts

    def gather(self, arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        return [{name: getattr(part, name) for name in arrays} for part in self.parts]


@pytest.mark.parametrize("world", [1, 2, 3, 400])
def test_predictions_of_all_ranks_are_in_the_order_of_the_data(section, world):
    """Also where ranks have no sample at all."""
    parts = [
        predict(Linear(), build_loader(section(64), 0, rank, world))
        for rank in (range(world) if world < 10 else (0, 1, 359, 399))
    ]
    found = parts[0].of_all(Together(parts))
    logits, labels = all_logits(section())
    log_p = Rounded(logits).log_softmax()
    order = np.argsort(-logits, -1)[:, :5]
    chosen = np.arange(360) if world < 10 else np.array([0, 1, 359])
    np.testing.assert_array_equal(found.indices, chosen)
    np.testing.assert_array_equal(found.labels, labels[chosen])
    np.testing.assert_array_equal(found.classes, order[chosen])
    log_p[chosen[:, None], order[chosen]].exp().check(found.probabilities)
    (-log_p[chosen, labels[chosen]]).check(found.losses)


def test_predictions_do_not_depend_on_workers(section):
    here = predict(Linear(), build_loader(section(50), 0))
    workers = predict(Linear(), build_loader(section(50, num_workers=2), 0))
    np.testing.assert_array_equal(workers.indices, np.arange(360))
    np.testing.assert_array_equal(workers.classes, here.classes)
    np.testing.assert_array_equal(workers.probabilities, here.probabilities)


def test_predictions_are_sorted_by_index(section):
    """And a sample that two ranks have, as in a shuffled order of odd length, is there once."""
    shuffled = {**section(64), "sampler": {"batch_size": 64, "shuffle": True}}
    found = predict(Linear(), build_loader(shuffled, 0))
    assert found.indices.tolist() != list(range(360))
    twice = Together([found, found])
    straight = predict(Linear(), build_loader(section(64), 0))
    np.testing.assert_array_equal(found.of_all(twice).indices, straight.indices)
    np.testing.assert_array_equal(found.of_all(twice).classes, straight.classes)


VALID = [1, 3, 4, 6, 8, 9]


def with_valid_labels(section, labels):
    """A loader of the samples of these classes, whose dataset names them as the only ones."""
    loader = build_loader(section, 0)
    dataset = loader.dataset
    kept = [index for index in range(360) if dataset.labels[index] in labels]
    dataset.labels = dataset.labels[kept]
    dataset.images = [dataset.images[index] for index in kept]
    dataset.valid_labels = list(labels)
    loader.sampler.samples = len(kept)
    return loader, np.array(kept)


@pytest.mark.parametrize("valid", [VALID, [2, 7, 9]])
def test_only_valid_labels_are_compared(section, valid):
    """Scores as if the network had these outputs only; predictions keep their numbers. With three
    classes every image is among the five best.
    """
    loader, kept = with_valid_labels(section(50), valid)
    logits, labels = all_logits(section())
    log_p = Rounded(logits[kept][:, valid]).log_softmax()
    wanted = expected(log_p, np.searchsorted(valid, labels[kept]))
    check(evaluate(Linear(), loader), wanted)
    found = predict(Linear(), loader, valid)
    best = np.argsort(-log_p.value, -1)[:, :5]
    np.testing.assert_array_equal(found.classes, np.array(valid)[best])
    log_p[np.arange(len(kept))[:, None], best].exp().check(found.probabilities)
    unrestricted = score(predict(Linear(), loader), 10)
    assert unrestricted.top1 < wanted["top1"]


def test_flip_is_the_mean_softmax(section):
    """Of the image and its mirror image, also among valid labels."""
    (straight, labels), (mirrored, _) = all_logits(section()), all_logits(section(), mirror=True)
    assert not np.allclose(straight, mirrored)
    loader = build_loader(section(64), 0)
    wanted = expected(mean_softmax(straight, mirrored).log(), labels)
    check(score(predict(Linear(), loader, None, VIEWS["flip"]), 10), wanted)
    loader, kept = with_valid_labels(section(64), VALID)
    mean = mean_softmax(*(logits[kept][:, VALID] for logits in (straight, mirrored)))
    wanted = expected(mean.log(), np.searchsorted(VALID, labels[kept]))
    check(score(predict(Linear(), loader, VALID, VIEWS["flip"]), 10), wanted)


def mean_softmax(*logits: np.ndarray) -> Rounded:
    first, second = (Rounded(part).log_softmax().exp() for part in logits)
    return (first + second) / 2


def test_mean_softmax_of_certain_and_opposite_views():
    """By hand: (1 + e^-200) / 2 each, though e^-200 is too small for float32."""
    found = averaged([paddle.to_tensor([[100.0, -100.0]]), paddle.to_tensor([[-100.0, 100.0]])])
    # Logarithms up to 200 are added and taken from each other.
    np.testing.assert_allclose(found.numpy(), [[math.log(0.5)] * 2], rtol=0, atol=400 * 2**-24)


def test_correct_predictions():
    labels, classes = np.array([1, 2, 0]), np.array([[1, 2, 0], [0, 2, 1], [3, 2, 1]])
    none = np.zeros(3, np.float32)
    found = Predictions(np.arange(3), labels, classes, none, none, 1.0)
    assert [found.correct(k).tolist() for k in (1, 2, 5)] == [
        [True, False, False],
        [True, True, False],
        [True, True, False],
    ]


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_outputs_that_are_not_finite(section, value):
    model = Linear()
    model.forward = lambda images: paddle.full([images.shape[0], 10], float(value))
    with pytest.raises(RunError, match="outputs are not finite"):
        evaluate(model, build_loader(section(), 0))
