"""Losses against their formulas, computed by numpy in double precision."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from passl.errors import ConfigError
from passl.modeling.losses import Distilled, Supervised, balanced_weights, build_loss
from tests.numerics import Rounded

RNG = np.random.default_rng(0)
LOGITS = np.float32(RNG.standard_normal((6, 4)) * 3)
LABELS = np.array([0, 1, 2, 3, 0, 1])
ONE_HOT = np.eye(4)[LABELS]
MIXED = 0.3 * ONE_HOT + 0.7 * ONE_HOT[::-1]


def tensor(array: np.ndarray):
    return paddle.to_tensor(array if array.dtype == np.int64 else array.astype("float32"))


def check(found: float, expected: Rounded) -> None:
    expected.map(np.ravel)[0].check(found, np.float32)


def cross_entropy(targets) -> Rounded:
    """With targets that float32 has rounded twice: smoothed and mixed."""
    targets = Rounded(targets, 2 * np.abs(targets))
    return -(targets * Rounded(LOGITS).log_softmax()).sum().mean(None)


def value(section: dict, targets: np.ndarray) -> float:
    return build_loss(section)(tensor(LOGITS), tensor(targets)).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_labels_matches_paddle(smoothing):
    expected = cross_entropy(ONE_HOT * (1 - smoothing) + smoothing / 4)
    check(F.cross_entropy(tensor(LOGITS), tensor(LABELS), label_smoothing=smoothing), expected)
    check(value({"name": "CrossEntropy", "label_smoothing": smoothing}, LABELS), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_targets_are_smoothed_once_as_timms_mixup_does(smoothing):
    """timm smooths each one-hot target and then mixes them; we mix and then smooth."""
    on, off = 1 - smoothing + smoothing / 4, smoothing / 4
    smoothed = np.where(ONE_HOT == 1, on, off)
    targets = 0.3 * smoothed + 0.7 * smoothed[::-1]
    ours = value({"name": "CrossEntropy", "label_smoothing": smoothing}, MIXED)
    check(ours, cross_entropy(targets))


def test_labels_and_one_hot_targets_have_the_same_loss():
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
    soft, logits = Rounded(soft, 3 * soft), Rounded(LOGITS)
    losses = soft * softplus(-logits) + (1 - soft) * softplus(logits)
    expected = (losses.sum() if sum_classes else losses).mean(None)
    section = {"name": "BinaryCrossEntropy", "label_smoothing": 0.1, "sum_classes": sum_classes}
    check(value({**section, "target_threshold": threshold}, targets), expected)


def softplus(x: Rounded) -> Rounded:
    """-log sigmoid(-x)."""
    return (1 + x.exp()).log()


# --------------------------------------------------------------------------------------------------
# Class weights: tests/parity/test_losses.py has PyTorch's own
# --------------------------------------------------------------------------------------------------
WEIGHTS = np.array([0.5, 2.0, 0.25, 4.0])
SAME = 1e-5
"""Two forms of a loss here differ by less, relatively: it is a sum of at most 24 products of one
sign, each with some 50 roundings, so off by about 75 * 2^-24 either way.
"""


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [LABELS, MIXED])
def test_weighted_cross_entropy(smoothing, targets):
    soft = np.eye(4)[targets] if targets.ndim == 1 else targets
    smoothed = soft * (1 - smoothing) + smoothing / 4
    soft, smoothed = (Rounded(array, 3 * array) for array in (soft, smoothed))
    losses = -(smoothed * WEIGHTS * Rounded(LOGITS).log_softmax()).sum(None)
    expected = losses / (soft * WEIGHTS).sum(None)
    section = {"name": "CrossEntropy", "label_smoothing": smoothing}
    ours = value({**section, "class_weights": WEIGHTS.tolist()}, targets)
    check(ours, expected)
    # Only proportions matter, and equal ones change nothing.
    for factor in (1e-9, 1e9):
        scaled = value({**section, "class_weights": (WEIGHTS * factor).tolist()}, targets)
        assert scaled == pytest.approx(ours, rel=SAME)
    even = value({**section, "class_weights": [3, 3, 3, 3]}, targets)
    assert even == pytest.approx(value(section, targets), rel=SAME)


@pytest.mark.parametrize("name", ["CrossEntropy", "BinaryCrossEntropy"])
def test_weight_three_equals_three_samples(name):
    """So balanced weights are what a dataset with as many samples of each class would give."""
    rows = np.array([0, 1, 1, 1, 2, 3, 4, 5, 5, 5])
    loss = build_loss({"name": name, "class_weights": [1, 3, 1, 1]})
    plain = build_loss({"name": name})
    repeated = plain(tensor(LOGITS[rows]), tensor(LABELS[rows])).item()
    assert loss(tensor(LOGITS), tensor(LABELS)).item() == pytest.approx(repeated, rel=SAME)


@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("sum_classes", [False, True])
@pytest.mark.parametrize("targets", [LABELS, MIXED])
def test_weighted_binary_cross_entropy(threshold, sum_classes, targets):
    section = {"name": "BinaryCrossEntropy", "label_smoothing": 0.1, "sum_classes": sum_classes}
    section |= {"target_threshold": threshold}
    soft = np.eye(4)[targets] if targets.ndim == 1 else targets
    weights = (soft * WEIGHTS).sum(-1)
    loss = build_loss(section)
    own = [loss(tensor(LOGITS[i : i + 1]), tensor(targets[i : i + 1])).item() for i in range(6)]
    ours = value({**section, "class_weights": WEIGHTS.tolist()}, targets)
    assert ours == pytest.approx((weights * own).sum() / weights.sum(), rel=SAME)


@pytest.mark.parametrize("name", ["CrossEntropy", "BinaryCrossEntropy"])
def test_labels_and_one_hot_targets_have_the_same_weighted_loss(name):
    section = {"name": name, "label_smoothing": 0.1, "class_weights": WEIGHTS.tolist()}
    assert value(section, LABELS) == pytest.approx(value(section, ONE_HOT), rel=SAME)


def test_classes_without_weight():
    """They do not count; a batch of nothing else has loss 0, and gradients that are 0."""
    section = {"name": "CrossEntropy", "class_weights": [0, 1, 0, 1]}
    counted = np.isin(LABELS, [1, 3])
    losses = -Rounded(LOGITS).log_softmax()[np.arange(6), LABELS]
    check(value(section, LABELS), losses[counted].mean())
    logits = tensor(LOGITS)
    logits.stop_gradient = False
    loss = build_loss(section)(logits, tensor(np.zeros(6, np.int64)))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad.numpy() == 0).all()


def test_balanced_weights_match_scikit_learn():
    """compute_class_weight("balanced") of scikit-learn 1.9.1 for 6, 3, 1 and 2 samples. A class
    that the data leaves out does not count.
    """
    assert balanced_weights([6, 3, 1, 2]) == [0.5, 1.0, 3.0, 1.5]
    assert balanced_weights([6, 3, 0, 1, 2]) == [0.5, 1.0, 0.0, 3.0, 1.5]
    section = {"name": "CrossEntropy", "class_weights": "balanced"}
    ours = build_loss(section, [6, 3, 1, 2])(tensor(LOGITS), tensor(LABELS)).item()
    named = {"name": "CrossEntropy", "class_weights": [0.5, 1.0, 3.0, 1.5]}
    assert ours == value(named, LABELS)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "CrossEntropy", "class_weights": "balanced"}, "needs the training data's counts"),
        ({"name": "CrossEntropy", "class_weights": [1, -1, 1, 1]}, "-1 must be finite and not"),
        (
            {"name": "CrossEntropy", "label_smoothing": 1.0},
            "label_smoothing: must be a number of at least 0 and below 1",
        ),
        (
            {"name": "BinaryCrossEntropy", "target_threshold": 1.0},
            "target_threshold: must be a number of at least 0 and below 1",
        ),
        ({"name": "CrossEntrpy"}, "no loss 'CrossEntrpy'; did you mean 'CrossEntropy'"),
    ],
)
def test_wrong_options_of_losses(section, message):
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


TEACHER = np.float32(RNG.standard_normal((6, 4)) * 3)


@pytest.mark.parametrize(("kind", "alpha"), [("hard", 0.5), ("soft", 0.3), ("soft", 0.0)])
def test_distillation(kind, alpha):
    student, teacher = Fixed(LOGITS), Fixed(TEACHER)
    student.eval()
    base = build_loss({"name": "CrossEntropy", "label_smoothing": 0.1})
    objective = Distilled(base, teacher, kind=kind, alpha=alpha, temperature=2.0)
    ours = objective(student, None, tensor(LABELS))

    own = cross_entropy(ONE_HOT * 0.9 + 0.1 / 4)
    if kind == "hard":
        far = cross_entropy(np.eye(4)[TEACHER.argmax(-1)])
    else:
        t, s = (Rounded(logits / 2).log_softmax() for logits in (TEACHER, LOGITS))
        far = 4 * (t.exp() * (t - s)).sum().mean(None)
    check(ours, (1 - alpha) * own + alpha * far)
    ours.backward()
    assert teacher.logits.grad is None
    assert student.logits.grad is not None


def test_student_equal_to_its_teacher_has_distance_zero():
    model = Fixed(LOGITS)
    model.eval()
    base = build_loss({"name": "CrossEntropy"})
    objective = Distilled(base, Fixed(LOGITS), kind="soft", alpha=1.0, temperature=2.0)
    logs = Rounded(LOGITS / 2).log_softmax()
    check(objective(model, None, tensor(LABELS)), 4 * (logs.exp() * (logs - logs)).sum().mean(None))
    assert Supervised(base)(model, None, tensor(LABELS)).item() > 0


@pytest.mark.parametrize("options", [{"kind": "warm"}, {"alpha": 1.5}, {"temperature": 0.0}])
def test_wrong_options_of_distillation(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Distilled(build_loss({"name": "CrossEntropy"}), Fixed(TEACHER), **options)
