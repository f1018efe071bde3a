from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passl.errors import ConfigError, RunError
from passl.serving.batching import Batcher
from passl.serving.models import Models, Served, Source, parse_source
from passl.serving.settings import Settings


@pytest.fixture
def folder(tmp_path) -> Path:
    """What looks like an exported folder; the content of the file `value` is its output."""
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "passl.json").write_text("{}")
    (folder / "value").write_text("1")
    return folder


@dataclass
class FakeLoader:
    settings: Settings = Settings(reload_interval=0.02, timeout=0.5)
    loaded: list[Any] = field(default_factory=list)

    def load(self, source: Source) -> Served:
        state = source.state
        text = (Path(source.path) / "value").read_text()
        self.loaded.append(text)
        if not text.isdecimal():
            raise RunError("damaged")

        def compute(images: np.ndarray) -> np.ndarray:
            return np.full(len(images), int(text))

        batcher = Batcher(compute, max_batch=1, max_delay=0)
        return Served(source, state, None, batcher, None, None, {})


def value(models: Models) -> int:
    return int(models.served["one"].logits.submit(np.zeros(1)).result(10))


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_changed_model_is_reloaded(folder):
    loader = FakeLoader()
    models = Models(loader)
    models.start([Source("one", str(folder))])
    old = models.served["one"]
    (folder / "value").write_text("22")
    wait_for(lambda: value(models) == 22)
    # A request that has begun ends with the old one.
    assert int(old.logits.submit(np.zeros(1)).result(10)) == 1
    wait_for(lambda: not old.logits.is_alive)
    assert loader.loaded == ["1", "22"]
    models.close()


def test_a_damaged_or_absent_model_leaves_the_old_one(folder, caplog):
    loader = FakeLoader()
    models = Models(loader)
    models.start([Source("one", str(folder))])
    (folder / "value").write_text("damaged")
    wait_for(lambda: "damaged" in loader.loaded)
    time.sleep(0.2)  # several intervals
    assert loader.loaded == ["1", "damaged"]  # tried once
    assert value(models) == 1
    kept = folder.rename(folder.with_name("kept"))
    time.sleep(0.1)
    assert value(models) == 1
    (kept / "value").write_text("333")
    shutil.copytree(kept, folder)
    wait_for(lambda: value(models) == 333)
    models.close()


def test_names_of_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("weights.pth").write_bytes(b"")
    assert parse_source("a/exported") == Source("exported", "a/exported")
    assert parse_source("boots=a/b c") == Source("boots", "a/b c")
    assert parse_source("weights.pth") == Source("weights", "weights.pth")
    assert parse_source("convit_tiny.fb_in1k").name == "convit_tiny.fb_in1k"
    assert parse_source(".").name == tmp_path.name
    for wrong in ("a b", "=x", "a/b=x", "x:y=z"):
        with pytest.raises(ConfigError, match="NAME=SOURCE"):
            parse_source(wrong)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ConfigError, match="passl export"):
        _ = Source("x", str(tmp_path)).file


def test_all_wrong_sources_are_reported_together(tmp_path):
    models = Models(FakeLoader())
    with pytest.raises(ConfigError) as raised:
        models.start([Source("x", str(tmp_path)), Source("y", str(tmp_path / "absent"))])
    assert len(raised.value.problems) == 2


def test_a_server_of_exported_networks_does_without_paddle(root):
    """In a process of its own: here it is loaded."""
    code = "import sys; sys.modules['paddle'] = None; import passl.serving.run"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
