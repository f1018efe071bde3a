"""Signatures as schemas: types, their words, and everything that a spec does not allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal

import pytest
from annotated_types import Ge, MinLen
from pydantic import AfterValidator, Field

from passl.errors import ConfigError
from passl.utils.config import Config
from passl.utils.schema import (
    REQUIRED,
    Choice,
    Many,
    Option,
    Section,
    options_of,
    section_of,
    validated,
)
from passl.utils.types import (
    Color,
    Fraction,
    ImageSize,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Rate,
)


# -------------------------------------------------------------------------------------------------
# Types
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        (bool, [True, False], [0, 1, "true", None]),
        (int, [0, -1, 10**30], [True, False, 1.0, "1", None, [1]]),
        (float, [0.5, 1, 0, float("inf")], [True, False, "0.5", None, [0.5]]),
        (str, ["", "a", "5"], [5, None, True, ["a"]]),
        (type(None), [None], [0, False, "", [], {}]),
        (Any, [None, 1, "a", [], {}, object()], []),
        (int | None, [1, None], [1.5, "1", False, []]),
        (str | bool, ["a", True], [1, None, 1.5]),
        (int | Sequence[int], [1, [1, 2], (1,), []], [1.5, [1.5], "12", [[1]], [True], None]),
        (Sequence[float], [[1, 2.5], (), [0]], [1.0, [None], ["1"], [True]]),
        (Sequence[str], [["a", "b"], ()], ["ab", [1], {"a": 1}]),
        (Sequence[Sequence[int]], [[[1], []], []], [[1], [[1.5]], [[[1]]]]),
        (Sequence[int | None], [[1, None]], [[1, "a"], None]),
        (tuple[float, float], [[0.1, 1], (1, 2)], [[1], [1, 2, 3], [1, "a"], 1.0, None, []]),
        (tuple[int, str], [[1, "a"]], [["a", 1], [1, 1], ["a", "a"]]),
        (tuple[int], [[1]], [[], [1, 2], 1]),
        (Literal["a", "b"], ["a", "b"], ["c", "", None, ["a"], 1]),
        (Literal["a"], ["a"], ["b"]),
        (Literal["a", "b"] | None, ["a", None], ["c", "None"]),
        (Literal[1, 2], [1, 2], [3, "1", None]),
        (Mapping[str, Any], [{}, {"a": 1}, Config({"a": 1})], [[], None, "a", [("a", 1)]]),
        (Mapping, [{}, Config({})], [[], None]),
        (Mapping[str, Any] | None, [{"a": 1}, None], [[], "a"]),
        (list[int], [[1], (1,)], [[1.5], "1", {1: 2}]),
        (PositiveInt, [1, 10**30], [0, -1, True, 1.0, "1"]),
        (NonNegativeInt | None, [0, None], [-1, False]),
        (PositiveFloat, [1, 0.1], [0, -1, float("inf"), float("nan"), True]),
        (Probability, [0, 0.5, 1], [-0.1, 1.1, float("nan"), "0.5", False]),
        (Rate, [0, 0.5], [1, -0.1, float("nan")]),
        (Fraction, [1, 0.5], [0, 1.1, float("nan")]),
        (Color, [[0, 128, 255], (1, 2, 3)], [[0, 0, 256], [0, 0], 5, [0, 0, True]]),
        (ImageSize, [32, [32, 64], (1, 1)], [0, [0, 1], [32], [1, 2, 3], 1.5, True, "32"]),
    ],
)
def test_values_of_a_type(annotation, right, wrong):
    option = Option(annotation)
    assert [value for value in right if list(option.problems(value))] == []
    assert [value for value in wrong if not list(option.problems(value))] == []


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        (str, "text"),
        (Mapping[str, Any], "a mapping"),
        (int | None, "a whole number, or null"),
        (Sequence[int] | None, "a list, each a whole number, or null"),
        (float | Sequence[float], "a number, or a list, each a number"),
        (Sequence[str], "a list, each text"),
        (Sequence[bool], "a list, each true or false"),
        (tuple[float, float], "a list of 2, each a number"),
        (tuple[int, int, int], "a list of 3, each a whole number"),
        (Literal["train", "val"], "one of train, val"),
        (Literal["a", "b"] | None, "one of a, b, or null"),
        (tuple[int, str], "a list of 2, each a whole number or text"),
        (PositiveInt | None, "a whole number of at least 1, or null"),
        (Sequence[PositiveInt], "a list, each a whole number of at least 1"),
        (Annotated[Sequence[int], MinLen(1)], "a list of at least 1, each a whole number"),
        (PositiveFloat, "a number above 0"),
        (Probability, "a number from 0 to 1"),
        (Rate, "a number of at least 0 and below 1"),
        (Fraction, "a number above 0 and at most 1"),
        (Annotated[int, Field(le=3)], "a whole number at most 3"),
        (Color, "a list of 3, each a whole number from 0 to 255"),
        (ImageSize, "one number of pixels, or [height, width]"),
        (Any, "Any"),
        (Sequence[Sequence[int]], "a list, each a list, each a whole number"),
        (Sequence[Mapping[str, Any]], "a list, each a mapping"),
    ],
)
def test_a_type_in_words(annotation, words):
    assert Option(annotation).words == words


@pytest.mark.parametrize("annotation", [Callable, Callable[[int], str], type[int]])
def test_a_type_that_no_config_can_give_has_words(annotation):
    assert Option(annotation).words


def test_a_type_that_pydantic_does_not_know_takes_any_value():
    assert list(Option(SimpleNamespace | None).problems(5)) == []


def test_a_message_never_shows_pydantic():
    """Neither its words nor its addresses; an annotation's own rule speaks for itself."""

    def even(value: int) -> int:
        if value % 2:
            raise ValueError(f"{value} is odd")
        return value

    option = Option(Annotated[int, Ge(0), AfterValidator(even)])

    def rules(option: Option, value) -> list[str]:
        return [rule for _, rule in option.problems(value)]

    assert rules(option, 2) == []
    assert rules(option, 3) == ["3 is odd"]
    assert rules(option, -2) == ["must be a whole number of at least 0, not -2"]
    (rule,) = rules(Option(PositiveInt), "x")
    assert rule == "must be a whole number of at least 1, not 'x'"


# -------------------------------------------------------------------------------------------------
# Specs
# -------------------------------------------------------------------------------------------------
class Crop:
    def __init__(self, *, size: int, p: float = 0.5):
        pass

    @staticmethod
    def check_options(*, size: int, p: float) -> None:
        if p > size:
            raise ValueError(f"p {p} is above size {size}")


def flip(image, *, axis: Literal["x", "y"] = "x"):
    pass


def noted(*, note: str) -> None:
    if note == "wrong":
        raise ConfigError("note is wrong")


ENTRIES = {"Crop": Crop, "Flip": flip}
# What a Choice asks of a registry.
KINDS = SimpleNamespace(kind="transform", names=lambda: sorted(ENTRIES), get=ENTRIES.__getitem__)
CHOICE = Choice(KINDS, {"note": Option(str, "")}, check=noted)
SPEC = Section(
    {
        "epochs": Option(int),
        "seed": Option(int, 0),
        "data": Section({"batch_size": Option(int), "transforms": Many(CHOICE)}),
        "loader": Section({"workers": Option(int, 0)}, required=False),
        "extra": Many(CHOICE, required=False),
        "one": Choice(KINDS, required=False),
    }
)
RIGHT = {
    "epochs": 1,
    "data": {"batch_size": 2, "transforms": [{"name": "Crop", "size": 3}, {"name": "Flip"}]},
}


def found(data) -> dict:
    """The problems, by the place where they stand; those of one place in one text."""
    problems: dict = {}
    for keys, rule in SPEC.problems(data):
        problems[keys] = f"{problems[keys]}; {rule}" if keys in problems else rule
    return problems


@pytest.mark.parametrize("wrap", [dict, Config])
def test_right_data_has_no_problem(wrap):
    assert found(wrap(RIGHT)) == {}
    full = {
        **RIGHT,
        "seed": 1,
        "loader": {"workers": 1},
        "extra": [{"name": "Flip", "axis": "y", "note": "mine"}],
        "one": {"name": "Crop", "size": 1, "p": 1},
    }
    assert found(wrap(full)) == {}


def test_unknown_key_with_suggestion():
    data = {**RIGHT, "sed": 1, "data": {**RIGHT["data"], "zzz": 2}}
    assert found(data) == {
        ("sed",): "'sed' is not a key; did you mean 'seed'?",
        ("data", "zzz"): "'zzz' is not a key; there are batch_size, transforms",
    }


def test_unknown_option_of_an_entry():
    data = {**RIGHT, "one": {"name": "Crop", "size": 1, "sise": 2, "axis": "x"}}
    assert found(data)["one", "sise"] == "'sise' is not an option of Crop; did you mean 'size'?"
    assert found(data)["one", "axis"].startswith("'axis' is not an option of Crop; there are ")


def test_an_option_of_the_place_belongs_to_that_place_only():
    node = {"name": "Flip", "note": "mine"}
    assert found({**RIGHT, "extra": [node]}) == {}
    assert ("one", "note") in found({**RIGHT, "one": node})


def test_what_is_missing_is_named_where_it_should_stand():
    assert found({}) == {(): "epochs is missing; data is missing"}
    assert found({"epochs": 1, "data": {}}) == {
        ("data",): "data.batch_size is missing; data.transforms is missing"
    }
    transforms = [{"name": "Flip"}, {"name": "Crop"}]
    data = {**RIGHT, "data": {"batch_size": 1, "transforms": transforms}}
    assert found(data) == {("data", "transforms", 1): "data.transforms.1.size is missing"}


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (True, "must be a whole number, not true"),
        (1.5, "must be a whole number, not 1.5"),
        ("1", "must be a whole number, not '1'"),
        (None, "must be a whole number, not null"),
        ([1], "must be a whole number, not [1]"),
        ((1, "a"), 'must be a whole number, not [1, "a"]'),
        ({"a": 1}, 'must be a whole number, not {"a": 1}'),
    ],
)
def test_a_wrong_type(value, rule):
    assert found({**RIGHT, "epochs": value}) == {("epochs",): rule}


def test_a_long_list_is_not_written_out():
    (rule,) = found({**RIGHT, "epochs": list(range(1000))}).values()
    assert rule.startswith("must be a whole number, not [0, 1, 2")
    assert len(rule) < 130


@pytest.mark.parametrize("value", [None, [], "a", 1])
def test_a_section_that_is_no_mapping(value):
    (rule,) = found({**RIGHT, "loader": value}).values()
    assert rule.startswith("must be a mapping, not ")
    assert ("leave it out" in rule) == (value is None)


@pytest.mark.parametrize("value", [None, {}, "ab", {"name": "Flip"}])
def test_a_list_that_is_none(value):
    problems = found({**RIGHT, "extra": value})
    assert list(problems) == [("extra",)]
    assert problems["extra",].startswith("must be a list, not ")


def test_an_item_that_is_no_mapping():
    assert found({**RIGHT, "extra": [{"name": "Flip"}, "Flip"]}) == {
        ("extra", 1): "must be a mapping, not 'Flip'"
    }


@pytest.mark.parametrize("node", [{}, {"name": None}, {"name": 5}, {"name": ["Crop"]}, {"size": 1}])
def test_a_node_without_a_name(node):
    assert list(found({**RIGHT, "one": node})) == [("one", "name")]


def test_a_name_that_there_is_not():
    assert found({**RIGHT, "one": {"name": "Corp", "anything": 1}}) == {
        ("one", "name"): "there is no transform 'Corp'; did you mean 'Crop'?"
    }


def test_a_rule_is_asked_with_values_and_defaults():
    def problems(**node):
        return found(RIGHT | {"extra": [{"name": "Crop", **node}]})

    assert problems(size=1) == {}
    assert problems(size=0) == {("extra", 0): "p 0.5 is above size 0"}
    assert problems(size=1, p=2.0) == {("extra", 0): "p 2.0 is above size 1"}
    assert problems(size=1, p=2.0, note="wrong") == {
        ("extra", 0): "p 2.0 is above size 1; note is wrong"
    }


def test_a_rule_is_not_asked_where_something_else_is_wrong():
    assert found(RIGHT | {"extra": [{"name": "Crop", "size": 0, "side": 1}]}).keys() == {
        ("extra", 0, "side")
    }
    assert found(RIGHT | {"extra": [{"name": "Crop", "size": "0"}]}).keys() == {
        ("extra", 0, "size")
    }


def test_the_rule_of_a_section():
    def even(*, workers: int) -> None:
        if workers % 2:
            raise ValueError(f"workers {workers} is odd")

    section = Section({"workers": Option(int, 1)}, check=even)
    assert list(section.problems({"workers": 2})) == []
    assert list(section.problems({})) == [((), "workers 1 is odd")]


def test_all_problems_are_reported_together():
    data = {
        "epochs": "ten",
        "sed": 1,
        "data": {"transforms": [{"name": "Crop", "p": "x"}, {"name": "Flop"}, 5]},
        "loader": {"workers": 1.5},
        "extra": 3,
    }
    assert set(found(data)) == {
        ("epochs",),
        ("sed",),
        ("data",),
        ("data", "transforms", 0, "p"),
        ("data", "transforms", 0),
        ("data", "transforms", 1, "name"),
        ("data", "transforms", 2),
        ("loader", "workers"),
        ("extra",),
    }


def test_a_derived_option_may_be_left_out():
    """Given, it is checked; absent, the code knows it, and rules that would need it wait."""
    choice = Choice(KINDS, derived=("size",))
    assert list(choice.problems({"name": "Crop"})) == []
    assert list(choice.problems({"name": "Crop", "size": 0})) == [((), "p 0.5 is above size 0")]
    assert [keys for keys, _ in choice.problems({"name": "Crop", "size": "x"})] == [("size",)]


# -------------------------------------------------------------------------------------------------
# Signatures
# -------------------------------------------------------------------------------------------------
SIZE = 3


class WithInit:
    def __init__(
        self,
        given: Unknown,  # noqa: F821  (only options are looked at)
        /,
        also=1,
        *,
        a: int,
        b: Sequence[int] | None = None,
        c=2,
        d: int = SIZE,
    ):
        pass


@dataclass(frozen=True, kw_only=True)
class Fields:
    shared: ClassVar[bool] = True
    a: int
    b: tuple[float, float] = (0.5, 1)

    def __call__(self, *, c: int = 1):
        pass


def function(parameters, *, value: float, other: str = "a", **rest):
    pass


class Bare:
    pass


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (
            WithInit,
            {
                "a": Option(int),
                "b": Option(Sequence[int] | None, None),
                "c": Option(Any, 2),
                "d": Option(int, 3),
            },
        ),
        (Fields, {"a": Option(int), "b": Option(tuple[float, float], (0.5, 1))}),
        (function, {"value": Option(float), "other": Option(str, "a")}),
        (Bare, {}),
    ],
)
def test_options_of_a_target(target, options):
    assert options_of(target) == options
    assert [option.required for option in options.values()] == [
        option.default is REQUIRED for option in options.values()
    ]


def test_an_annotation_that_cannot_be_evaluated():
    def target(*, a: Nowhere = None):  # noqa: F821
        pass

    with pytest.raises(ValueError, match="target: the annotation .* 'Nowhere' is not defined"):
        options_of(target)


# -------------------------------------------------------------------------------------------------
# Direct calls
# -------------------------------------------------------------------------------------------------
@validated
class Box:
    def __init__(self, label, *, width: PositiveInt, height: PositiveInt = 2):
        self.label, self.area = label, width * height

    @staticmethod
    def check_options(*, width: int, height: int) -> None:
        if height > width:
            raise ValueError(f"height {height} is above width {width}")


def test_a_direct_call_is_checked():
    assert Box("a", width=3).area == 6
    with pytest.raises(ConfigError) as caught:
        Box("a", width=0, height="x")
    assert caught.value.problems == (
        "Box.width: must be a whole number of at least 1, not 0",
        "Box.height: must be a whole number of at least 1, not 'x'",
    )
    with pytest.raises(ConfigError, match="^Box: height 2 is above width 1$"):
        Box("a", width=1)


def test_python_says_what_is_missing_or_unknown_in_a_direct_call():
    with pytest.raises(TypeError, match="width"):
        Box("a")
    with pytest.raises(TypeError, match="depth"):
        Box("a", width=1, depth=2)


def test_a_validated_target_keeps_its_signature_and_its_subclasses_work():
    class Cube(Box):
        def __init__(self, *, side: int):
            super().__init__("cube", width=side, height=side)

    assert options_of(Box) == {"width": Option(PositiveInt), "height": Option(PositiveInt, 2)}
    assert Cube(side=3).area == 9
    with pytest.raises(ConfigError, match="Box.width"):
        Cube(side=-1)

    @validated
    def scaled(x, *, factor: PositiveFloat = 1.0):
        return x * factor

    assert scaled(2, factor=3) == 6
    with pytest.raises(ConfigError, match="scaled.factor: must be a number above 0, not -1"):
        scaled(2, factor=-1)


def test_a_path_object_is_text_to_a_direct_call(tmp_path):
    @validated
    def opened(*, dataroot: str) -> str:
        return dataroot

    assert opened(dataroot=tmp_path) == str(tmp_path)


def test_a_section_of_a_class_has_its_options_and_its_rule():
    section = section_of(Box)
    assert not section.required
    assert list(section.problems({"width": 1})) == [((), "height 2 is above width 1")]
