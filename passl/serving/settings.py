"""How a server computes, and what it allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Computation, limits and access.

    Args:
        engine, precision, threads, allow_imports: see `passl.deploy.Predictor`. As many threads
            read and transform images.
        max_batch: images that are computed together.
        max_delay: seconds that an idle model waits for a second image.
        max_waiting: images that are read or wait for a model, of all requests; above it, requests
            are refused with status 503.
        max_bytes: of a request's body; above it, 413.
        max_pixels: of an image; above it, 413.
        max_images: of a request; above it, 413.
        max_connections: at the same time; above it, 503.
        timeout: seconds that a request may take, from its first byte to its answer.
        reload_interval: seconds between two looks for a changed model; 0 for none.
        token: that requests must carry; null for none.
        origins: web sites whose scripts may call the server; `*` for all.
    """

    engine: str = "paddle"
    precision: str = "fp32"
    threads: int = 1
    allow_imports: bool = False
    max_batch: int = 16
    max_delay: float = 0.002
    max_waiting: int = 256
    max_bytes: int = 16 << 20
    max_pixels: int = 40_000_000
    max_images: int = 32
    max_connections: int = 256
    timeout: float = 30.0
    reload_interval: float = 5.0
    token: str | None = None
    origins: Sequence[str] = ()
