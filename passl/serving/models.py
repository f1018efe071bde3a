"""The models that a server has: loaded from what users name, reloaded when their files change."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from passl.deploy.engines import Engine, as_engine
from passl.deploy.exported import DESCRIPTION
from passl.deploy.predictor import Classifier, Predictor
from passl.errors import ConfigError, RunError
from passl.evaluation.preset import transforms_of
from passl.logging import get_logger, printable
from passl.porting.resolve import locate, zoo_entry
from passl.porting.zoo import is_known, like
from passl.serving.batching import Batcher, Compute
from passl.serving.settings import Settings

if TYPE_CHECKING:
    from passl.serving.attention import Attend

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

State = tuple[tuple[int, int, int], ...]
"""Inode, time and size of each file of a model."""


@dataclass(frozen=True)
class Source:
    """What a user has named.

    Args:
        name: in the addresses of the server.
        path: an exported folder, a run's folder, a weight file, or a name of the model zoo.
    """

    name: str
    path: str

    @cached_property
    def file(self) -> Path:
        """The description of an exported folder, the checkpoint of a run, or the weight file.

        Raises:
            ConfigError: the path is none of these.
            RunError: the weights cannot be downloaded.
        """
        folder = Path(self.path)
        if (folder / DESCRIPTION).is_file():
            return folder / DESCRIPTION
        from passl.engine.run_folder import BEST, checkpoint_of  # which loads Paddle

        checkpoint = checkpoint_of(folder)
        if checkpoint is not None:
            return checkpoint
        if folder.is_dir():
            raise ConfigError(
                f"{folder}: neither an exported folder ({DESCRIPTION}) nor the folder of a run "
                f"({BEST}); make one by `passl export`, or name a weight file"
            )
        if not folder.exists() and "://" not in self.path and not is_known(self.path):
            raise ConfigError(
                f"{self.path}: there is no such exported folder, run or weight file, and no such "
                f"name in the model zoo{like(self.path)}"
            )
        return locate(self.path)

    @property
    def is_exported(self) -> bool:
        return self.file.name == DESCRIPTION

    @property
    def state(self) -> State | None:
        """Differs after the model has changed; null while its files are away."""
        try:
            files = sorted(self.file.parent.iterdir()) if self.is_exported else [self.file]
            found = [file.stat() for file in files]
        except OSError:  # a folder that is being replaced
            return None
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)


def parse_source(text: str) -> Source:
    """The source that `[NAME=]SOURCE` means. The default name is that of the folder, the file
    without its suffix, or the name of the model zoo.

    Raises:
        ConfigError: the name cannot be a part of an address.
    """
    name, separator, path = text.partition("=")
    if not separator:
        name, path = "", text
        end = Path(path).absolute().name
        name = Path(end).stem if Path(path).is_file() else end
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{text}: the name {name!r} must have letters, digits, dots, dashes and underscores "
            "only; write NAME=SOURCE"
        )
    return Source(name, path)


@dataclass(frozen=True)
class Served:
    """A loaded model.

    Args:
        source: it is loaded from.
        state: `source.state` before it was loaded.
        classifier: computes, and knows transforms and classes.
        logits: batches of its logits.
        features: batches of its features; null for an exported network, whose graph ends in logits.
        attention: batches of its attention maps; null for a network that has none, or is exported.
        about: for `GET /v1/models`.
    """

    source: Source
    state: State | None
    classifier: Classifier
    logits: Batcher
    features: Batcher | None
    attention: Batcher | None
    about: Mapping[str, Any]

    @property
    def batchers(self) -> list[Batcher]:
        return [each for each in (self.logits, self.features, self.attention) if each is not None]

    def close(self) -> None:
        """Compute what waits, then end its threads."""
        for batcher in self.batchers:
            batcher.close()


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Loads models.

    Args:
        settings: of the server.
        observe: called with a model's name after each of its batches, see `Batcher`.
    """

    settings: Settings
    observe: Callable[[str, int, float, float], None]

    def load(self, source: Source) -> Served:
        """Load a model, and compute a batch of it.

        Raises:
            ConfigError, RunError: it cannot be loaded.
        """
        own, state = self.settings, source.state
        features: Engine | None = None
        attend: Attend | None = None
        if source.is_exported:
            options = (own.engine, own.precision, own.threads, own.allow_imports)
            predictor = Predictor(Path(source.path), *options, batch=own.max_batch)
            classifier: Classifier = predictor
            engine = predictor.engine
        else:
            classifier, features, attend = self._from_weights(source)
            engine = "paddle, not exported"
        for size in {1, own.max_batch}:  # the first call of each size is slow
            classifier.run(np.zeros([size, *classifier.description.input], np.float32))
        return Served(
            source=source,
            state=state,
            classifier=classifier,
            logits=self._batcher(source.name, classifier.run),
            features=None if features is None else self._batcher(source.name, features),
            attention=None if attend is None else self._batcher(source.name, attend),
            about={
                "name": source.name,
                "task": classifier.description.task,
                "classes": len(classifier.classes),
                "input": list(classifier.description.input),
                "parameters": classifier.description.parameters,
                "weights": classifier.description.weights,
                "engine": engine,
                "precision": own.precision if source.is_exported else "fp32",
                "has_features": features is not None,
                "has_attention": attend is not None,
                "exif_turn": classifier.description.exif_turn,
                "loaded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        )

    def _from_weights(self, source: Source) -> tuple[Classifier, Engine, Attend | None]:
        """A classifier of weights, and what computes its features and its attention."""
        # Here, since they load Paddle: exported networks of other engines do without, which makes
        # the process smaller and its start faster.
        from passl.deploy.from_weights import load
        from passl.serving.attention import attention_of

        own = self.settings
        if (own.engine, own.precision) != ("paddle", "fp32"):
            raise ConfigError(
                f"{source.path}: is not exported, and engine {own.engine} with precision "
                f"{own.precision} is for exported folders; export it first, or leave them out"
            )
        entry = zoo_entry(source.path) if not Path(source.path).exists() else None
        transforms = None if entry is None else transforms_of(entry.preset)
        weights = source.path if entry is not None else source.file
        model, description = load(weights, None, transforms, None, own.allow_imports)
        attend = attention_of(model, description)
        return Classifier(as_engine(model), description), as_engine(model.backbone), attend

    def _batcher(self, name: str, compute: Compute) -> Batcher:
        return Batcher(
            compute,
            max_batch=self.settings.max_batch,
            max_delay=self.settings.max_delay,
            observe=lambda *figures: self.observe(name, *figures),
        )


class Models:
    """The models of a server, by name.

    Args:
        loader: loads them, also when their files have changed.
    """

    def __init__(self, loader: Loader):
        self.loader = loader
        self.served: dict[str, Served] = {}
        self._retired: list[tuple[float, Served]] = []
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None

    def start(self, sources: Sequence[Source]) -> None:
        """Load the models, and watch their files.

        Raises:
            ConfigError, RunError: one cannot be loaded.
        """
        problems: list[str] = []
        for source in sources:
            try:
                _ = source.file
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(*problems)
        for source in sources:
            self.served[source.name] = self.loader.load(source)
            get_logger().info("loaded %s from %s", source.name, printable(source.path))
        if self.loader.settings.reload_interval > 0:
            self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
            self._watcher.start()

    def close(self) -> None:
        """End every thread, after what waits is computed."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()
        for served in [*self.served.values(), *(old for _, old in self._retired)]:
            served.close()

    @property
    def is_healthy(self) -> bool:
        return all(b.is_alive for served in list(self.served.values()) for b in served.batchers)

    def _watch(self) -> None:
        """Reload models whose files have changed, after they stay the same for one interval."""
        seen = tried = {name: served.state for name, served in self.served.items()}
        while not self._ended.wait(self.loader.settings.reload_interval):
            before = seen
            seen = {name: served.source.state for name, served in self.served.items()}
            for name, now in seen.items():
                if now is not None and now == before[name] != tried[name]:
                    tried = {**tried, name: now}  # a model that fails is tried once
                    self._reload(self.served[name])
            self._end_retired()

    def _reload(self, old: Served) -> None:
        name = old.source.name
        try:
            self.served[name] = self.loader.load(old.source)
        except (ConfigError, RunError, OSError) as error:
            text = "%s has changed and cannot be loaded; the old one stays: %s"
            get_logger().error(text, name, error)
            return
        self._retired.append((time.monotonic(), old))
        get_logger().info("%s has changed and is reloaded", name)

    def _end_retired(self) -> None:
        """End old models after the time that a request may take: none uses them any more."""
        oldest = time.monotonic() - self.loader.settings.timeout
        for since, old in self._retired:
            if since < oldest:
                old.close()
        self._retired = [(since, old) for since, old in self._retired if since >= oldest]
