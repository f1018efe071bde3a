"""Signatures as schemas: types, their words, and everything that a spec does not allow."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from passl.errors import ConfigError
from passl.utils.config import Config
from passl.utils.schema import (
    REQUIRED,
    Choice,
    Many,
    Parameter,
    Section,
    describe,
    fits,
    problems_in,
    read_signature,
    signature_of,
)


# -------------------------------------------------------------------------------------------------
# Types
# -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        ("bool", [True, False], [0, 1, "true", None]),
        ("int", [0, -1, 10**30], [True, False, 1.0, "1", None, [1]]),
        ("float", [0.5, 1, 0, float("inf")], [True, False, "0.5", None, [0.5]]),
        ("str", ["", "a", "5"], [5, None, True, ["a"]]),
        ("None", [None], [0, False, "", [], {}]),
        ("Any", [None, 1, "a", [], {}, object()], []),
        ("int | None", [1, None], [1.5, "1", False, []]),
        ("str | bool", ["a", True], [1, None, 1.5]),
        ("int | Sequence[int]", [1, [1, 2], (1,), []], [1.5, [1.5], "12", [[1]], [True], None]),
        ("Sequence[float]", [[1, 2.5], (), [0]], [1.0, [None], ["1"], [True]]),
        ("Sequence[str]", [["a", "b"], ()], ["ab", [1], {"a": 1}]),
        ("Sequence[Sequence[int]]", [[[1], []], []], [[1], [[1.5]], [[[1]]]]),
        ("Sequence[int | None]", [[1, None]], [[1, "a"], None]),
        ("tuple[float, float]", [[0.1, 1], (1, 2)], [[1], [1, 2, 3], [1, "a"], 1.0, None, []]),
        ("tuple[int, str]", [[1, "a"]], [["a", 1], [1, 1], ["a", "a"]]),
        ("tuple[int]", [[1]], [[], [1, 2], 1]),
        ("Literal['a', 'b']", ["a", "b"], ["c", "", None, ["a"], 1]),
        ("Literal['a']", ["a"], ["b"]),
        ("Literal['a', 'b'] | None", ["a", None], ["c", "None"]),
        ("Literal[1, 2]", [1, 2], [3, "1", None]),
        ("Mapping[str, Any]", [{}, {"a": 1}, Config({"a": 1})], [[], None, "a", [("a", 1)]]),
        ("Mapping", [{}, Config({})], [[], None]),
        ("Mapping[str, Any] | None", [{"a": 1}, None], [[], "a"]),
    ],
)
def test_fits(annotation, right, wrong):
    assert [value for value in right if not fits(annotation, value)] == []
    assert [value for value in wrong if fits(annotation, value)] == []


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ("bool", "true or false"),
        ("int", "a whole number"),
        ("float", "a number"),
        ("str", "text"),
        ("Mapping[str, Any]", "a mapping"),
        ("int | None", "a whole number, or null"),
        ("Sequence[int] | None", "a list of whole numbers, or null"),
        ("float | Sequence[float]", "a number, or a list of numbers"),
        ("Sequence[str]", "a list of texts"),
        ("Sequence[bool]", "a list of trues and falses"),
        ("tuple[float, float]", "a list of 2 numbers"),
        ("tuple[int, int, int]", "a list of 3 whole numbers"),
        ("Literal['train', 'val']", "one of train, val"),
        ("Literal['a', 'b'] | None", "one of a, b, or null"),
        ("Sequence[Sequence[int]]", "a list of items, each a list of whole numbers"),
        ("Sequence[Mapping[str, Any]]", "a list of items, each a mapping"),
    ],
)
def test_describe(annotation, words):
    assert describe(annotation) == words


def test_describe_a_tuple_of_different_types():
    assert "text" in describe("tuple[int, str]")


# -------------------------------------------------------------------------------------------------
# Specs
# -------------------------------------------------------------------------------------------------
SIGNATURES = {
    "Crop": {"size": Parameter("int"), "p": Parameter("float", 0.5)},
    "Flip": {"axis": Parameter("Literal['x', 'y']", "x")},
}


def narrow(*, size: int, p: float) -> None:
    if p > size:
        raise ValueError(f"p {p} is above size {size}")


def noted(*, note: str) -> None:
    if note == "wrong":
        raise ConfigError("note is wrong")


# What a Choice asks of a registry.
KINDS = SimpleNamespace(
    kind="transform",
    names=lambda: sorted(SIGNATURES),
    signature=SIGNATURES.__getitem__,
    rule={"Crop": narrow, "Flip": None}.get,
)
CHOICE = Choice(KINDS, {"note": Parameter("str", "")}, rule=noted)
SPEC = Section(
    {
        "epochs": Parameter("int"),
        "seed": Parameter("int", 0),
        "data": Section({"batch_size": Parameter("int"), "transforms": Many(CHOICE)}),
        "loader": Section({"workers": Parameter("int", 0)}, required=False),
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
    for keys, rule in problems_in(SPEC, data):
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
        (True, "must be a whole number, not True"),
        (1.5, "must be a whole number, not 1.5"),
        ("1", "must be a whole number, not '1'"),
        (None, "must be a whole number, not None"),
        ([1], "must be a whole number, not [1]"),
        ((1, "a"), "must be a whole number, not [1, 'a']"),
        ({"a": 1}, "must be a whole number, not a mapping"),
    ],
)
def test_a_wrong_type(value, rule):
    assert found({**RIGHT, "epochs": value}) == {("epochs",): rule}


def test_a_long_list_is_not_written_out():
    (rule,) = found({**RIGHT, "epochs": list(range(1000))}).values()
    assert rule.startswith("must be a whole number, not a list")
    assert len(rule) < 60


@pytest.mark.parametrize("value", [None, [], "a", 1])
def test_a_section_that_is_no_mapping(value):
    (rule,) = found({**RIGHT, "loader": value}).values()
    assert rule.startswith("must be a mapping, not ")


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
    assert found({**RIGHT, "one": node}) == {
        ("one",): "needs a name: which transform; there are Crop, Flip"
    }


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

    section = Section({"workers": Parameter("int", 1)}, rule=even)
    assert list(problems_in(section, {"workers": 2})) == []
    assert list(problems_in(section, {})) == [((), "workers 1 is odd")]


def test_all_problems_at_once():
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


# -------------------------------------------------------------------------------------------------
# Signatures
# -------------------------------------------------------------------------------------------------
SOURCE = '''
raise ImportError("reading a signature must not run the module")

SIZE = 3


class WithInit:
    def __init__(self, given, /, also=1, *, a: int, b: Sequence[int] | None = None,
                 c: Literal["x", 'y'] = "x", d=2, e: float = -1e-3, f: int = SIZE):
        pass

    def method(self, *, other: int = 1):
        pass


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Has fields."""

    shared: ClassVar[bool] = True
    also_shared: typing.ClassVar[int]
    a: int
    b: tuple[float, float] = (0.5, 1)

    def __call__(self, *, c: int = 1):
        pass


def function(parameters, *, value: float, other: str = "a"):
    pass


class Bare:
    pass
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module with SOURCE."""
    name = f"signatures_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_signature_of_a_class(module):
    assert read_signature(f"{module}:WithInit") == {
        "a": Parameter("int", REQUIRED),
        "b": Parameter("Sequence[int] | None", None),
        "c": Parameter("Literal['x', 'y']", "x"),
        "d": Parameter("Any", 2),
        "e": Parameter("float", -1e-3),
        "f": Parameter("int", None),
    }


def test_signature_of_a_dataclass(module):
    assert read_signature(f"{module}:Fields") == {
        "a": Parameter("int", REQUIRED),
        "b": Parameter("tuple[float, float]", (0.5, 1)),
    }


def test_signature_of_a_function(module):
    assert read_signature(f"{module}:function") == {
        "value": Parameter("float", REQUIRED),
        "other": Parameter("str", "a"),
    }


def test_signature_of_a_class_without_arguments(module):
    assert read_signature(f"{module}:Bare") == {}


def test_reading_a_signature_imports_nothing(module):
    assert "a" in read_signature(f"{module}:WithInit")
    assert module not in sys.modules
    with pytest.raises(ImportError, match="must not run"):
        __import__(module)


def test_a_name_that_is_not_defined(module):
    with pytest.raises(AssertionError, match=f"{module}:Gone is not defined in .*{module}.py"):
        read_signature(f"{module}:Gone")


def test_signature_of_an_imported_target():
    def target(given, /, also=1, *, a: int, b: Sequence[int] | None = None, c=2, **rest):  # noqa: F821
        pass

    assert signature_of(target) == {
        "a": Parameter("int", REQUIRED),
        "b": Parameter("Sequence[int] | None", None),
        "c": Parameter("Any", 2),
    }
