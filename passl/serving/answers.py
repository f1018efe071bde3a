"""The JSON of answers: what OpenAPI shows, and how predictions become it.

Shapes in names: K classes, Y rows and X columns of the network's output.
"""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from passl.deploy.predictor import Classifier, Prediction, labels_at
from passl.errors import RunError
from passl.io.masks import COLORS, with_palette

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
    color: str = Field(description="of the label in the mask, such as #800000")


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


class AttentionMap(BaseModel):
    """What the last block attends to in an image, the mean of its heads."""

    block: str
    query: str = Field(description="what attends: `class token` or `mean of all patches`")
    weights: list[list[float]] = Field(
        description="attention to each patch, rows from top to bottom, without that to the class "
        "token"
    )
    overlay: str = Field(
        description="PNG as base64: the map over the image as the network gets it, from dark blue "
        "for 0 to yellow for the largest weight"
    )


class Attention(BaseModel):
    """The attention maps of the images of a request, in their order."""

    attention: list[AttentionMap]


class About(BaseModel):
    """A model of the server."""

    name: str
    task: Literal["classification", "multilabel", "segmentation"]
    classes: int = Field(description="their number")
    input: list[int] = Field(description="channels, height and width")
    parameters: int
    weights: str = Field(description="where they come from")
    engine: str
    precision: str
    has_features: bool = Field(description="whether `:features` answers")
    has_attention: bool = Field(description="whether `:attention` answers")
    exif_turn: bool = Field(description="whether images are turned as their EXIF orientation says")
    loaded: str = Field(description="when, in UTC")


class AboutClasses(About):
    """A model of the server, with its classes."""

    class_names: list[str]


class Limits(BaseModel):
    """What a request may have; above it, status 413."""

    max_bytes: int = Field(description="of a body")
    max_pixels: int = Field(description="of an image")
    max_images: int


class AboutModels(BaseModel):
    """The models of the server and its limits."""

    models: list[About]
    limits: Limits


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
    counts = np.bincount(labels.ravel())
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist()
    shares = [
        {
            "label": k,
            "name": classifier.classes[k],
            "share": round(counts[k] / labels.size, 6),
            "color": f"#{bytes(COLORS[k]).hex()}",
        }
        for k in order[:_SHARES]
    ]
    return {"mask": png_base64(with_palette(labels)), "shares": shares}


def png_base64(image: Image.Image) -> str:
    """An image as a PNG file in base64."""
    file = BytesIO()
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
