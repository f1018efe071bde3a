"""The routes of a server."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from itertools import chain
from typing import Annotated, Any

import anyio
import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from passl import __version__
from passl.deploy.inputs import open_image
from passl.errors import ConfigError, RunError
from passl.serving.answers import (
    AboutClasses,
    AboutModels,
    Attention,
    Features,
    Predictions,
    as_answer,
)
from passl.serving.batching import Batcher
from passl.serving.bodies import Refused, check_image, read_images
from passl.serving.described import IMAGES, failures
from passl.serving.models import Models, Served
from passl.serving.observe import Metrics, Observed
from passl.serving.pages import add_pages
from passl.serving.settings import Settings


class Service:
    """Everything that the routes need.

    Args:
        models: of the server, loaded.
        settings: of the server.
        metrics: of the server.
    """

    def __init__(self, models: Models, settings: Settings, metrics: Metrics):
        self.models, self.settings, self.metrics = models, settings, metrics
        self.pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="images")
        self.is_ready = False
        self._waiting = 0

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """The time between the first request and the last; what waits then is computed."""
        self.is_ready = True
        yield
        self.is_ready = False
        await anyio.to_thread.run_sync(self.models.close)
        self.pool.shutdown()

    @contextmanager
    def admitted(self, images: int):
        """Count the images of a request among those that wait.

        Raises:
            Refused: too many wait.
        """
        if self._waiting + images > self.settings.max_waiting:
            raise Refused(
                503, f"{self._waiting} images wait, and {self.settings.max_waiting} may; try again"
            )
        self._waiting += images
        self.metrics.waiting.set(self._waiting)
        try:
            yield
        finally:
            self._waiting -= images
            self.metrics.waiting.set(self._waiting)

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, function, *arguments)

    async def computed(
        self, request: Request, name: str, answer: Callable[[Served, list[bytes]], Awaitable[Any]]
    ) -> Any:
        """Read the images of a request, and answer by a model, in time.

        Raises:
            Refused: it cannot be answered.
        """
        served, facts = self.find(name), request.scope["passl"]
        facts["model"] = name
        try:
            with anyio.fail_after(self.settings.timeout):
                images = await read_images(request, self.settings)
                facts["images"] = len(images)
                with self.admitted(len(images)):
                    return await answer(served, images)
        except TimeoutError:
            raise Refused(504, f"it took more than {self.settings.timeout:g} s") from None
        except ClientDisconnect:
            raise Refused(400, "the client has left before its request was complete") from None

    def find(self, name: str) -> Served:
        """The model of that name.

        Raises:
            Refused: there is none.
        """
        known = self.models.served
        if name not in known:
            raise Refused(404, f"there is no model {name[:100]!r}; there are {', '.join(known)}")
        return known[name]

    async def results(
        self, batcher: Batcher, served: Served, images: Sequence[bytes]
    ) -> tuple[list[Any], list[tuple[int, int]]]:
        """What a batcher computes of each image, and the images' width and height."""

        def prepare(contents: Sequence[bytes]) -> list[tuple[np.ndarray, tuple[int, int]]]:
            found = []
            for content in contents:
                check_image(content, self.settings.max_pixels)
                opened = open_image(content, served.classifier.description)
                found.append((served.classifier.transformed(opened), opened.size))
            return found

        # A part for each thread: the way to a thread and back takes as long as a small image.
        length = -(-len(images) // self.settings.threads)
        parts = [images[i : i + length] for i in range(0, len(images), length)]
        try:
            found = await asyncio.gather(*(self.in_thread(prepare, part) for part in parts))
        except (ConfigError, RunError) as error:
            raise Refused(422, str(error)) from None
        prepared = list(chain.from_iterable(found))
        futures = [asyncio.wrap_future(batcher.submit(image)) for image, _ in prepared]
        try:
            return await asyncio.gather(*futures), [size for _, size in prepared]
        finally:
            for future in futures:  # of a request that has failed or was too slow
                future.cancel()


async def check_token(request: Request) -> None:
    """Refuse a request without the server's token."""
    token = service_of(request).settings.token
    given = request.headers.get("authorization", "")
    if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise Refused(401, "the header `Authorization: Bearer TOKEN` is missing or wrong")


def service_of(request: Request) -> Service:
    """The service of the application that answers a request."""
    return request.app.state.service


# --------------------------------------------------------------------------------------------------
# Routes
# --------------------------------------------------------------------------------------------------
_TOKEN = HTTPBearer(auto_error=False, description="Needed if the server has a token.")
_GUARDED = APIRouter(dependencies=[Depends(check_token), Depends(_TOKEN)], responses=failures(401))
_OPEN = APIRouter()
_COMPUTED: dict[str, Any] = {
    "responses": failures(400, 404, 413, 415, 422, 500, 503, 504),
    "openapi_extra": IMAGES,
}


@_GUARDED.post("/v1/models/{name}:predict", response_model=Predictions, **_COMPUTED)
async def predict(
    request: Request, name: str, top_k: Annotated[int | None, Query(ge=1, le=1000)] = None
) -> Any:
    """Classify images, or predict their masks."""
    service = service_of(request)

    async def answer(served: Served, images: list[bytes]) -> Any:
        logits, sizes = await service.results(served.logits, served, images)

        def written() -> list[dict[str, Any]]:
            return [
                as_answer(served.classifier, row, size, top_k)
                for row, size in zip(logits, sizes, strict=True)
            ]

        # The PNG of a mask takes its time; all else less than the way to a thread and back.
        is_slow = served.classifier.description.task == "segmentation"
        found = await service.in_thread(written) if is_slow else written()
        return JSONResponse({"predictions": found})

    return await service.computed(request, name, answer)


@_GUARDED.post("/v1/models/{name}:features", response_model=Features, **_COMPUTED)
async def features(request: Request, name: str) -> Any:
    """The features of images, by a model that is not exported."""
    service = service_of(request)

    async def answer(served: Served, images: list[bytes]) -> Any:
        if served.features is None:
            raise Refused(
                404, f"{name} is an exported network, which has no features; serve its weights"
            )
        found, _ = await service.results(served.features, served, images)
        return JSONResponse({"features": [row.tolist() for row in found]})

    return await service.computed(request, name, answer)


@_GUARDED.post("/v1/models/{name}:attention", response_model=Attention, **_COMPUTED)
async def attention(request: Request, name: str) -> Any:
    """What the network attends to in images, by a model that is not exported."""
    service = service_of(request)

    async def answer(served: Served, images: list[bytes]) -> Any:
        if served.attention is None:
            raise Refused(
                404, f"{name} is exported or has no attention; serve the weights of ConViT or CvT"
            )
        found, _ = await service.results(served.attention, served, images)
        return JSONResponse({"attention": found})

    return await service.computed(request, name, answer)


@_GUARDED.get("/v1/models", response_model=AboutModels)
async def models(request: Request) -> Any:
    """The models of this server, and its limits."""
    service = service_of(request)
    own = service.settings
    return {
        "models": [served.about for served in service.models.served.values()],
        "limits": {
            "max_bytes": own.max_bytes,
            "max_pixels": own.max_pixels,
            "max_images": own.max_images,
        },
    }


@_GUARDED.get("/v1/models/{name}", response_model=AboutClasses, responses=failures(404, 422))
async def model(request: Request, name: str) -> Any:
    """One model, with the names of its classes."""
    served = service_of(request).find(name)
    return {**served.about, "class_names": served.classifier.classes}


@_GUARDED.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    text = generate_latest(service_of(request).metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@_OPEN.get("/healthz", response_class=PlainTextResponse)
async def healthy(request: Request) -> Response:
    """Whether every thread of the server lives."""
    is_healthy = service_of(request).models.is_healthy
    return Response("ok" if is_healthy else "a thread has ended", 200 if is_healthy else 500)


@_OPEN.get("/readyz", response_class=PlainTextResponse)
async def ready(request: Request) -> Response:
    """Whether requests are answered."""
    is_ready = service_of(request).is_ready
    return Response("ok" if is_ready else "not ready", 200 if is_ready else 503)


# --------------------------------------------------------------------------------------------------
# Failures
# --------------------------------------------------------------------------------------------------
async def _refused(request: Request, refused: Refused) -> JSONResponse:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}
    return _failure(request, refused.status, str(refused), headers.get(refused.status))


async def _failed(request: Request, error: RunError) -> JSONResponse:
    return _failure(request, 500, str(error))


async def _crashed(request: Request, error: Exception) -> JSONResponse:
    return _failure(request, 500, f"{type(error).__name__}; the server's log has the rest")


async def _without_route(request: Request, error: HTTPException) -> JSONResponse:
    return _failure(request, error.status_code, str(error.detail), error.headers)


async def _wrong_query(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    return _failure(request, 422, f"{first['loc'][-1]}: {first['msg']}")


def _failure(
    request: Request, status: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    content = {"error": message, "request_id": request.scope["passl"]["id"]}
    return JSONResponse(content, status, headers)


_HANDLERS: dict[Any, Any] = {
    Refused: _refused,
    RunError: _failed,
    HTTPException: _without_route,
    RequestValidationError: _wrong_query,
    Exception: _crashed,
}


def build_app(service: Service) -> FastAPI:
    """The application of a server."""
    app = FastAPI(
        title="passl",
        description="Image classification, features and segmentation by ConViT and CvT.",
        version=__version__,
        lifespan=service.running,
        docs_url=None,
        redoc_url=None,
        exception_handlers=_HANDLERS,
    )
    app.state.service = service
    app.include_router(_GUARDED)
    app.include_router(_OPEN)
    add_pages(app)
    app.add_middleware(Observed, metrics=service.metrics)
    if service.settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After", "Server-Timing"],
        )
    return app
