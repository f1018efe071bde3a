"""The JSON of answers: what OpenAPI shows, and how predictions become it.

Shapes in names: K classes, Y rows and X columns of the network's output.
"""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from passl.deploy.predictor import Classifier, Prediction, labels_at
from passl.errors import RunError
from passl.io.masks import with_palette

_SHARES = 5
"""Classes of a mask that are listed."""


class Best(BaseModel):
    """One class for one image."""

    label: int
    name: str
    probability: float


class Share(BaseModel):
    """The part of an image's pixels that have a label."""

    label: int
    name: str
    share: float


class ImagePrediction(BaseModel):
    """The prediction for one image: `best` of a classifier, mask and shares of a segmentation."""

    best: list[Best] | None = None
    mask: str | None = Field(None, description="PNG with a palette, as base64")
    shares: list[Share] | None = None


class Predictions(BaseModel):
    """The predictions for the images of a request, in their order."""

    predictions: list[ImagePrediction]


class Features(BaseModel):
    """The features of the images of a request, in their order."""

    features: list[list[float]]


class Failure(BaseModel):
    """Why a request is not answered."""

    error: str
    request_id: str


def as_answer(
    classifier: Classifier, logits: np.ndarray, size: tuple[int, int], top_k: int | None
) -> dict[str, Any]:
    """The prediction for one image.

    Args:
        logits: [K], or [K, Y, X] of a segmentation.
        size: width and height of the image.
        top_k: number of predictions; null for 5, or the predicted labels of a multi-label model.

    Raises:
        RunError: logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise RunError("the network's output is not finite; its weights are damaged")
    if classifier.description.task == "segmentation":
        return _mask(classifier, labels_at(logits, size))
    probabilities_K = classifier.normalized(logits[None])[0]
    if top_k is None and classifier.description.task == "multilabel":
        best = classifier.above(probabilities_K)
    else:
        best = classifier.best(probabilities_K, top_k or 5)
    return {"best": [_best(each) for each in best]}


def _best(each: Prediction) -> dict[str, Any]:
    return {"label": each.label, "name": each.name, "probability": round(each.probability, 6)}


def _mask(classifier: Classifier, labels: np.ndarray) -> dict[str, Any]:
    file = BytesIO()
    with_palette(labels).save(file, format="PNG")
    counts = np.bincount(labels.ravel())
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist()
    shares = [
        {"label": k, "name": classifier.classes[k], "share": round(counts[k] / labels.size, 6)}
        for k in order[:_SHARES]
    ]
    return {"mask": base64.b64encode(file.getvalue()).decode(), "shares": shares}
