"""A server in this process, whose models are functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from passl.deploy.exported import Description
from passl.deploy.predictor import Classifier
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


@pytest.fixture
def serve() -> Iterator[Callable[..., TestClient]]:
    """Start a server: serve(compute, task=..., **settings) -> its client."""
    clients: list[TestClient] = []

    def start(
        compute: Compute = color_means,
        task: str = "classification",
        has_features: bool = True,
        **limits: Any,
    ) -> TestClient:
        settings, metrics = Settings(threads=2, **limits), Metrics()
        options = {"max_batch": settings.max_batch, "max_delay": settings.max_delay}
        loader = Loader(settings=settings, observe=metrics.batch_done)
        classifier = Classifier(compute, described(task, ["red", "green", "blue"]))
        served = Served(
            source=Source("colors", "nowhere"),
            state=None,
            classifier=classifier,
            logits=Batcher(classifier.run, **options),
            features=Batcher(lambda x: 2 * color_means(x), **options) if has_features else None,
            about={"name": "colors"},
        )
        models = Models(loader)
        models.served["colors"] = served
        app = build_app(Service(models, settings, metrics))
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)
