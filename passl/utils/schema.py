"""A constructor's signature is the schema of its config node.

The options of a class or function are its keyword-only arguments; the code passes what stands
before them. An annotation gives type and range, and pydantic checks it: `p: Probability`,
`depth: PositiveInt | None`. Rules between several options are the static method `check_options` of
the class, which raises a ValueError.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, reduce, wraps
from operator import or_
from os import PathLike, fspath
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import Strict, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from passl.errors import ConfigError
from passl.utils.config import closest, dotted
from passl.utils.yaml import Keys

T = TypeVar("T", bound=Callable)
REQUIRED = inspect.Parameter.empty
Problem = tuple[Keys, str]
"""The place of a value, and what is wrong with it."""
Check = Callable[..., object]
"""Takes options by name and raises a ValueError for values that do not go together."""


@dataclass(frozen=True)
class Option:
    """One option of an entry: its type, also in words, and its default, or REQUIRED."""

    annotation: Any
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @cached_property
    def words(self) -> str:
        """The type in words: `PositiveInt | None` is "a whole number of at least 1, or null"."""
        try:
            return _words(self._adapter.json_schema()) if self._adapter is not None else "anything"
        except PydanticInvalidForJsonSchema:  # a function or an object, which no config can give
            return inspect.formatannotation(self.annotation)

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, or None. A whole number is a number, but true, false and text
        are not.
        """
        if self._adapter is None:
            return None
        try:
            self._adapter.validate_python(value)
        except ValidationError as error:
            for own in error.errors(include_url=False, include_input=False):
                if own["type"] == "value_error":  # from a validator in the annotation
                    return str(own["ctx"]["error"])
            words = self.words
            if "anything" in words:  # a type that no config can give, such as type[Layer]
                words = inspect.formatannotation(self.annotation)
            if isinstance(value, float) and not math.isfinite(value):
                words = words.replace("a number", "a finite number")
            return f"must be {words}, not {_shown(value)}"
        return None

    def problems(self, data: Any, keys: Keys = ()) -> Iterator[Problem]:
        rule = self.problem(data)
        if rule is not None:
            yield keys, rule

    @cached_property
    def _adapter(self) -> TypeAdapter | None:
        """None for a class that pydantic does not know, such as a user's own: any value fits."""
        try:
            return TypeAdapter(_strict(self.annotation))
        except PydanticSchemaGenerationError:
            return None


@cache
def options_of(target: Callable) -> Mapping[str, Option]:
    """The options of a class, dataclass or function, by name.

    Raises:
        ValueError: an annotation cannot be evaluated.
    """
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)  # type: ignore[misc]
    names = getattr(function, "__globals__", {})
    options = {}
    for p in inspect.signature(target).parameters.values():
        if p.kind is not p.KEYWORD_ONLY:
            continue
        annotation = Any if p.annotation is p.empty else p.annotation
        holder: Any = SimpleNamespace(__annotations__={p.name: annotation})
        try:
            hints = get_type_hints(holder, names, include_extras=True)
        except NameError as error:
            raise ValueError(
                f"{target.__name__}: the annotation of {p.name}, {annotation}, cannot be "
                f"evaluated: {error}; import what it names at the top of the module"
            ) from None
        options[p.name] = Option(hints[p.name], p.default)
    return options


def validated(target: T) -> T:
    """A decorator: the class or function checks its options on each call, also a direct one. A path
    object is taken for its text.

    Raises:
        ConfigError: on a call, everything that is wrong with the options.
    """
    section = section_of(target)
    needed = {name for name, option in section.options.items() if option.required}
    call: Any = target.__init__ if inspect.isclass(target) else target  # type: ignore[misc]

    @wraps(call)
    def checked(*given: Any, **arguments: Any) -> Any:
        arguments = {k: fspath(v) if isinstance(v, PathLike) else v for k, v in arguments.items()}
        if needed <= arguments.keys() <= section.options.keys():  # else Python's TypeError
            problems = section.problems(arguments)
            lines = [f"{dotted((target.__name__, *keys))}: {rule}" for keys, rule in problems]
            if lines:
                raise ConfigError(*lines)
        return call(*given, **arguments)

    if not section.options:
        return target
    if not inspect.isclass(target):
        return checked  # type: ignore[return-value]
    target.__init__ = checked  # type: ignore[misc,method-assign]
    return target


# --------------------------------------------------------------------------------------------------
# Sections
# --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Section:
    """A mapping.

    Args:
        options: its keys, each an Option, Section, Choice or Many.
        required: whether the section itself must be there.
        check: for the values together.
    """

    options: Mapping[str, Any]
    required: bool = True
    check: Check | None = None

    def problems(self, data: Any, keys: Keys = ()) -> Iterator[Problem]:
        """Everything that is wrong with the data."""
        if not isinstance(data, Mapping):
            yield keys, _no_mapping(data, self.required)
            return
        problems = list(_problems_in_keys(self.options, data, keys, "a key"))
        yield from problems or _problems_between(self.options, data, keys, self.check)


def _no_mapping(data: Any, required: bool) -> str:
    out = "" if required or data is not None else "; leave it out (null removes an inherited one)"
    return f"must be a mapping, not {_shown(data)}{out}"


def section_of(target: Callable, required: bool = False) -> Section:
    """The section whose keys are the options of a class."""
    return Section(options_of(target), required, getattr(target, "check_options", None))


@dataclass(frozen=True)
class Choice:
    """A mapping whose `name` selects an entry of a registry; other keys are the entry's options.

    Args:
        registry: has `kind`, `names()` and `get(name)`.
        more: keys that every entry has here.
        required: whether the mapping must be there.
        check: for the values of `more` together.
        derived: options that may be left out, or null, since the code derives them.
    """

    registry: Any
    more: Mapping[str, Any] = field(default_factory=dict)
    required: bool = True
    check: Check | None = None
    derived: Sequence[str] = ()

    def problems(self, data: Any, keys: Keys = ()) -> Iterator[Problem]:
        if not isinstance(data, Mapping):
            yield keys, _no_mapping(data, self.required)
            return
        kind, names, name = self.registry.kind, self.registry.names(), data.get("name")
        if not isinstance(name, str):
            yield keys, f"needs a name: which {kind}{closest('', names)}"
            return
        if name not in names:
            yield (*keys, "name"), f"there is no {kind} {name!r}{closest(name, names)}"
            return
        own = section_of(self.registry.get(name))
        data = {k: v for k, v in data.items() if v is not None or k not in self.derived}
        allowed = {"name": Option(str), **own.options, **self.more}
        what = f"an option of {name}"
        problems = list(_problems_in_keys(allowed, data, keys, what, self.derived))
        yield from problems
        if not problems:
            if all(key in data for key in self.derived):
                yield from _problems_between(own.options, data, keys, own.check)
            yield from _problems_between(self.more, data, keys, self.check)


@dataclass(frozen=True)
class Many:
    """A list of mappings of one kind."""

    item: Any
    required: bool = True

    def problems(self, data: Any, keys: Keys = ()) -> Iterator[Problem]:
        if not isinstance(data, list | tuple):
            yield keys, f"must be a list, not {_shown(data)}"
            return
        for index, item in enumerate(data):
            yield from self.item.problems(item, (*keys, index))


def _problems_in_keys(
    allowed: Mapping[str, Any], data: Mapping, keys: Keys, what: str, derived: Sequence[str] = ()
) -> Iterator[Problem]:
    """Unknown keys, wrong values and missing keys. `what` says what a key is, for messages."""
    for key, value in data.items():
        if key in allowed:
            yield from allowed[key].problems(value, (*keys, key))
        else:
            yield (*keys, key), f"{key!r} is not {what}{closest(str(key), list(allowed))}"
    for key, spec in allowed.items():
        if spec.required and key not in data and key not in derived:
            yield keys, f"{dotted((*keys, key))} is missing"


def _problems_between(
    options: Mapping[str, Any], data: Mapping, keys: Keys, check: Check | None
) -> Iterator[Problem]:
    """The error of a check, which gets the values and the defaults of missing ones."""
    try:
        if check is not None:
            check(**{k: data.get(k, getattr(spec, "default", None)) for k, spec in options.items()})
    except ValueError as error:
        yield keys, str(error)


# --------------------------------------------------------------------------------------------------
# Types
# --------------------------------------------------------------------------------------------------
def _strict(annotation: Any) -> Any:
    """The annotation without pydantic's conversions of scalars, such as of '1' to 1. Lists and
    tuples stay interchangeable, since YAML has only lists.
    """
    if annotation in (bool, int, float, str):
        return Annotated[annotation, Strict()]
    origin, parts = get_origin(annotation), get_args(annotation)
    if not parts or origin in (Literal, Callable):
        return annotation
    if origin is Annotated:
        return Annotated[(_strict(parts[0]), *parts[1:])]  # type: ignore[return-value]
    parts = tuple(map(_strict, parts))
    return reduce(or_, parts) if origin in (Union, UnionType) else origin[parts]


_WORDS = {
    "boolean": ("true or false", "trues and falses"),
    "integer": ("a whole number", "whole numbers"),
    "null": ("null", "nulls"),
    "number": ("a number", "numbers"),
    "object": ("a mapping", "mappings"),
    "string": ("text", "texts"),
}


def _words(schema: Mapping[str, Any], many: bool = False) -> str:
    """A JSON schema in words, in the singular or the plural."""
    if "description" in schema:
        return schema["description"]
    if "anyOf" in schema:
        texts = dict.fromkeys(_words(part, many) for part in schema["anyOf"])
        return (" or " if many else ", or ").join(texts)
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ("one of " if len(values) > 1 else "") + ", ".join(map(str, values))
    if schema.get("type") == "array":
        return _words_of_list(schema, many)
    if schema.get("type") not in _WORDS:
        return "values" if many else "anything"
    return _WORDS[schema["type"]][many] + _range(schema)


def _words_of_list(schema: Mapping[str, Any], many: bool) -> str:
    items = schema.get("prefixItems") or [schema.get("items", {})]
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    count = f"{least} " if least == most else ""
    same = all(item == items[0] for item in items)
    each = _words(items[0], many=True) if same else ", ".join(map(_words, items))
    text = f"{'lists' if many else 'a list'} of {count if same else ''}{each}"
    return f"{text}, at least {least} of them" if least and least != most else text


def _range(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if above is not None and schema["type"] == "integer":
        low, above = above + 1, None
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    start = f"above {above:g}" if above is not None else ""
    start = f"of at least {low:g}" if low is not None else start
    end = f"below {below:g}" if below is not None else ""
    end = f"{'' if start else 'of '}at most {high:g}" if high is not None else end
    return " ".join(["", *filter(None, [start, "and" if start and end else "", end])])


def _shown(value: Any) -> str:
    """A value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        texts = ", ".join(map(_shown, value))
        return f"[{texts}]" if len(value) <= 6 else f"a list of {len(value)}"
    return repr(value)
