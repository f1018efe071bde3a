"""Registries: names to constructor calls, for our own entries and for a user's."""

# Without `from __future__ import annotations`, since a user's module may be without it too: then
# annotations are objects and not texts.

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Optional, Union

import pytest

from passl.data import DATASETS, TRANSFORMS
from passl.errors import ConfigError
from passl.modeling import LOSSES
from passl.modeling.backbones import BACKBONES
from passl.modeling.heads import HEADS
from passl.optim import CLIPS, OPTIMIZERS, SCHEDULES
from passl.utils.config import Config
from passl.utils.registry import Registry

REGISTRIES = [BACKBONES, HEADS, DATASETS, TRANSFORMS, LOSSES, OPTIMIZERS, CLIPS, SCHEDULES]
ENTRIES = [
    pytest.param(registry, name, id=f"{registry.kind}-{name}")
    for registry in REGISTRIES
    for name in registry.names()
]


# -------------------------------------------------------------------------------------------------
# Our own entries
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("registry", "name"), ENTRIES)
def test_every_option_has_a_type_that_its_default_fits(registry, name):
    for option in registry.options(name).values():
        assert list(option.problems(object()))
        assert "anything" not in option.words
        assert option.required or not list(option.problems(option.default))


def test_there_are_entries_of_every_kind():
    assert len({registry.kind for registry in REGISTRIES}) == len(REGISTRIES)
    assert all(registry.names() for registry in REGISTRIES)


# -------------------------------------------------------------------------------------------------
# A user's entries
# -------------------------------------------------------------------------------------------------
@pytest.fixture
def registry() -> Registry:
    registry = Registry("thing")
    registry.register(Empty)
    return registry


class Empty:
    pass


class Box:
    def __init__(self, *given, width: int, lid: Literal["flat", "round"] = "flat", label: str = ""):
        self.given, self.width, self.lid, self.label = given, width, lid, label


@dataclass(frozen=True, kw_only=True)
class Ball:
    radius: float
    colours: "Sequence[str]" = ("red",)


def make(*given, times: int = 1) -> tuple:
    return given * times


def test_register_is_a_decorator_that_returns_its_target(registry):
    assert registry.register(Box) is Box
    assert "Box" in registry
    assert "Ball" not in registry
    assert registry.names() == ["Box", "Empty"]
    assert registry.get("Box") is Box


def test_an_entry_under_another_name(registry):
    assert registry.register("Crate")(Box) is Box
    assert registry.get("Crate") is Box
    assert registry.names() == ["Crate", "Empty"]


def test_modules_are_imported_when_an_entry_is_asked_for(tmp_path, monkeypatch):
    """And before a user's entry is added, so that a name is not given twice."""
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("thing", ["lazy_things"])
    monkeypatch.setattr("passl.utils.registry.LAZY", registry, raising=False)
    (tmp_path / "lazy_things.py").write_text(
        "from passl.utils.registry import LAZY\n@LAZY.register\ndef Lazy(*, a: int = 1):\n"
        "    return a\n"
    )
    assert "lazy_things" not in sys.modules
    assert registry.names() == ["Lazy"]
    assert registry.build({"name": "Lazy", "a": 2}) == 2
    with pytest.raises(ValueError, match="there is a thing 'Lazy' already"):
        registry.register("Lazy")(Box)


@pytest.mark.parametrize("name", ["Box", "Empty"])
def test_a_name_that_is_registered_already(registry, name):
    registry.register(Box)
    other = type(name, (), {})
    with pytest.raises(ValueError, match=rf"there is a thing '{name}' already; choose another"):
        registry.register(other)
    assert registry.get(name) is not other


def test_signatures_that_register_refuses():
    """What stands before the options is the code's; a user may forget the star."""
    registry = Registry("schedule", given=("lr", "epochs"), required=("low",))

    class Right:
        def __init__(self, lr, epochs, *, low: float, high: float = 1.0):
            pass

    class Inherits(Right):
        pass

    class Positional:
        def __init__(self, lr, epochs, high=1.0, *, low: float):
            pass

    class Few:
        def __init__(self, *, low: float):
            pass

    class Defaults:
        def __init__(self, lr, epochs, *, low: float = 0.0):
            pass

    @dataclass
    class Fields:
        low: float

    registry.register(Right)
    registry.register(Inherits)
    for wrong, rule in (
        (Positional, r"Positional takes \(lr, epochs, high\) in front, .* takes \(lr, epochs\)"),
        (Few, r"Few takes \(\) in front"),
        (Defaults, "Defaults must take low as keyword-only arguments.* without a default"),
        (Fields, "Fields must take low as keyword-only"),
    ):
        with pytest.raises(ValueError, match=rule):
            registry.register(wrong)
    assert registry.names() == ["Inherits", "Right"]


def test_a_layer_without_a_constructor_has_no_options(registry):
    class Base:  # such as paddle.nn.Layer
        def __init__(self, name_scope=None, dtype="float32"):
            pass

    class Mean(Base):
        pass

    registry.register(Mean)
    assert registry.options("Mean") == {}


def test_registries_do_not_share_entries(registry):
    registry.register(Box)
    assert "Box" not in Registry("thing")


def test_build_a_class(registry):
    registry.register(Box)
    box = registry.build({"name": "Box", "width": 3, "lid": "round"}, "first", 2)
    assert (box.given, box.width, box.lid, box.label) == (("first", 2), 3, "round", "")


def test_build_a_dataclass_and_a_function(registry):
    registry.register(Ball)
    registry.register(make)
    assert registry.build({"name": "Ball", "radius": 1}) == Ball(radius=1)
    assert registry.build({"name": "Ball", "radius": 1, "colours": ["blue"]}).colours == ["blue"]
    assert registry.build({"name": "make", "times": 2}, "a", "b") == ("a", "b", "a", "b")


def test_build_from_a_config(registry):
    registry.register(Ball)
    node = Config({"name": "Ball", "radius": 0.5, "colours": ["blue", "red"]})
    assert registry.build(node) == Ball(radius=0.5, colours=("blue", "red"))


def test_build_does_not_change_the_node(registry):
    registry.register(Ball)
    node = {"name": "Ball", "radius": 1, "colours": ["blue"]}
    before = copy.deepcopy(node)
    assert registry.build(node) == registry.build(node)
    assert node == before


def test_arguments_are_the_nodes_and_the_defaults(registry):
    registry.register(Box)
    arguments = registry.arguments({"name": "Box", "width": 3, "label": "x"})
    assert arguments == {"width": 3, "lid": "flat", "label": "x"}


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ({}, "thing: name: there is no thing null; there are Box, Empty"),
        ({"name": "Bax"}, "thing: name: there is no thing 'Bax'; did you mean 'Box'?"),
        ({"name": "Box"}, "thing Box: width is missing"),
        ({"name": "Box", "width": "3"}, "thing Box: width: must be a whole number, not '3'"),
        (
            {"name": "Box", "width": 3, "lib": "flat"},
            "thing Box: lib: 'lib' is not an option of Box; did you mean 'lid'?",
        ),
        (
            {"name": "Box", "width": 3, "lid": "open"},
            "thing Box: lid: must be one of flat, round, not 'open'",
        ),
        (
            {"name": "Box", "width": 3, "given": 1},
            "thing Box: given: 'given' is not an option of Box; there are label, lid, width",
        ),
    ],
)
def test_build_reports_wrong_nodes(registry, node, problem):
    registry.register(Box)
    with pytest.raises(ConfigError) as caught:
        registry.build(node)
    assert caught.value.problems == (problem,)


def test_an_entry_is_checked_in_a_direct_call_too(registry):
    registry.register(Box)
    assert Box(width=3).width == 3
    with pytest.raises(ConfigError, match="^Box.width: must be a whole number, not '3'$"):
        Box(width="3")


def test_rules_between_options_are_checked_without_building(registry):
    @registry.register
    class Range:
        def __init__(self, *, low: float = 0, high: float):
            raise AssertionError("built")

        @staticmethod
        def check_options(*, low: float, high: float) -> None:
            if low > high:
                raise ValueError(f"low {low} is above high {high}")

    registry.check({"name": "Range", "high": 1})
    with pytest.raises(ConfigError, match="^thing Range: low 0 is above high -1$"):
        registry.check({"name": "Range", "high": -1})


def test_a_value_error_of_an_entry_is_a_config_error(registry):
    def picky(*, a: int = 1, b: int = 1):
        if a > b:
            raise ValueError(f"a {a} is above b {b}")

    registry.register(picky)
    with pytest.raises(ConfigError, match="^thing picky: a 2 is above b 1$"):
        registry.build({"name": "picky", "a": 2})


@pytest.mark.parametrize(("registry", "name"), ENTRIES)
def test_defaults_go_together(registry, name):
    some = (4, 0.5, "val", "contrast", [1.0], [4, 8, 16, 32])  # for what has no default
    needed = {
        key: next(value for value in some if not list(option.problems(value)))
        for key, option in registry.options(name).items()
        if option.required
    }
    registry.check({"name": name, **needed})


def test_a_config_error_of_an_entry_passes_unchanged(registry):
    def picky(*, a: int = 1):
        raise ConfigError("one", "two")

    registry.register(picky)
    with pytest.raises(ConfigError) as caught:
        registry.build({"name": "picky"})
    assert caught.value.problems == ("one", "two")


def test_other_errors_of_an_entry_are_not_config_errors(registry):
    def broken(*, a: int = 1):
        raise KeyError("bug")

    registry.register(broken)
    with pytest.raises(KeyError, match="bug"):
        registry.build({"name": "broken"})


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Sequence[int], [1]),
        (Sequence[int] | None, [1]),
        (Mapping[str, Any], {"a": 1}),
        (float | Literal["auto"], "auto"),
        (Optional[int], 3),  # noqa: UP045
        (Union[int, str], "a"),  # noqa: UP007
        (list[int], [1]),
        (list, [1]),
        (dict, {"a": 1}),
        (tuple[int, ...], [1, 2, 3]),
        ("Optional[int]", 3),
        ("list[int]", [1]),
        ("dict[str, Any]", {"a": 1}),
        ("tuple[int, ...]", [1, 2, 3]),
    ],
    ids=str,
)
def test_annotations_that_a_user_may_write(registry, annotation, value):
    def target(*, value: annotation):
        return value

    registry.register(target)
    assert registry.build({"name": "target", "value": value}) == value
