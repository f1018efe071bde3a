"""What a name for weights means where the folder has an entry of that name."""

from __future__ import annotations

from pathlib import Path

import pytest

from passl import create_model
from passl.errors import CheckpointError, ConfigError
from passl.modeling import Model
from passl.porting import locate, resolve, zoo_entry
from passl.porting.zoo import entries
from passl.utils.config import get_config

DEFAULT = "convit_tiny.timm_in1k"


@pytest.fixture
def fetched(monkeypatch) -> list[str]:
    """Names of the zoo's entries that were asked for; none is downloaded."""
    names: list[str] = []

    def fetch(entry):
        names.append(entry.name)
        return Path(f"{entry.name}.absent.pth")

    monkeypatch.setattr(resolve, "fetch", fetch)
    return names


@pytest.fixture(params=["folder", "file"])
def taken(request, tmp_path, monkeypatch) -> str:
    """A folder or file named as a variant, where the user stands."""
    path = tmp_path / "convit_tiny"
    path.mkdir() if request.param == "folder" else path.write_text("notes")
    monkeypatch.chdir(tmp_path)
    return request.param


def test_pretrained_true_means_the_zoo(taken, fetched, caplog):
    with pytest.raises(CheckpointError, match=rf"{DEFAULT}\.absent"):
        create_model("convit_tiny", pretrained=True)
    with pytest.raises(CheckpointError, match=rf"{DEFAULT}\.absent"):
        Model(get_config("convit/convit_tiny.yaml"), pretrained=True)
    assert fetched == [DEFAULT] * 2
    assert not caplog.records  # nothing else could be meant


def test_zoo_name_has_priority_over_a_file(taken, fetched, caplog):
    assert zoo_entry("convit_tiny").name == DEFAULT
    assert locate("convit_tiny") == Path(f"{DEFAULT}.absent.pth")
    assert DEFAULT in caplog.text
    assert f"not the {taken}" in caplog.text
    assert "./convit_tiny" in caplog.text
    with pytest.raises(CheckpointError, match=rf"{DEFAULT}\.absent"):
        create_model("convit_tiny", pretrained="convit_tiny")


def test_paths(taken, fetched):
    for path in ("./convit_tiny", Path("convit_tiny"), str(Path("convit_tiny").absolute())):
        assert zoo_entry(path) is None
        assert locate(path) == Path(path)
    Path("notes").write_text("")
    assert zoo_entry("notes") is None
    assert zoo_entry("convit_tiny.pth") is None
    assert locate("~/w.pth") == Path.home() / "w.pth"
    assert fetched == []


def test_unknown_name():
    with pytest.raises(ConfigError, match="no weights 'convit_tin'; did you mean 'convit_tiny'"):
        zoo_entry("convit_tin")


def test_no_zoo_name_has_the_suffix_of_a_weight_file():
    assert not [entry.name for entry in entries() if entry.name.endswith(resolve.SUFFIXES)]
