"""A constructor's signature is the schema of its config node.

Signatures are read from the source text, not from the imported class: checking a config must not
import paddle, which takes seconds. Only keyword-only arguments belong to the config; what comes
before them is given by the code that builds.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from passl.utils.config import closest, dotted
from passl.utils.yaml import Keys

REQUIRED = object()
Problem = tuple[Keys, str]
"""Where a value stands, and what is wrong with it."""
Rule = Callable[..., object]


@dataclass(frozen=True)
class Parameter:
    """One key of a node.

    Args:
        annotation: the type as written, `Sequence[int] | None`.
        default: its value, or REQUIRED. A default that is no literal is None here.
    """

    annotation: str
    default: Any = REQUIRED


Signature = Mapping[str, Parameter]


@cache
def read_signature(location: str) -> Signature:
    """The keyword-only parameters of "package.module:Name", a class, dataclass or function, without
    importing it.
    """
    module, _, name = location.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, location
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _of_function(node)
        if isinstance(node, ast.ClassDef) and node.name == name:
            inits = [
                item
                for item in node.body
                if isinstance(item, ast.FunctionDef) and item.name == "__init__"
            ]
            return _of_function(inits[0]) if inits else _of_fields(node)
    raise AssertionError(f"{location} is not defined in {spec.origin}")


def signature_of(target: Callable) -> Signature:
    """The same for a class or function that is imported already."""
    parameters = inspect.signature(target).parameters.values()
    return {
        p.name: Parameter(_text(p.annotation), REQUIRED if p.default is p.empty else p.default)
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    }


def _of_function(node: ast.FunctionDef) -> Signature:
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {
        arg.arg: Parameter(_unparse(arg.annotation), _default(default)) for arg, default in pairs
    }


def _of_fields(node: ast.ClassDef) -> Signature:
    return {
        item.target.id: Parameter(_unparse(item.annotation), _default(item.value))
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and "ClassVar" not in ast.unparse(item.annotation)
    }


def _unparse(annotation: ast.expr | None) -> str:
    return "Any" if annotation is None else ast.unparse(annotation)


def _text(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return "Any"
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text).replace("NoneType", "None")  # no module names


def _default(node: ast.expr | None) -> Any:
    if node is None:
        return REQUIRED
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


# --------------------------------------------------------------------------------------------------
# Sections: what may stand where
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Section:
    """A mapping with these keys: parameters (plain values) or further sections.

    Args:
        keys: key -> Parameter, Section, Choice or Many.
        required: whether the section itself must be there.
        rule: called with the values by name, and raises a ValueError for what is wrong with them.
    """

    keys: Mapping[str, Any]
    required: bool = True
    rule: Rule | None = None


@dataclass(frozen=True)
class Choice:
    """A mapping whose `name` picks an entry of a registry; its other keys are that entry's
    parameters.

    Args:
        registry: has `kind`, `names()`, `signature(name)` and `rule(name)`.
        more: keys that belong to the place and not to the entry.
        rule: for the values of these keys, as of a Section.
    """

    registry: Any
    more: Mapping[str, Any] = field(default_factory=dict)
    required: bool = True
    rule: Rule | None = None


@dataclass(frozen=True)
class Many:
    """A list of mappings of one kind."""

    item: Any
    required: bool = True


def problems_in(spec: Any, data: Any, keys: Keys = ()) -> Iterator[Problem]:
    """Everything in `data` that the spec does not allow."""
    if isinstance(spec, Parameter):
        if not fits(spec.annotation, data):
            yield keys, f"must be {describe(spec.annotation)}, not {_shown(data)}"
    elif isinstance(spec, Many):
        if not isinstance(data, list | tuple):
            yield keys, f"must be a list, not {_shown(data)}"
        else:
            for index, item in enumerate(data):
                yield from problems_in(spec.item, item, (*keys, index))
    elif not isinstance(data, Mapping):
        yield keys, f"must be a mapping, not {_shown(data)}"
    elif isinstance(spec, Choice):
        yield from _problems_in_choice(spec, data, keys)
    else:
        yield from _problems_in_keys(spec.keys, data, keys, "a key", (spec.rule, spec.keys))


def _problems_in_choice(spec: Choice, data: Mapping, keys: Keys) -> Iterator[Problem]:
    kind, names = spec.registry.kind, spec.registry.names()
    name = data.get("name")
    if not isinstance(name, str):
        yield keys, f"needs a name: which {kind}{closest('', names)}"
    elif name not in names:
        yield (*keys, "name"), f"there is no {kind} {name!r}{closest(name, names)}"
    else:
        signature = spec.registry.signature(name)
        allowed = {"name": Parameter("str"), **signature, **spec.more}
        rules = (spec.registry.rule(name), signature), (spec.rule, spec.more)
        yield from _problems_in_keys(allowed, data, keys, f"an option of {name}", *rules)


def _problems_in_keys(
    allowed: Mapping[str, Any],
    data: Mapping,
    keys: Keys,
    what: str,
    *rules: tuple[Rule | None, Mapping[str, Any]],
) -> Iterator[Problem]:
    """What is wrong with keys and values; where nothing is, what the rules say.

    Args:
        what: what a key is, for messages.
        rules: each with the keys whose values it takes.
    """
    problems: list[Problem] = []
    for key, value in data.items():
        if key in allowed:
            problems += problems_in(allowed[key], value, (*keys, key))
        else:
            rule = f"{key!r} is not {what}{closest(str(key), list(allowed))}"
            problems.append(((*keys, key), rule))
    for key, spec in allowed.items():
        if key not in data and _is_required(spec):
            problems.append((keys, f"{dotted((*keys, key))} is missing"))
    yield from problems
    for check, own in rules if not problems else ():
        try:
            if check is not None:
                check(**{key: data.get(key, _default_of(spec)) for key, spec in own.items()})
        except ValueError as error:
            yield keys, str(error)


def _default_of(spec: Any) -> Any:
    return spec.default if isinstance(spec, Parameter) else None


def _is_required(spec: Any) -> bool:
    return spec.default is REQUIRED if isinstance(spec, Parameter) else spec.required


# --------------------------------------------------------------------------------------------------
# Types, as annotations write them
# --------------------------------------------------------------------------------------------------
_PLAIN: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "Any": ("anything", lambda value: True),
    "None": ("null", lambda value: value is None),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "float": (
        "a number",
        lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    ),
    "str": ("text", lambda value: isinstance(value, str)),
    "Mapping": ("a mapping", lambda value: isinstance(value, Mapping)),
    "dict": ("a mapping", lambda value: isinstance(value, Mapping)),
    "Sequence": ("a list", lambda value: isinstance(value, list | tuple)),
    "list": ("a list", lambda value: isinstance(value, list | tuple)),
    "tuple": ("a list", lambda value: isinstance(value, list | tuple)),
}
_PLURAL = {
    "whole number": "whole numbers",
    "number": "numbers",
    "true or false": "trues and falses",
    "text": "texts",
}


def fits(annotation: str, value: Any) -> bool:
    """Whether a value of a config is of the annotated type. A whole number is a number; true and
    false are none.
    """
    return _fits(ast.parse(annotation, mode="eval").body, value)


def _fits(node: ast.expr, value: Any) -> bool:
    if isinstance(node, ast.BinOp):  # a | b
        return _fits(node.left, value) or _fits(node.right, value)
    if not isinstance(node, ast.Subscript):
        return _plain(node)[1](value)
    head, items = ast.unparse(node.value), _items(node.slice)
    if head == "Literal":
        return value in [ast.literal_eval(item) for item in items]
    if head in ("Optional", "Union"):
        return any(_fits(item, value) for item in items) or (head == "Optional" and value is None)
    if head in ("Mapping", "dict"):
        return isinstance(value, Mapping)
    if head not in ("Sequence", "list", "tuple"):  # a type of a user's own
        return True
    if not isinstance(value, list | tuple):
        return False
    if head == "tuple" and ast.unparse(items[-1]) != "...":  # one type for each place
        pairs = zip(items, value, strict=False)
        return len(value) == len(items) and all(_fits(item, part) for item, part in pairs)
    return all(_fits(items[0], part) for part in value)


def _plain(node: ast.expr) -> tuple[str, Callable[[Any], bool]]:
    """Of a type that is not known, such as a user's own, any value fits."""
    return _PLAIN.get(ast.unparse(node), _PLAIN["Any"])


def describe(annotation: str) -> str:
    """The annotated type in words: `Sequence[int] | None` is "a list of whole numbers, or null"."""
    return _describe(ast.parse(annotation, mode="eval").body)


def _describe(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp):
        return f"{_describe(node.left)}, or {_describe(node.right)}"
    if not isinstance(node, ast.Subscript):
        return _plain(node)[0]
    head, items = ast.unparse(node.value), _items(node.slice)
    if head == "Literal":
        return "one of " + ", ".join(str(ast.literal_eval(item)) for item in items)
    if head in ("Optional", "Union"):
        return ", or ".join([*map(_describe, items), *(["null"] if head == "Optional" else [])])
    if head in ("Mapping", "dict"):
        return "a mapping"
    each = [_describe(item) for item in items if ast.unparse(item) != "..."]
    if len(set(each)) > 1:
        return f"a list of {', '.join(each)}"
    many = _PLURAL.get(each[0].removeprefix("a "), f"items, each {each[0]}")
    fixed = head == "tuple" and len(each) == len(items)
    return f"a list of {len(each)} {many}" if fixed else f"a list of {many}"


def _items(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return (
            f"[{', '.join(map(_shown, value))}]" if len(value) <= 6 else f"a list of {len(value)}"
        )
    return repr(value)
