"""The scores of a model on corrupted images, by ImageNet-C's definitions (arXiv 1903.12261)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from passl.data.loader import Loader
from passl.data.transforms.corruption import (
    KINDS,
    SEVERITIES,
    Corruption,
    Kind,
    definition,
)
from passl.data.transforms.normalize import Normalize
from passl.data.transforms.sizes import sizes_made
from passl.errors import ConfigError
from passl.evaluation.tables import write_csv
from passl.logging import get_logger


@dataclass(frozen=True)
class Robustness:
    """Scores on corrupted images, in percent.

    Args:
        score: the name of the score.
        definition: of the corruptions, with the size of the images.
        clean: the score on the images as they are.
        scores: corruption -> severity -> score.
    """

    score: str
    definition: str
    clean: float
    scores: Mapping[str, Mapping[int, float]]

    def mean(self, kinds: Sequence[str] | None = None) -> float:
        """The mean score over all severities of some corruptions; of all by default."""
        return fmean(s for kind in kinds or self.scores for s in self.scores[kind].values())

    def drop(self, score: float) -> float | None:
        """How much of the clean score is lost, in percent of it; null if the clean score is 0."""
        return 100 * (self.clean - score) / self.clean if self.clean else None

    def to_dict(self) -> dict[str, Any]:
        """As plain data; severities are texts, as JSON's keys are."""
        return {
            "score": self.score,
            "definition": self.definition,
            "clean": self.clean,
            "mean": self.mean(),
            "relative_drop": self.drop(self.mean()),
            "corruptions": {
                kind: {
                    "mean": self.mean([kind]),
                    "relative_drop": self.drop(self.mean([kind])),
                    "severities": {str(severity): score for severity, score in scores.items()},
                }
                for kind, scores in self.scores.items()
            },
        }


def check_corruptible(loader: Loader) -> None:
    """Check that the images of a loader can be corrupted.

    Raises:
        ConfigError: its transforms have no Normalize or are corrupted already, or it is shuffled.
    """
    transforms = loader.samples.transforms
    place = "dataloader.val.dataset.transforms"
    if not any(isinstance(transform, Normalize) for transform in transforms):
        raise ConfigError(
            f"--corruptions: {place} has no Normalize, before which images are corrupted; add it, "
            "or leave --corruptions out"
        )
    if any(isinstance(transform, Corruption) for transform in transforms):
        raise ConfigError(f"--corruptions: {place} has a Corruption already; leave one of them out")
    if loader.sampler.shuffle:
        raise ConfigError(
            "--corruptions: dataloader.val.sampler.shuffle is true, so an image would get another "
            "noise in each order; set it to false"
        )


def measure(
    loader: Loader,
    evaluate: Callable[[], float],
    score: str,
    clean: float,
    kinds: Sequence[Kind] = KINDS,
    severities: Sequence[int] = SEVERITIES,
    is_first: bool = True,
) -> Robustness:
    """Evaluate on corrupted images, and log the scores. Images are corrupted after all transforms
    before `Normalize`: in the size in which the network gets them.

    The noise of an image follows from its index alone, so that any two evaluations compare.

    Args:
        loader: its samples are replaced meanwhile.
        evaluate: returns the score on the loader's images.
        score: the name of the score.
        clean: the score on the images as they are.
        kinds, severities: which corruptions, see `Corruption`.
        is_first: whether this rank logs.

    Raises:
        ConfigError: see `check_corruptible`.
    """
    check_corruptible(loader)
    samples = loader.samples
    log = get_logger().info if is_first else lambda *_: None
    place = next(i for i, each in enumerate(samples.transforms) if isinstance(each, Normalize))
    before, after = samples.transforms[:place], samples.transforms[place:]
    scores: dict[str, dict[int, float]] = {}
    found = Robustness(score, _definition(loader), clean, scores)
    log("corruptions: %s", found.definition)
    try:
        for kind in dict.fromkeys(kinds):
            scores[kind] = {}
            for severity in sorted(set(severities)):
                transforms = [*before, Corruption(kind=kind, severity=severity), *after]
                loader.samples = samples.with_transforms(transforms, seed=0)
                scores[kind][severity] = evaluate()
            values = " ".join(f"{value:.2f}" for value in scores[kind].values())
            log("%s: %s %s %%, mean %.2f %%", kind, score, values, found.mean([kind]))
    finally:
        loader.samples = samples
    drop = found.drop(found.mean())
    lost = "" if drop is None else f", a relative drop of {drop:.2f} %"
    log("corruptions: clean %s %.2f %%, mean %.2f %%%s", score, clean, found.mean(), lost)
    return found


def _definition(loader: Loader) -> str:
    data = loader.dataset
    sizes = sizes_made(loader.samples.transforms, data.image_size, data.mode, lambda: data)
    if len(sizes) == 1:
        return definition(*next(iter(sizes)))
    return "ImageNet-C's definitions, for images of several sizes"


def write_robustness(path: Path, found: Robustness) -> None:
    """Write a row for the clean images, for each corruption and for their mean."""
    severities = list(next(iter(found.scores.values())))
    means = [fmean(scores[s] for scores in found.scores.values()) for s in severities]
    rows: list[tuple[str, Sequence[float | None], float]] = [
        ("clean", [None] * len(severities), found.clean),
        *((kind, [*row.values()], found.mean([kind])) for kind, row in found.scores.items()),
        ("mean", means, found.mean()),
    ]
    write_csv(
        path,
        [
            *("corruption", "score", *(f"severity_{severity}" for severity in severities)),
            *("mean", "relative_drop", "definition"),
        ],
        [
            [name, found.score, *map(_percent, [*row, mean, found.drop(mean)]), found.definition]
            for name, row, mean in rows
        ],
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
