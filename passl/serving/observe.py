"""What a server tells of itself: Prometheus metrics, and one JSON line for each request."""

from __future__ import annotations

import json
import re
import sys
import time
import uuid
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Metrics:
    """Counters of one server, with a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(
            "passl_requests", "Requests by model and status", ["model", "status"], **own
        )
        self.seconds = Histogram(
            "passl_request_seconds",
            "From the first byte to the answer",
            ["model"],
            buckets=_SECONDS,
            **own,
        )
        self.images = Counter("passl_images", "Images that were computed", ["model"], **own)
        self.waiting = Gauge(
            "passl_waiting_images", "Images that are read or wait for a model", **own
        )
        self.batch = Histogram(
            "passl_batch_images",
            "Images of a batch",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            **own,
        )
        self.waited = Histogram(
            "passl_batch_waiting_seconds",
            "How long the first image of a batch has waited",
            ["model"],
            buckets=_SECONDS,
            **own,
        )
        self.computed = Histogram(
            "passl_batch_compute_seconds",
            "Computation of a batch",
            ["model"],
            buckets=_SECONDS,
            **own,
        )

    def batch_done(self, model: str, images: int, waited: float, computed: float) -> None:
        """Count a batch; see `Batcher`."""
        self.images.labels(model).inc(images)
        self.batch.labels(model).observe(images)
        self.waited.labels(model).observe(waited)
        self.computed.labels(model).observe(computed)


class Observed:
    """Middleware: gives each request an id, times and counts it, and logs it as a line of JSON.

    A route puts into `scope["passl"]` what else is logged; `model` is also a label of the metrics,
    so only names of models may be there.

    Args:
        app: the application.
        metrics: of the server.
        out: where the lines go; null for stdout.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, out: TextIO | None = None):
        self.app, self.metrics, self.out = app, metrics, out

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        facts = scope["passl"] = {"id": request_id}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"server-timing", b"total;dur=%.1f" % (1000 * (time.perf_counter() - start))),
                ]
            await send(message)

        try:
            await self.app(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - start
            model = facts.get("model", "")
            self.metrics.requests.labels(model, str(status)).inc()
            self.metrics.seconds.labels(model).observe(seconds)
            line = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                **facts,
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(1000 * seconds, 2),
            }
            print(json.dumps(line, ensure_ascii=True), file=self.out or sys.stdout, flush=True)
