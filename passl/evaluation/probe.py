"""Classification of features without training a network: k nearest neighbours and ridge regression.

N training samples, Q queries, D features, K classes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from passl.errors import ConfigError, shortened
from passl.evaluation.feature_file import Features

_SIMILARITIES = 2**25
"""Similarities that are computed at once, 256 MB."""
_DECIMALS = 10
"""Of a similarity. Equal features can have similarities that differ by rounding, about 1e-15."""
_SAME = ("architecture", "weights", "layer", "dense", "transforms")
"""What two files must have been computed with to be compared."""


@dataclass(frozen=True)
class Options:
    """Which probes are fitted.

    Args:
        k: numbers of neighbours.
        temperature: neighbours vote with exp(similarity / temperature), as in DINO (Caron et al.,
            arXiv 2104.14294), which uses 0.07; null: each has one vote.
        ridge: regularisation strengths; needs scikit-learn unless empty.
        shots: numbers of training samples of each class; empty for all samples.
        seeds: of the random choice of these samples.
    """

    k: Sequence[int] = (1, 5, 20)
    temperature: float | None = None
    ridge: Sequence[float] = (1.0, 10.0, 100.0)
    shots: Sequence[int] = ()
    seeds: Sequence[int] = (0, 1, 2, 3, 4)


def probe(train: Features, val: Features, options: Options) -> list[dict[str, Any]]:
    """Fit probes on the features of one file and score them on those of another.

    Returns:
        A row for each probe: `probe` (knn or ridge), `value` (k or the regularisation), `shots`,
        `top1` in per cent, and `std`: with `shots`, top1 is the mean over the seeds and std their
        sample standard deviation (null for one seed).

    Raises:
        ConfigError: an option is out of range, the files do not belong together, or training
            samples are too few.
    """
    problems = [*_option_problems(options), *_file_problems(train, val)]
    if not problems:
        problems += _size_problems(train, options)
    if problems:
        raise ConfigError(*problems)
    train_ND, val_QD = (np.asarray(f.values, np.float64) for f in (train, val))
    if not options.shots:
        found = _scores(train_ND, train.labels, val_QD, val.labels, options)
        return [_row(*key, None, [score]) for key, score in found.items()]
    rows = []
    for shots in options.shots:
        of_seeds = []
        for seed in options.seeds:
            chosen = choose_shots(train.labels, shots, seed)
            data = (train_ND[chosen], train.labels[chosen], val_QD, val.labels)
            of_seeds.append(_scores(*data, options))
        rows += [_row(*key, shots, [found[key] for found in of_seeds]) for key in of_seeds[0]]
    return rows


def choose_shots(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Return the indices of so many random samples of each class, in ascending order. More shots
    with the same seed contain the same samples.
    """
    chosen = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        chosen.append(np.random.default_rng((seed, int(label))).permutation(own)[:shots])
    return np.sort(np.concatenate(chosen))


def nearest(train_ND: np.ndarray, val_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and cosine similarities [Q, k] of the k nearest training samples, nearest
    first; of equally near ones, the one with the smaller index.
    """
    train_ND, val_QD = _normalized(train_ND), _normalized(val_QD)
    indices, similarities = [], []
    step = max(1, _SIMILARITIES // len(train_ND))
    for start in range(0, len(val_QD), step):
        all_QN = np.round(val_QD[start : start + step] @ train_ND.T, _DECIMALS)
        least_Q = np.partition(all_QN, -k, axis=1)[:, -k]
        for row_N, least in zip(all_QN, least_Q, strict=True):
            candidates = np.flatnonzero(row_N >= least)
            best = candidates[np.argsort(-row_N[candidates], kind="stable")[:k]]
            indices.append(best)
            similarities.append(row_N[best])
    return np.stack(indices), np.stack(similarities)


def vote(
    labels_Qk: np.ndarray, similarities_Qk: np.ndarray, temperature: float | None
) -> np.ndarray:
    """Return the class [Q] with the most votes of the neighbours; of equal ones, the first."""
    votes_Qk = np.ones(labels_Qk.shape)
    if temperature is not None:
        votes_Qk = np.exp((similarities_Qk - similarities_Qk.max(1, keepdims=True)) / temperature)
    votes_QK = np.zeros((len(labels_Qk), labels_Qk.max() + 1))
    np.add.at(votes_QK, (np.arange(len(labels_Qk))[:, None], labels_Qk), votes_Qk)
    return votes_QK.argmax(1)


def fit_ridge(train_ND: np.ndarray, labels_N: np.ndarray, alpha: float) -> Any:
    """Fit a ridge classifier: least squares on targets of +1 and -1, with a bias and an L2 penalty
    `alpha` on the weights, solved in closed form. Features are standardised first, by the mean and
    standard deviation of these samples.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = RidgeClassifier(alpha=alpha, solver="cholesky")
    return make_pipeline(StandardScaler(), classifier).fit(train_ND, labels_N)


def _scores(
    train_ND: np.ndarray,
    labels_N: np.ndarray,
    val_QD: np.ndarray,
    labels_Q: np.ndarray,
    options: Options,
) -> dict[tuple[str, float], float]:
    found: dict[tuple[str, float], np.ndarray] = {}
    if options.k:
        indices, similarities = nearest(train_ND, val_QD, max(options.k))
        for k in options.k:
            neighbours = labels_N[indices[:, :k]]
            found["knn", k] = vote(neighbours, similarities[:, :k], options.temperature)
    for alpha in options.ridge:
        found["ridge", alpha] = fit_ridge(train_ND, labels_N, alpha).predict(val_QD)
    return {key: 100 * float((answer == labels_Q).mean()) for key, answer in found.items()}


def _row(name: str, value: float, shots: int | None, scores: Sequence[float]) -> dict[str, Any]:
    std = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    mean = float(np.mean(scores))
    return {"probe": name, "value": value, "shots": shots, "top1": mean, "std": std}


def _normalized(x: np.ndarray) -> np.ndarray:
    """Return rows of length 1; a row of zeros is near to none."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)


def _option_problems(options: Options) -> Iterator[str]:
    rules: Mapping[str, tuple[Sequence[float], float]] = {
        "--k": (options.k, 1),
        "--shots": (options.shots, 1),
        "--seeds": (options.seeds, 0),
    }
    for name, (values, least) in rules.items():
        yield from (f"{name} {v} must be at least {least}" for v in values if v < least)
    positive = [("--ridge", alpha) for alpha in options.ridge]
    positive += [("--temperature", options.temperature)] if options.temperature is not None else []
    for name, value in positive:
        if not 0 < value < float("inf"):
            yield f"{name} {value:g} must be a number above 0"
    if not options.k and not options.ridge:
        yield "--k and --ridge are both empty; name a value of one of them"
    if options.shots and not options.seeds:
        yield "--shots needs --seeds"
    if options.ridge and importlib.util.find_spec("sklearn") is None:
        yield (
            "--ridge needs scikit-learn; install it: pip install scikit-learn, or leave the ridge "
            "probe out by --ridge without a value"
        )


def _file_problems(train: Features, val: Features) -> Iterator[str]:
    for name, found in (("TRAIN", train), ("VAL", val)):
        unlabelled = ((found.labels < 0) | (found.labels >= len(found.classes))).sum()
        if unlabelled or not len(found.labels):
            yield f"{name}: {unlabelled} of {len(found.labels)} samples have no label of a class"
        if found.values.ndim != 2:
            yield f"{name}: has feature maps {found.values.shape[1:]}; write it without --dense"
    if train.classes != val.classes:
        single = sorted(set(train.classes) ^ set(val.classes))
        which = f"only one has {shortened(single)}" if single else "their order differs"
        yield f"TRAIN and VAL have other class names: {which}; write both from one config"
    differing = [key for key in _SAME if train.about.get(key) != val.about.get(key)]
    if differing or train.values.shape[1:] != val.values.shape[1:]:
        yield (
            f"TRAIN and VAL are not comparable: {', '.join(differing) or 'their width'} differs; "
            "write both with the same weights, layer and transforms"
        )


def _size_problems(train: Features, options: Options) -> Iterator[str]:
    counts = np.bincount(train.labels, minlength=len(train.classes))
    present = counts > 0
    if options.ridge and present.sum() < 2:
        yield "TRAIN: the ridge probe needs samples of two classes at least"
    for shots in options.shots:
        short = [train.classes[i] for i in np.flatnonzero(present & (counts < shots))]
        if short:
            yield f"--shots {shots}: TRAIN has fewer images of the classes {shortened(short)}"
    samples = min(options.shots) * int(present.sum()) if options.shots else len(train.labels)
    for k in options.k:
        if k > samples:
            yield f"--k {k} is more than the {samples} training samples; choose a smaller k"
