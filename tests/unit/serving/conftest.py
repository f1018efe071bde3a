"""A server in this process, whose models are functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from passl.deploy.exported import Description
from passl.deploy.predictor import Classifier
from passl.serving.answers import png_base64
from passl.serving.app import Service, build_app
from passl.serving.batching import Batcher
from passl.serving.models import Loader, Models, Served, Source
from passl.serving.observe import Metrics
from passl.serving.settings import Settings

Compute = Callable[[np.ndarray], np.ndarray]


def described(task: str, classes: list[str]) -> Description:
    return Description(
        model={},
        transforms=[
            {"name": "Resize", "size": [4, 6]},
            {"name": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        ],
        input=[3, 4, 6],
        classes=classes,
        numerics={},
        parameters=0,
        weights="",
        exif_turn=False,
        task=task,
    )


def color_means(images: np.ndarray) -> np.ndarray:
    """Logits: how red, green and blue an image is."""
    return images.mean((2, 3))


def png(red: int, green: int, blue: int, size: tuple[int, int] = (11, 7)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, (red, green, blue)).save(file, format="PNG")
    return file.getvalue()


class Slow:
    """Color means, after `go` is set."""

    def __init__(self):
        self.go, self.begun = threading.Event(), threading.Event()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.begun.set()
        assert self.go.wait(20)
        return color_means(images)


@dataclass(frozen=True)
class Colors:
    """A model of three colors, whose network is a function.

    Args:
        compute: images to logits.
        task, name: of the model.
        has_more: whether it has features and attention, as a network that is not exported.
    """

    compute: Compute = color_means
    task: str = "classification"
    name: str = "colors"
    has_more: bool = True

    def served(self, settings: Settings) -> Served:
        options = {"max_batch": settings.max_batch, "max_delay": settings.max_delay}
        classifier = Classifier(self.compute, described(self.task, ["red", "green", "blue"]))
        about = {
            "name": self.name,
            "task": self.task,
            "classes": 3,
            "input": [3, 4, 6],
            "parameters": 0,
            "weights": "colors.safetensors",
            "engine": "paddle",
            "precision": "fp32",
            "has_features": self.has_more,
            "has_attention": self.has_more,
            "exif_turn": False,
            "loaded": "2026-11-22T12:00:00Z",
        }
        return Served(
            source=Source(self.name, "nowhere"),
            state=None,
            classifier=classifier,
            logits=Batcher(classifier.run, **options),
            features=Batcher(lambda x: 2 * color_means(x), **options) if self.has_more else None,
            attention=Batcher(attention, **options) if self.has_more else None,
            about=about,
        )


def attention(images: np.ndarray) -> list[dict[str, Any]]:
    overlay = png_base64(Image.new("RGB", (48, 32), (68, 1, 84)))
    one = {"block": "blocks.0", "query": "class token", "weights": [[0.5]], "overlay": overlay}
    return [one] * len(images)


def app_of(*colors: Colors, **limits: Any) -> FastAPI:
    """The application of a server with these models."""
    settings, metrics = Settings(threads=2, **limits), Metrics()
    models = Models(Loader(settings=settings, observe=metrics.batch_done))
    models.served |= {each.name: each.served(settings) for each in colors}
    return build_app(Service(models, settings, metrics))


@pytest.fixture
def serve() -> Iterator[Callable[..., TestClient]]:
    """Start a server: serve(compute, task=..., **settings) -> its client."""
    clients: list[TestClient] = []

    def start(
        compute: Compute = color_means,
        task: str = "classification",
        has_more: bool = True,
        **limits: Any,
    ) -> TestClient:
        app = app_of(Colors(compute, task, has_more=has_more), **limits)
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)
