"""Data and configs of the tests with PaddleSeg and PaddleDetection (`make test-integrations`)."""

from __future__ import annotations

import importlib.util
import re
import warnings
from pathlib import Path

import pytest

from tests.integrations import stamps

ROOT = Path(__file__).resolve().parents[2]


def registered(package: str, module: str) -> None:
    """Import our backbones for a framework, or skip if it is not installed. If it is installed but
    cannot be imported, that is an error. Old code warns as it is imported.
    """
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: make test-integrations")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(f"passl.integrations.{module}")


@pytest.fixture(scope="session")
def paddleseg() -> None:
    registered("paddleseg", "paddleseg")


@pytest.fixture(scope="session")
def paddledet() -> None:
    registered("ppdet", "paddledet")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """1600 images to train on and 100 to validate on, with masks and boxes."""
    if not stamps.STAMPS.is_dir():
        pytest.skip(f"no {stamps.STAMPS}; apt-get install tuxpaint-stamps-default")
    return stamps.write_dataset(tmp_path_factory.mktemp("stamps") / "data")


@pytest.fixture
def page_config(dataset, tmp_path, monkeypatch) -> Path:
    """The file of a config of docs/integrations.md, in a folder that has the data: by index."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(dataset)
    text = (ROOT / "docs/integrations.md").read_text(encoding="utf-8")
    for name, block in zip(
        ("seg.yml", "det.yml"), re.findall(r"```yaml\n(.*?)```", text, re.DOTALL), strict=True
    ):
        Path(name).write_text(block)
    return tmp_path
