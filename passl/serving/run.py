"""Run a server until it is told to stop."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Sequence

import uvicorn

from passl.errors import ConfigError
from passl.logging import get_logger
from passl.serving.app import Service, build_app
from passl.serving.models import Loader, Models, Source
from passl.serving.observe import Metrics
from passl.serving.settings import Settings


def serve(sources: Sequence[Source], settings: Settings, host: str, port: int) -> None:
    """Load models and answer requests, until SIGTERM or SIGINT; then finish those that have begun.

    Args:
        sources: of the models; their names differ.
        host, port: to listen on; port 0 for any that is free.

    Raises:
        ConfigError: the port cannot be used, or a model cannot be loaded as it is named.
        RunError: a model is damaged.
    """
    metrics = Metrics()
    models = Models(Loader(settings=settings, observe=metrics.batch_done))
    with _listening(host, port) as listener:
        models.start(sources)
        service = Service(models, settings, metrics)
        address, port = listener.getsockname()[:2]
        if settings.token is None and not ipaddress.ip_address(address).is_loopback:
            get_logger().warning(
                "%s is reachable from other machines, and anybody may ask: set a token "
                "(--token-file)",
                address,
            )
        shown = f"[{address}]" if ":" in address else address
        get_logger().info("listening on http://%s:%d", shown, port)
        server = uvicorn.Server(
            uvicorn.Config(
                build_app(service),
                log_level="warning",
                access_log=False,
                server_header=False,
                limit_concurrency=settings.max_connections,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=int(settings.timeout) + 1,
            )
        )
        # uvicorn raises the signal again after it has finished; the process ends in order instead.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listener])
        get_logger().info("stopped, after the last request")


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens, before models are loaded: a port in use is found at once.

    Raises:
        ConfigError: it cannot listen there.
    """
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or error
        way = "choose another port, or end what uses it"
        if number != errno.EADDRINUSE:
            way = "choose another address or port"
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there: {reason}; {way}"
        ) from None
