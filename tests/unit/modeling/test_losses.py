"""Losses against their formulas, computed by numpy in double precision."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from passl.modeling.losses import Distilled, Supervised, build_loss
from passl.utils.errors import ConfigError

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((6, 4)) * 3
LABELS = np.array([0, 1, 2, 3, 0, 1])
ONE_HOT = np.eye(4)[LABELS]
MIXED = 0.3 * ONE_HOT + 0.7 * ONE_HOT[::-1]


def tensor(array: np.ndarray):
    return paddle.to_tensor(array if array.dtype == np.int64 else array.astype("float32"))


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def value(section: dict, targets: np.ndarray) -> float:
    return build_loss(section)(tensor(LOGITS), tensor(targets)).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_labels_is_paddles(smoothing):
    expected = F.cross_entropy(tensor(LOGITS), tensor(LABELS), label_smoothing=smoothing).item()
    ours = value({"name": "CrossEntropy", "label_smoothing": smoothing}, LABELS)
    assert ours == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_targets_are_smoothed_once_as_timms_mixup_does(smoothing):
    """timm smooths each one-hot target and then mixes them; we mix and then smooth."""
    on, off = 1 - smoothing + smoothing / 4, smoothing / 4
    smoothed = np.where(ONE_HOT == 1, on, off)
    targets = 0.3 * smoothed + 0.7 * smoothed[::-1]
    expected = -(targets * log_softmax(LOGITS)).sum(-1).mean()
    ours = value({"name": "CrossEntropy", "label_smoothing": smoothing}, MIXED)
    assert ours == pytest.approx(expected, rel=1e-6)


def test_labels_and_their_one_hot_targets_are_one_thing():
    for name in ("CrossEntropy", "BinaryCrossEntropy"):
        section = {"name": name, "label_smoothing": 0.1}
        assert value(section, LABELS) == value(section, ONE_HOT)


@pytest.mark.parametrize("threshold", [None, 0.2, 0.5])
@pytest.mark.parametrize("sum_classes", [False, True])
@pytest.mark.parametrize("targets", [LABELS, MIXED])
def test_binary_cross_entropy(threshold, sum_classes, targets):
    soft = np.eye(4)[targets] if targets.ndim == 1 else targets
    soft = soft * 0.9 + 0.1 / 4
    if threshold is not None:
        soft = (soft > threshold).astype(float)
    p = 1 / (1 + np.exp(-LOGITS))
    losses = -(soft * np.log(p) + (1 - soft) * np.log(1 - p))
    expected = losses.sum(-1).mean() if sum_classes else losses.mean()
    section = {"name": "BinaryCrossEntropy", "label_smoothing": 0.1, "sum_classes": sum_classes}
    assert value({**section, "target_threshold": threshold}, targets) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "CrossEntropy", "label_smoothing": 1.0}, "label_smoothing 1.0 must be"),
        ({"name": "BinaryCrossEntropy", "target_threshold": 1.0}, "target_threshold 1.0 must be"),
        ({"name": "CrossEntrpy"}, "no loss 'CrossEntrpy'; did you mean 'CrossEntropy'"),
    ],
)
def test_losses_refuse(section, message):
    with pytest.raises(ConfigError, match=message):
        build_loss(section)


class Fixed(nn.Layer):
    """Gives the same logits whatever it sees."""

    def __init__(self, logits: np.ndarray):
        super().__init__()
        self.logits = self.create_parameter(list(logits.shape))
        self.logits.set_value(logits.astype("float32"))
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(self.logits)


TEACHER = RNG.standard_normal((6, 4)) * 3


@pytest.mark.parametrize(("kind", "alpha"), [("hard", 0.5), ("soft", 0.3), ("soft", 0.0)])
def test_distillation(kind, alpha):
    student, teacher = Fixed(LOGITS), Fixed(TEACHER)
    student.eval()
    base = build_loss({"name": "CrossEntropy", "label_smoothing": 0.1})
    objective = Distilled(base, teacher, kind=kind, alpha=alpha, temperature=2.0)
    ours = objective(student, None, tensor(LABELS))

    smoothed = ONE_HOT * 0.9 + 0.1 / 4
    own = -(smoothed * log_softmax(LOGITS)).sum(-1).mean()
    if kind == "hard":
        far = -log_softmax(LOGITS)[np.arange(6), TEACHER.argmax(-1)].mean()
    else:
        t, s = log_softmax(TEACHER / 2), log_softmax(LOGITS / 2)
        far = 4 * (np.exp(t) * (t - s)).sum(-1).mean()
    assert ours.item() == pytest.approx((1 - alpha) * own + alpha * far, rel=1e-5)
    ours.backward()
    assert teacher.logits.grad is None
    assert student.logits.grad is not None


def test_a_student_like_its_teacher_has_nothing_to_learn_from_it():
    model = Fixed(LOGITS)
    model.eval()
    base = build_loss({"name": "CrossEntropy"})
    objective = Distilled(base, Fixed(LOGITS), kind="soft", alpha=1.0)
    assert objective(model, None, tensor(LABELS)).item() == pytest.approx(0, abs=1e-6)
    assert Supervised(base)(model, None, tensor(LABELS)).item() > 0


@pytest.mark.parametrize("options", [{"kind": "warm"}, {"alpha": 1.5}, {"temperature": 0.0}])
def test_distillation_refuses(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Distilled(build_loss({"name": "CrossEntropy"}), Fixed(TEACHER), **options)
