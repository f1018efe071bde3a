"""The most confident mistakes of a network: found, drawn, and as thumbnails."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import paddle
from matplotlib.figure import Figure
from paddle import nn
from PIL import Image

from passl.analysis.evaluated import Evaluated
from passl.analysis.figures import SMALL, Group, Panel, draw_panels
from passl.data.datasets.base import ImageDataset
from passl.data.loader import Loader
from passl.evaluation.multilabel import MultilabelPredictions
from passl.evaluation.predictions import Predictions
from passl.io.masks import COLORS, IGNORED
from passl.modeling.layers import resized


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction for a sample.

    Args:
        name: of the sample, in its dataset.
        image: as the dataset has it, before transforms.
        label: the true class; of multi-label data all its labels; of segmentation nothing.
        wrong: what is wrong, such as `predicted dog: 97.1 %`.
        masks: of segmentation the true and the predicted mask, uint8 [height, width] each.
    """

    name: str
    image: Image.Image
    label: str
    wrong: str
    masks: tuple[np.ndarray, np.ndarray] | None = None

    def panels(self) -> list[Image.Image]:
        """The image; of segmentation also the image under its true and its predicted mask."""
        image = self.image.convert("RGB")
        overlays = [
            Image.blend(image, Image.fromarray(COLORS[mask]).resize(image.size, 0), 0.5)
            for mask in self.masks or ()
        ]
        return [image, *overlays]


@dataclass(frozen=True)
class Mistakes:
    """The worst mistakes, the worst first.

    Args:
        shown: some of them.
        total: samples with a mistake.
        samples: all samples.
        classes: names of all classes.
    """

    shown: list[Mistake]
    total: int
    samples: int
    classes: list[str]

    @property
    def title(self) -> str:
        """What is shown, as a sentence without a full stop."""
        shown, of = len(self.shown), f"of {self.total} mistakes on {self.samples} images"
        if self.shown and self.shown[0].masks:
            what = f"{shown} of {self.samples} images, the largest part of wrong pixels first"
            return f"{what}: image, label, prediction"
        return f"The worst {of}" if shown == 1 else f"{shown} {of}, the most confident first"

    def named(self, mask: np.ndarray) -> str:
        """The classes in a mask, the largest first."""
        labels, counts = np.unique(mask[mask != IGNORED], return_counts=True)
        return ", ".join(self.classes[label] for label in labels[np.argsort(-counts)])


def worst_mistakes(found: Evaluated, most: int) -> Mistakes:
    """Find the most confident mistakes on the validation data.

    The confidence of a mistake is the probability of the predicted class. Of multi-label data it is
    that of the worst decision about a label of the sample: the probability of a label that it does
    not have, or one minus that of a label that it has. Images of segmentation are ordered by the
    part of their labelled pixels that is wrong.

    Args:
        most: how many mistakes to return, at most.
    """
    if found.task == "segmentation":
        return _of_masks(found.model, found.loader, most)
    find = _of_labels if found.task == "multilabel" else _of_classes
    return find(found.found, found.loader.dataset, found.classes, most)


def _of_classes(
    found: Predictions, dataset: ImageDataset, classes: list[str], most: int
) -> Mistakes:
    wrong = np.flatnonzero(~found.correct(1))
    order = wrong[np.argsort(-found.probabilities[wrong, 0], kind="stable")]
    shown = []
    for row in order[:most]:
        predicted, index = classes[found.classes[row, 0]], int(found.indices[row])
        text = f"predicted {predicted}: {_percent(found.probabilities[row, 0])}"
        label = classes[found.labels[row]]
        shown.append(Mistake(dataset.name(index), dataset[index][0], label, text))
    return Mistakes(shown, len(wrong), len(found.labels), classes)


def _of_labels(
    found: MultilabelPredictions, dataset: ImageDataset, classes: list[str], most: int
) -> Mistakes:
    probabilities, is_wrong = found.probabilities, found.predicted != found.labels
    sure = np.where(is_wrong, np.where(found.labels, 1 - probabilities, probabilities), -1.0)
    worst = sure.argmax(1)
    confidences = sure.max(1)
    wrong = np.flatnonzero(is_wrong.any(1))
    order = wrong[np.argsort(-confidences[wrong], kind="stable")]
    shown = []
    for row in order[:most]:
        index, label = int(found.indices[row]), worst[row]
        how = "missed" if found.labels[row, label] else "predicted"
        text = f"{how} {classes[label]}: {_percent(probabilities[row, label])}"
        labels = ", ".join(classes[k] for k in np.flatnonzero(found.labels[row])) or "none"
        shown.append(Mistake(dataset.name(index), dataset[index][0], labels, text))
    return Mistakes(shown, len(wrong), len(found.labels), classes)


def _of_masks(model: nn.Layer, loader: Loader, most: int) -> Mistakes:
    """Predict again, since masks of all images may be too large to keep."""
    worst: list[tuple[float, int, int, np.ndarray]] = []
    numbers, total = count(), 0
    for part, index, mask in _masks(model, loader):
        total += part > 0
        # Of equal parts the first image is kept, and no two masks are compared.
        item = (part, -next(numbers), index, mask)
        if part > 0:
            heapq.heappush(worst, item)
        if len(worst) > most:
            heapq.heappop(worst)
    shown = []
    for part, _, index, mask in sorted(worst, reverse=True):
        image, label = loader.dataset[index]
        text = f"{100 * part:.1f} % of the pixels wrong"
        shown.append(Mistake(loader.dataset.name(index), image, "", text, (np.array(label), mask)))
    return Mistakes(shown, total, next(numbers), list(loader.classes))


@paddle.no_grad()
def _masks(model: nn.Layer, loader: Loader) -> Iterator[tuple[float, int, np.ndarray]]:
    """The part of wrong pixels, the index and the predicted mask of each sample."""
    for images, masks, indices in loader.epoch(0):
        logits = model(images).astype("float32")
        if logits.shape[2:] != masks.shape[1:]:
            logits = resized(logits, masks.shape[1:])
        predicted, labels = logits.argmax(1).numpy().astype(np.uint8), masks.numpy()
        is_labelled = labels != IGNORED
        wrong = ((predicted != labels) & is_labelled).sum((1, 2))
        parts = wrong / np.maximum(is_labelled.sum((1, 2)), 1)
        yield from zip(parts.tolist(), indices.tolist(), predicted, strict=True)


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def figure_of_mistakes(found: Mistakes) -> Figure:
    """Draw the images with their labels, and what is predicted.

    Args:
        found: with at least one that is shown.
    """
    groups = []
    for each in found.shown:
        images = each.panels()
        titles = ["" for _ in images]
        if each.masks:
            titles[1:] = [found.named(mask) for mask in each.masks]
        panels = [
            Panel(np.asarray(image) / 255, title, smooth=max(image.size) > SMALL)
            for image, title in zip(images, titles, strict=True)
        ]
        rows = [panels] if each.masks else [[replace(panels[0], title=each.wrong)]]
        groups.append(Group(rows, f"label {each.label}" if each.label else each.wrong))
    names = ", ".join(Path(each.name).name for each in found.shown)
    return draw_panels(groups, found.title, f"From the first to the last: {names}.")
