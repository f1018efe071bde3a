"""docs/transforms.md and docs/datasets.md are what `make docs` writes, and their examples work."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from passl.data import DATASETS, TRANSFORMS
from passl.data.datasets.subset import Subset
from passl.data.loader import Loader
from passl.data.samplers import BatchSampler
from passl.data.transforms.mixup import Mixup
from passl.utils.schema import Choice, Many, Section, options_of, section_of
from passl.utils.yaml import parse

DOCS = Path(__file__).resolve().parents[2] / "docs"
SECTIONS = {
    "mixup": section_of(Mixup),
    "sampler": section_of(BatchSampler),
    "loader": section_of(Loader),
    "transforms": Many(Choice(TRANSFORMS)),
}


@pytest.fixture(scope="module")
def entries():
    spec = importlib.util.spec_from_file_location("entries", DOCS / "entries.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["transforms.md", "datasets.md"])
def test_pages_are_up_to_date(entries, name):
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == entries.pages()[name], "run `make docs`"


def test_undescribed_option_is_an_error(entries):
    class Blur:
        """Blur.

        Args:
            p: probability.
        """

        def __init__(self, *, p: float, radius: float):
            pass

    with pytest.raises(ValueError, match="Args does not describe radius"):
        list(entries.entry("Blur", Blur))


@pytest.mark.parametrize(
    ("page", "registry", "more"),
    [("transforms.md", TRANSFORMS, {}), ("datasets.md", DATASETS, options_of(Subset))],
)
def test_every_entry_has_a_valid_example(page, registry, more):
    text = (DOCS / page).read_text(encoding="utf-8")
    nodes = [parse(block, page)[0] for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]
    assert {node["name"] for node in nodes if "name" in node} == set(registry.names())
    for node in nodes:
        is_entry = "name" in node
        spec = Choice(registry, more) if is_entry else Section({key: SECTIONS[key] for key in node})
        assert list(spec.problems(node)) == []
