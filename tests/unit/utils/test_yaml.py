"""YAML 1.2: what a scalar means, what is refused and where, and the way back to text."""

from __future__ import annotations

import copy
import re

import pytest

from passl.errors import ConfigError
from passl.utils.yaml import parse, read, to_yaml

INF, NAN = float("inf"), float("nan")


def identical(left, right) -> bool:
    """Equal in value and type at every place; nan equals nan and 0.0 is not -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(identical(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(identical, left, right))
    return repr(left) == repr(right)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1e3", 1000.0),
        ("+12E03", 12000.0),
        ("-2E+05", -2e5),
        ("0.", 0.0),
        ("-0.0", -0.0),
        (".5", 0.5),
        ("1.e2", 100.0),
        (".inf", INF),
        ("-.Inf", -INF),
        ("+.INF", INF),
        (".nan", NAN),
        (".NaN", NAN),
        ("0", 0),
        ("-19", -19),
        ("+7", 7),
        ("010", 10),
        ("-010", -10),
        ("0o17", 15),
        ("0x1f", 31),
        ("0x3A", 58),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("null", None),
        ("Null", None),
        ("~", None),
        ("", None),
    ],
)
def test_scalar_of_the_core_schema(text, value):
    assert identical(parse(f"key: {text}", "f")[0], {"key": value})


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "yes",
        "on",
        "Off",
        "y",
        "N",
        "tRUE",
        "nUll",
        "nan",
        "inf",
        "e3",
        "5e",
        "0b11",
        "0o8",
        "0O7",
        "0X1F",
        "0xg",
        "+0x1",
        "-0o7",
        "1_000",
        "1:30",
        "1.2.3",
        "+-1",
        ".",
        "2020-01-01",
        "=",
        "<<",
    ],
)
def test_word_that_is_not_a_number_boolean_or_date(text):
    assert identical(parse(f"key: {text}", "f")[0], {"key": text})


@pytest.mark.parametrize("text", ["5e-4", "no", "010", "true", "null", "~", "", ".inf", "0x1f"])
@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_make_text(text, quote):
    assert identical(parse(f"key: {quote}{text}{quote}", "f")[0], {"key": text})


def test_example_of_the_specification():
    """YAML 1.2.2, example 10.9."""
    text = """\
A null: null
Booleans: [ true, True, false, FALSE ]
Integers: [ 0, 0o7, 0x3A, -19 ]
Floats: [
  0., -0.0, .5, +12e03, -2E+05 ]
Also floats: [
  .inf, -.Inf, +.INF, .NAN ]
"""
    expected = {
        "A null": None,
        "Booleans": [True, True, False, False],
        "Integers": [0, 7, 58, -19],
        "Floats": [0.0, -0.0, 0.5, 12000.0, -200000.0],
        "Also floats": [INF, -INF, INF, NAN],
    }
    assert identical(parse(text, "f")[0], expected)


def test_block_text_is_text():
    assert parse("a: |\n  5\nb: >-\n  5\n  6\n", "f")[0] == {"a": "5\n", "b": "5 6"}


def test_merge_key_is_a_word_like_any_other():
    assert parse("<<: {a: 1}\nb: 2\n", "f")[0] == {"<<": {"a": 1}, "b": 2}


# -------------------------------------------------------------------------------------------------
# Refusals
# -------------------------------------------------------------------------------------------------
def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    return caught.value.problems


def test_duplicate_key():
    (problem,) = problems("a: 1\nb: 2\na: 3\n")
    assert re.match(r"f\.yaml:3: a: .*twice", problem)


def test_duplicate_key_deep_inside_is_named_by_its_path():
    (problem,) = problems("list:\n  - x: 1\n  - y: {z: 1, z: 1}\n")
    assert problem.startswith("f.yaml:3: list.1.y.z: ")


@pytest.mark.parametrize(
    "value", ["!x 5", "!!python/name:os.system ''", "!!set {a}", "!!timestamp 2020-01-01", "!t [1]"]
)
def test_tag(value):
    (problem,) = problems(f"a: 1\nb: {value}\n")
    assert re.match(r"f\.yaml:2: the tag .* not allowed", problem)


@pytest.mark.parametrize(
    "value", ["!!int abc", "!!float ''", "!!float abc", "!!bool yes", "!!null 5"]
)
def test_core_tag_on_something_else(value):
    (problem,) = problems(f"a: 1\nb: {value}\n")
    assert problem.startswith("f.yaml:2: ")


@pytest.mark.parametrize("key", ["5", "5e-4", "true", "~", "[a, b]", "{a: 1}", "!x word"])
def test_key_that_is_not_a_word(key):
    (problem,) = problems(f"a: 1\n? {key}\n: 2\n")
    assert re.match(r"f\.yaml:2: the key .* not a word", problem)


@pytest.mark.parametrize("key", ["'5'", '"true"', "no", "a b", "0b1"])
def test_quoted_key_and_word_are_keys(key):
    assert list(parse(f"{key}: 1", "f")[0]) == [key.strip("'\"")]


@pytest.mark.parametrize("text", ["a: &x [1, *x]\n", "a: &x {b: {c: *x}}\n", "a: &x\n- - *x\n"])
def test_alias_into_itself(text):
    (problem,) = problems(text)
    assert re.match(r"f\.yaml:\d: not a config: .* 100 levels", problem)


def test_alias_repeats_data_without_sharing_it():
    tree, origins = parse("a: &x {b: [1, 2]}\nc: *x\n", "f")
    assert tree == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}
    tree["a"]["b"].append(3)
    assert tree["c"] == {"b": [1, 2]}
    assert origins["c", "b", 0] == "f:1"


def bomb(leaf: str, width: int, levels: int) -> str:
    """A few lines whose aliases come to width ** levels leaves."""
    lines = [f"a0: &a0 {leaf}"]
    for level in range(1, levels + 1):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb("x", 10, 9),
        bomb("[]", 10, 9),
        bomb("{}", 10, 9),
        bomb("{k: v}", 10, 9),
    ],
    ids=["word", "list", "mapping", "item"],
)
def test_aliases_are_bounded(text):
    (problem,) = problems(text)
    assert re.match(r"f\.yaml(:\d+)?: not a config: .*100,000 values", problem)


def test_a_thousand_aliases_are_ordinary():
    text = "base: &x {name: Resize, size: 8}\nall:\n" + "- *x\n" * 1000
    assert parse(text, "f")[0]["all"] == [{"name": "Resize", "size": 8}] * 1000


def chain(levels: int) -> str:
    """Lists that are nested by aliases, in lines that are not."""
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, levels))]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [chain(2000), "[" * 102 + "]" * 102, "[" * 500 + "]" * 500, "{a: " * 101 + "1" + "}" * 101],
    ids=["aliases", "lists", "many lists", "mappings"],
)
def test_deep_nesting_is_refused(text):
    (problem,) = problems(text)
    assert re.match(r"f\.yaml(:\d+)?: not a config: .* 100 levels", problem)


@pytest.mark.parametrize("text", [chain(99), "[" * 100 + "]" * 100])
def test_nesting_up_to_the_limit(text):
    parse(text, "f.yaml")


def test_all_problems_at_once_in_the_order_of_the_file():
    text = """\
twice: 1
tagged: !x 1
5: five
inner:

  deep: {k: 1, k: 2}
twice: 2
"""
    lines = [problem.split(": ")[0] for problem in problems(text)]
    assert lines == [f"f.yaml:{line}" for line in (2, 3, 6, 7)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1, 2\n", 2),
        ("a: 'open\n", 2),
        ("a:\tb\n", 1),
        ("a: 1\nb: *nothing\n", 2),
        ("a: 1\n b: 2\n", 2),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: @x\n", 1),
        ("a: 1\n- b\n", 2),
    ],
)
def test_not_yaml(text, line):
    (problem,) = problems(text)
    assert re.match(rf"f\.yaml:{line}: not YAML: \S", problem)


def test_variable_in_braces_must_be_quoted():
    (problem,) = problems("a: 1\nb: {dataroot: ${DATA}/x}\n")
    assert re.match(r"f\.yaml:2: not YAML: .*must be quoted", problem)
    assert parse('b: {dataroot: "${DATA}/x"}', "f")[0] == {"b": {"dataroot": "${DATA}/x"}}


@pytest.mark.parametrize("text", ["a: \x00\n", "a: \x07\n", "a: \ud800\n"])
def test_character_outside_yaml(text):
    (problem,) = problems(text)
    assert re.match(r"f\.yaml: not YAML: .*character", problem)


def test_problem_with_a_character_is_one_line():
    (problem,) = problems("a: \x00\n")
    assert len(problem.splitlines()) == 1


# -------------------------------------------------------------------------------------------------
# Origins and files
# -------------------------------------------------------------------------------------------------
def test_origins_of_all_leaves_only():
    text = """\
a: 1

b:
  c: [2,
      3]
  d: {}
  e: []
f:
- g: null
  h:
    x
"""
    assert parse(text, "f")[1] == {
        ("a",): "f:1",
        ("b", "c", 0): "f:4",
        ("b", "c", 1): "f:5",
        ("b", "d"): "f:6",
        ("b", "e"): "f:7",
        ("f", 0, "g"): "f:9",
        ("f", 0, "h"): "f:11",
    }


@pytest.mark.parametrize("text", ["", "\n\n", "# a comment\n", "---\n"])
def test_empty_text(tmp_path, text):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    tree, _ = read(path)
    assert tree == {}


def test_read_gives_data_and_origins_with_the_path(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text("größe: ü\n", encoding="utf-8")
    assert read(path) == ({"größe": "ü"}, {("größe",): f"{path}:1"})


def test_byte_order_mark_is_not_part_of_the_first_key(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read(path)[0] == {"a": 1}


@pytest.mark.parametrize(("text", "what"), [("- 1\n", "list"), ("5\n", "int"), ("word\n", "str")])
def test_file_that_is_not_a_mapping(tmp_path, text, what):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"{re.escape(str(path))}: .*mapping.*{what}"):
        read(path)


@pytest.mark.parametrize("content", [b"\xff\xfea", "a: ü".encode("latin-1")])
def test_file_in_another_encoding(tmp_path, content):
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{re.escape(str(path))}: cannot be read as text"):
        read(path)


def test_large_file_is_not_read(tmp_path):
    path = tmp_path / "weights.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: takes no room
    with pytest.raises(ConfigError, match=r"weights\.yaml: not a config"):
        read(path)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        read(tmp_path / "gone.yaml")


# -------------------------------------------------------------------------------------------------
# Writing
# -------------------------------------------------------------------------------------------------
STRINGS = [
    *["", " ", "a", "a b", " a", "a ", "a\n", "\n", "\n\na\n\n", "a\n\nb", "a\tb", "\t", "\r\n"],
    *["5", "010", "0o17", "0x1f", "5e-4", ".5", "5.", "-.inf", ".nan", "1_000", "1:30", "+1"],
    *["true", "FALSE", "no", "yes", "on", "null", "~", "Null", "2020-01-01", "=", "<<"],
    *["- a", "-", "--", "---", "...", "? a", "?", ": a", "a:", "a: b", "a #b", "#", "a#b"],
    *["[", "]", "[a]", "{", "}", "{a: 1}", ",", "a,b", "&a", "*a", "!a", "!!int 5", "|", ">"],
    *["@a", "`a`", "%a", "'", '"', "it's", '"a"', "\\", "\\n", "a\\", "C:\\x", "%YAML 1.1"],
    *["ü", "日本", "😀", "\ufeff", "\xa0", "\u2028", "a\u2029b", "\x00", "\x1b[0m", "\x7f"],
    *["word " * 60, "x" * 300, "line\n" * 40, " indented\n  more\n", "configs/a-b_c.yaml"],
]
NUMBERS = [
    *[0, 1, -1, 2**31, -(2**63), 10**30, 0.0, -0.0, 1.0, 0.1, 5e-4, 1e-5, 1e-6, 1e16, 1e22, 1e300],
    *[5e-324, 1.7976931348623157e308, 3.141592653589793, 1 / 3, INF, -INF, NAN],
]


@pytest.mark.parametrize("value", [*STRINGS, *NUMBERS, None, True, False], ids=ascii)
def test_round_trip_of_a_scalar(value):
    for data in (value, {"key": value}, [value, {"key": [value]}]):
        assert identical(parse(to_yaml(data), "f")[0], data)


@pytest.mark.parametrize("key", STRINGS, ids=ascii)
def test_round_trip_of_a_key(key):
    data = {key: {key: 1}, "other": [{key: []}]}
    assert identical(parse(to_yaml(data), "f")[0], data)


@pytest.mark.parametrize("value", ["\x85", "a\x85b"])
def test_round_trip_of_next_line(value):
    assert parse(to_yaml({"key": value}), "f")[0] == {"key": value}


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        [[], {}, [[]], [{}]],
        {"b": 1, "a": {"d": [], "c": {}}},
        [[1, [2, [3, {"a": [4]}]]], None],
        {"list": [{"name": "A", "sizes": [1, 2]}, {"name": "B"}], "no": "yes"},
        {str(number): number for number in range(50)},
        {"deep": {"deep": {"deep": {"deep": {"deep": [None, True, "true"]}}}}},
    ],
    ids=ascii,
)
def test_round_trip_of_a_tree(data):
    before = copy.deepcopy(data)
    assert identical(parse(to_yaml(data), "f")[0], data)
    assert data == before


def test_same_object_twice_is_written_twice():
    shared = {"a": [1]}
    text = to_yaml({"x": shared, "y": [shared, shared]})
    assert not re.search(r"[&*]", text)
    assert parse(text, "f")[0] == {"x": {"a": [1]}, "y": [{"a": [1]}, {"a": [1]}]}


def test_tuples_are_written_as_lists():
    assert parse(to_yaml({"a": (1, (2, 3))}), "f")[0] == {"a": [1, [2, 3]]}


def test_text_is_readable_without_escapes():
    assert to_yaml({"größe": "groß", "no": "on"}) == "größe: groß\nno: on\n"
