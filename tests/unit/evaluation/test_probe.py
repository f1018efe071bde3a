"""The probes against brute force in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from passl.errors import ConfigError
from passl.evaluation import probe as module
from passl.evaluation.feature_file import Features
from passl.evaluation.probe import Options, choose_shots, fit_ridge, nearest, probe, vote

ABOUT = {"architecture": {"name": "CvT"}, "weights": "1", "layer": None, "dense": False}


def features(count: int, classes: int = 3, width: int = 8, seed: int = 0, **about) -> Features:
    """Classes that overlap, so that no probe is always right."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, width))
    values = (centres[labels] + 1.5 * rng.normal(size=(count, width))).astype("float32")
    names = [f"class {label}" for label in range(classes)]
    return Features(values, labels, labels.astype(str), names, ABOUT | about)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype("float64"), b.astype("float64")
    return sum(a * b) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5)


def brute_force_knn(train, val, k, temperature) -> float:
    right = 0
    for query, label in zip(val.values, val.labels, strict=True):
        near = [(-cosine(row, query), i) for i, row in enumerate(train.values)]
        votes = dict.fromkeys(range(len(train.classes)), 0.0)
        for distance, i in sorted(near)[:k]:
            votes[train.labels[i]] += 1 if temperature is None else np.exp(-distance / temperature)
        right += max(votes, key=lambda c: (votes[c], -c)) == label
    return 100 * right / len(val.labels)


@pytest.mark.parametrize("temperature", [None, 0.07])
def test_knn_equals_brute_force(monkeypatch, temperature):
    train, val = features(61), features(40, seed=1)
    ks = (1, 4, 9)
    expected = [brute_force_knn(train, val, k, temperature) for k in ks]
    assert 0 < min(expected) <= max(expected) < 100
    for at_once in (1, 7 * 61, 2**25):  # similarities: blocks of 1, of 7 and of all queries
        monkeypatch.setattr(module, "_SIMILARITIES", at_once)
        rows = probe(train, val, Options(k=ks, temperature=temperature, ridge=()))
        assert [(row["probe"], row["value"]) for row in rows] == [("knn", k) for k in ks]
        assert [row["top1"] for row in rows] == pytest.approx(expected, abs=1e-6)


def test_similarities_equal_brute_force():
    train, val = features(30), features(6, seed=1)
    indices, similarities = nearest(train.values, val.values, 30)
    for query, found, order in zip(val.values, similarities, indices, strict=True):
        expected = [cosine(train.values[i], query) for i in order]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert sorted(order) == list(range(30))
        assert (np.diff(found) <= 0).all()


def test_knn_equals_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    train, val = features(61), features(40, seed=1)
    (row,) = probe(train, val, Options(k=(5,), ridge=()))
    other = KNeighborsClassifier(5, metric="cosine", algorithm="brute")
    other.fit(train.values.astype("float64"), train.labels)
    expected = 100 * other.score(val.values.astype("float64"), val.labels)
    assert row["top1"] == pytest.approx(expected, abs=1e-6)


def test_of_equally_near_samples_the_first_count():
    """Copies of a few rows, at places where matrix products use different kernels."""
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(5, 33)).astype("float32")
    train = distinct[np.arange(203) % 5]
    scales = rng.uniform(0.5, 2, size=(203, 1)).astype("float32")
    for copies in (train, train * 2, train * scales.astype("float64")):
        indices, _ = nearest(copies, distinct, 4)
        assert indices.tolist() == [[row, row + 5, row + 10, row + 15] for row in range(5)]


def test_of_equal_votes_the_first_class_wins():
    labels = np.array([[2, 1, 1, 2], [2, 0, 1, 1], [2, 1, 0, 0]])
    similarities = np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.5, 0.1, 0.0], [0.9, 0.2, 0.1, 0.1]])
    assert vote(labels, similarities, None).tolist() == [1, 1, 0]
    assert vote(labels, similarities, 0.07).tolist() == [2, 0, 2]
    assert vote(labels, similarities, 1e-6).tolist() == [2, 0, 2]  # no overflow


@pytest.mark.parametrize("count", [61, 6])  # more samples than features, and fewer
@pytest.mark.parametrize("alpha", [0.5, 100.0])
def test_ridge_equals_the_normal_equations(count, alpha):
    train, val = features(count), features(40, seed=1)
    x, queries = train.values.astype("float64"), val.values.astype("float64")
    x[:, 3] = queries[:, 3] = 7  # a constant feature has no influence
    mean, std = x.mean(0), x.std(0)
    std[3] = 1
    x_ND, queries_QD = (x - mean) / std, (queries - mean) / std
    targets_NK = np.where(train.labels[:, None] == np.arange(3), 1.0, -1.0)
    weights_DK = np.linalg.solve(
        x_ND.T @ x_ND + alpha * np.eye(8), x_ND.T @ (targets_NK - targets_NK.mean(0))
    )
    expected_QK = queries_QD @ weights_DK + targets_NK.mean(0)
    found_QK = fit_ridge(x, train.labels, alpha).decision_function(queries)
    np.testing.assert_allclose(found_QK, expected_QK, atol=1e-6)


def test_ridge_scores():
    train, val = features(61), features(40, seed=1)
    rows = probe(train, val, Options(k=(), ridge=(0.1, 10)))
    for row, alpha in zip(rows, (0.1, 10), strict=True):
        answers = fit_ridge(train.values.astype("float64"), train.labels, alpha).predict(val.values)
        assert row["top1"] == pytest.approx(100 * (answers == val.labels).mean(), abs=1e-6)
        assert (row["probe"], row["value"], row["std"]) == ("ridge", alpha, None)


def test_few_shots_are_nested_and_balanced():
    labels = np.random.default_rng(0).integers(0, 3, 200)
    one, five = choose_shots(labels, 1, seed=4), choose_shots(labels, 5, seed=4)
    assert np.bincount(labels[one]).tolist() == [1, 1, 1]
    assert np.bincount(labels[five]).tolist() == [5, 5, 5]
    assert set(one) < set(five)
    assert set(five) != set(choose_shots(labels, 5, seed=5))


def test_few_shot_results_are_mean_and_deviation_of_single_ones():
    train, val = features(61), features(40, seed=1)
    seeds = (0, 3, 8)
    rows = probe(train, val, Options(k=(3,), ridge=(1.0,), shots=(2, 6), seeds=seeds))
    assert [(row["probe"], row["shots"]) for row in rows] == [
        *(("knn", 2), ("ridge", 2), ("knn", 6), ("ridge", 6))
    ]
    alone = []
    for seed in seeds:
        chosen = choose_shots(train.labels, 6, seed)
        few = Features(train.values[chosen], train.labels[chosen], chosen, train.classes, ABOUT)
        alone.append(probe(few, val, Options(k=(3,), ridge=(1.0,))))
    for row, *single in zip(rows[2:], *alone, strict=True):
        top1 = [other["top1"] for other in single]
        mean = sum(top1) / 3
        assert row["top1"] == pytest.approx(mean, abs=1e-6)
        std = (sum((x - mean) ** 2 for x in top1) / 2) ** 0.5
        assert row["std"] == pytest.approx(std, abs=1e-6)
    (row,) = probe(train, val, Options(k=(3,), ridge=(), shots=(2,), seeds=(1,)))
    assert row["std"] is None


def test_two_classes_and_a_class_that_is_only_in_val():
    train, val = features(20, classes=2), features(20, classes=2, seed=1)
    rows = probe(train, val, Options(k=(1,), ridge=(1.0,)))
    assert all(50 < row["top1"] <= 100 for row in rows)
    wide = features(21, classes=3, seed=1)
    train = Features(train.values, train.labels, train.names, wide.classes, ABOUT)
    for row in probe(train, wide, Options(k=(1,), ridge=(1.0,))):
        assert row["top1"] <= 100 * 14 / 21 + 1e-9


def changed(found: Features, **changes) -> Features:
    return Features(**{**vars(found), **changes})


TRAIN = features(12)


@pytest.mark.parametrize(
    ("train", "val", "options", "messages"),
    [
        (TRAIN, TRAIN, {"k": (13,)}, ["--k 13 is more than the 12 training samples"]),
        (TRAIN, TRAIN, {"k": (7,), "shots": (2, 4)}, ["--k 7 is more than the 6 training"]),
        (
            TRAIN,
            TRAIN,
            {"k": (), "shots": (4, 5)},
            ["--shots 5: TRAIN has fewer images of the classes"],
        ),
        (
            *(TRAIN, TRAIN, {"k": (0,), "ridge": (0.0,), "shots": (0,), "temperature": -1.0}),
            ["--k 0 must", "--ridge 0 must", "--shots 0 must", "--temperature -1 must"],
        ),
        (TRAIN, TRAIN, {"k": (1,), "ridge": (float("nan"),)}, ["--ridge nan must"]),
        (TRAIN, TRAIN, {"k": (1,), "seeds": (), "shots": (1,)}, ["--shots needs --seeds"]),
        (TRAIN, TRAIN, {"k": (), "ridge": ()}, ["--k and --ridge are both empty"]),
        (TRAIN, features(12, classes=2), {"k": (1,)}, ["only one has class 2"]),
        (
            *(TRAIN, changed(TRAIN, classes=TRAIN.classes[::-1]), {"k": (1,)}),
            ["their order differs"],
        ),
        (
            *(TRAIN, features(12, layer=1, weights="2"), {"k": (1,)}),
            ["weights, layer differs; write both with the same"],
        ),
        (TRAIN, features(12, width=9), {"k": (1,)}, ["their width differs"]),
        (
            *(TRAIN, changed(TRAIN, labels=TRAIN.labels - 1), {"k": (1,)}),
            ["VAL: 4 of 12 samples have no label"],
        ),
        (
            *(changed(TRAIN, values=np.zeros((12, 2, 2, 2))), TRAIN, {"k": (1,)}),
            ["TRAIN: has feature maps (2, 2, 2); write it without --dense"],
        ),
        (
            *(changed(TRAIN, labels=TRAIN.labels * 0), TRAIN, {"k": (1,)}),
            ["needs samples of two classes"],
        ),
    ],
)
def test_wrong_input(train, val, options, messages):
    with pytest.raises(ConfigError) as caught:
        probe(train, val, Options(**options))
    for message in messages:
        assert message in str(caught.value)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install scikit-learn"):
        probe(TRAIN, TRAIN, Options(k=(1,)))
    assert probe(TRAIN, TRAIN, Options(k=(1,), ridge=()))[0]["top1"] == 100
