"""The numbers of a run for Prometheus, over HTTP."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from passl.distributed.ranks import Ranks
from passl.errors import ConfigError
from passl.logging import get_logger

_OF_ROW = {
    "lr": ("passl_learning_rate", "Learning rate of the last logged step"),
    "loss": ("passl_loss", "Mean training loss of the last logged interval"),
    "ips": ("passl_samples_per_second", "Samples per second over all processes, of that interval"),
    "reader_cost": ("passl_reader_seconds", "Seconds that a step waited for its batch"),
}
"""Key of a row of `metrics.jsonl` -> name and help of its gauge."""


class Exporter:
    """A server of the gauges of a run at `http://HOST:PORT/metrics`, in a thread.

    Args:
        host: the address to listen at.
        port: 0 for any free one.

    Attributes:
        port: at which it listens.

    Raises:
        ConfigError: prometheus-client is not installed, or it cannot listen there.
    """

    def __init__(self, host: str, port: int):
        try:
            from prometheus_client import CollectorRegistry, Gauge, start_http_server
        except ModuleNotFoundError:
            raise ConfigError(
                "--metrics-port needs prometheus_client; install it: in a checkout, "
                "pip install '.[metrics]'"
            ) from None
        registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Any:
            made = Gauge(name, text, registry=registry)
            made.set(math.nan)  # not known yet; a gauge begins with 0
            return made

        self._of_row = {key: gauge(*names) for key, names in _OF_ROW.items()}
        self._epoch = gauge("passl_epoch", "Epoch of the last logged step, from 1")
        self._step = gauge("passl_step", "Steps until the last logged one, over all epochs")
        self._saved_at = gauge(
            "passl_last_checkpoint_timestamp_seconds",
            "When this process last completed a checkpoint, in seconds since 1970",
        )
        self._scores = Gauge(
            "passl_validation",
            "Numbers of the last evaluation, as in metrics.jsonl: scores in per cent, and the loss",
            ["name"],
            registry=registry,
        )
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigError(
                f"--metrics-port {port}: cannot listen at {host} ({error.strerror}); choose "
                "another port or --metrics-host"
            ) from None
        self.port: int = self._server.server_port
        # A forked worker of the loader would hold the port when this process has ended.
        os.register_at_fork(after_in_child=self._server.socket.close)

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Show a row of `metrics.jsonl`."""
        if row["phase"] == "train":
            self._epoch.set(row["epoch"])
            self._step.set(row["step"])
            for key in self._of_row.keys() & row.keys():  # a row of another version may lack one
                self._of_row[key].set(row[key])
        elif row["phase"] == "val":
            for key, value in row.items():
                if isinstance(value, int | float) and key not in ("step", "epoch", "time", "ips"):
                    self._scores.labels(key).set(value)

    def checkpoint_written(self) -> None:
        """Show that a checkpoint is complete now. Any thread may call it."""
        self._saved_at.set(time.time())

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def exported(address: tuple[str, int] | None, ranks: Ranks) -> Iterator[Exporter | None]:
    """A context in which the first rank serves the numbers of the run.

    Args:
        address: host and port; null serves nothing.

    Yields:
        The exporter; null on the other ranks.
    """
    if address is None or not ranks.is_first:
        yield None
        return
    exporter = Exporter(*address)
    get_logger().info("metrics for Prometheus: http://%s:%d/metrics", address[0], exporter.port)
    try:
        yield exporter
    finally:
        exporter.close()
